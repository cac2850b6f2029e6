"""The text of a compiled module is read as what it does: cycles, collectives, bytes received."""

import re

from selfrew.plan import hlo

# Words in capitals stand for attributes, see ATTRIBUTES.
TEMPLATE = """HloModule jit_step, is_scheduled=true

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%a, %b)
}

%all-reduce-scatter.3 (input: bf16[8,1024]) -> bf16[8,256] {
  %all-reduce.9 = bf16[8,1024]{1,0} all-reduce(%input), channel_id=7, GROUP, to_apply=%region_0.1
  ROOT %slice.1 = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%all-reduce.9, %c, %c)
}

%async_fusion.1 (p: bf16[128,64]) -> bf16[512,64] {
  ROOT %all-gather.5 = bf16[512,64]{1,0} all-gather(%p), channel_id=9, IOTA, dimensions={0}
}

%body.1 (t: (s32[], f32[16])) -> (s32[], f32[16]) {
  %f.1 = f32[16]{0:T(128)S(1)} fusion(%x), calls=%fused.1, backend_config={"estimated_cycles":"100"}
  %f.2 = bf16[8,256]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
  %g.1 = bf16[512,64]{1,0} fusion(%y), kind=kCustom, calls=%async_fusion.1
  %g.2 = bf16[512,64]{1,0} fusion(%y), kind=kCustom, calls=%async_fusion.1
  %sort.1 = (f32[16]{0}, s32[16]{0}) sort(%f.1, %n), dimensions={0}, to_apply=%region_0.1
  ROOT %tuple.1 = (s32[], f32[16]) tuple(%n, %f.1)
}

%cond.1 (t: (s32[], f32[16])) -> pred[] {
  %constant.4 = s32[]{:T(128)} constant(80)
  ROOT %lt.1 = pred[] compare(%i, %constant.4), direction=LT
}

ENTRY %main.1 (p: f32[16]) -> f32[16] {
  %f.9 = f32[16]{0} fusion(%p), calls=%fused.9, backend_config={"estimated_cycles":"7"}
  %while.1 = (s32[]{:T(128)}, f32[16]{0}) while(%tuple.9), condition=%cond.1, body=%body.1
  %permute.1 = (f32[1000]{0}, f32[1000]{0}, u32[], u32[]) collective-permute-start(%f.9), PAIRS
  %permute.2 = f32[1000]{0} collective-permute-done(%permute.1)
  ROOT %sum.1 = (f32[16]{0}, f32[4]{0}) all-reduce(%f.9, %f.8), MESH
}
"""
ATTRIBUTES = {
    'GROUP': 'replica_groups={{0,1,2,3}}',
    'IOTA': 'replica_groups=[2,4]<=[8]',
    'PAIRS': 'source_target_pairs={{0,1}}',
    'MESH': "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}",
}
MODULE = re.sub('|'.join(ATTRIBUTES), lambda match: ATTRIBUTES[match[0]], TEMPLATE)


def test_loops_count_as_often_as_they_run_and_collectives_once_where_they_start():
    module = hlo.read(MODULE)
    assert module['cycles'] == 7 + 80 * 100
    assert module['unknown'] == module['kernels'] == 0 and module['sorts'] == 80
    assert module['collectives'] == {
        # an all-reduce of which a part is kept
        'reduce-scatter': {'count': 80, 'bytes': 80 * 8 * 256 * 2},
        'all-gather': {'count': 80, 'bytes': 80 * 512 * 64 * 2},  # one channel: one collective
        'collective-permute': {'count': 1, 'bytes': 4000},  # -done adds nothing
        'all-reduce': {'count': 1, 'bytes': 64 + 16},
    }
    # received: 3 parts of 4,096 bytes; 3/4 of what is gathered; the permuted array; twice 3/4 of
    # the sum, over the axis of 4
    assert module['wire'] == 80 * 3 * 4096 + 80 * 0.75 * 65536 + 4000 + 2 * 0.75 * 80


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    module = hlo.read(MODULE.replace('constant(80)', 'parameter(0)'))
    assert module['unknown'] == 1 and module['cycles'] == 107


def test_bytes_of_shapes():
    assert hlo.shape_bytes('bf16[2,3]{1,0:T(8,128)(2,1)S(1)}') == [12]
    assert hlo.shape_bytes('(f32[], pred[5], /*index=2*/s4[8]{0}, f8e4m3fn[3])') == [4, 5, 4, 3]
