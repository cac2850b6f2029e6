"""A plan says what a config needs of a TPU that nobody has: read from what the compiler wrote, and
by arithmetic.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
import toys

from configs import models, self_rewarding
from selfrew.models import decoder, hf
from selfrew.plan import chips, hlo, planner
from selfrew.shelves import scorers

ROOT = pathlib.Path(__file__).parents[2]

MODULE = """HloModule jit_step, is_scheduled=true

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%a, %b)
}

%all-reduce-scatter.3 (input: bf16[8,1024]) -> bf16[8,256] {
  %all-reduce.9 = bf16[8,1024]{1,0} all-reduce(%input), channel_id=7, replica_groups={{0,1,2,3}}, to_apply=%region_0.1
  ROOT %slice.1 = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%all-reduce.9, %c, %c)
}

%async_fusion.1 (p: bf16[128,64]) -> bf16[512,64] {
  ROOT %all-gather.5 = bf16[512,64]{1,0} all-gather(%p), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
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
  %permute.1 = (f32[1000]{0}, f32[1000]{0}, u32[], u32[]) collective-permute-start(%f.9), source_target_pairs={{0,1}}
  %permute.2 = f32[1000]{0} collective-permute-done(%permute.1)
  ROOT %sum.1 = (f32[16]{0}, f32[4]{0}) all-reduce(%f.9, %f.8), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}
}
"""


def test_loops_are_counted_as_often_as_they_run_and_collectives_once_where_they_start():
    found = hlo.read(MODULE)
    assert found['cycles'] == 7 + 80 * 100 and found['unknown'] == 0 and found['untimed'] == 80
    assert found['collectives'] == {
        'reduce-scatter': {
            'count': 80,
            'bytes': 80 * 8 * 256 * 2,
        },  # an all-reduce of which a part is kept
        'all-gather': {'count': 80, 'bytes': 80 * 512 * 64 * 2},  # one channel: one collective
        'collective-permute': {'count': 1, 'bytes': 4000},  # -done adds nothing
        'all-reduce': {'count': 1, 'bytes': 64 + 16},
    }
    # received: 3 parts of 4,096 bytes; 3/4 of what is gathered; the permuted; twice 3/4 of the sum,
    # over the axis of 4
    assert found['wire'] == 80 * 3 * 4096 + 80 * 0.75 * 65536 + 4000 + 2 * 0.75 * 80


def test_a_loop_of_unknown_length_is_counted_once_and_said():
    found = hlo.read(MODULE.replace('constant(80)', 'parameter(0)'))
    assert found['unknown'] == 1 and found['cycles'] == 107


def test_bytes_of_shapes():
    assert hlo.shape_bytes('bf16[2,3]{1,0:T(8,128)(2,1)S(1)}') == [12]
    assert hlo.shape_bytes('(f32[], pred[5], /*index=2*/s4[8]{0}, f8e4m3fn[3])') == [4, 5, 4, 3]


@pytest.mark.parametrize(
    ('name', 'kind', 'shape'),
    [
        ('v5p:8x8x4', 'v5p', '8x8x4'),
        ('v5p-8', 'v5p', '2x2x1'),
        ('v5p-16', 'v5p', '2x2x2'),
        ('v5p-512', 'v5p', '4x8x8'),
        ('v4-16', 'v4', '2x2x2'),
        ('v5e-8', 'v5e', '2x4'),
        ('v5litepod-8', 'v5e', '2x4'),
        ('v6e-16', 'v6e', '4x4'),
        ('v6e:4x4', 'v6e', '4x4'),
        ('v5e-1', 'v5e', '1x1'),
    ],
)
def test_topologies_by_shape_and_by_the_name_they_are_rented_by(name, kind, shape):
    assert chips.topology(name) == (kind, shape)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('v9-8', 'there are: v4, v5e, v5p, v6e'),
        ('v5p', 'v5p:4x4x4'),
        ('', 'no topology'),
        ('v5p-9', 'two a chip'),
        ('v6e-12', 'powers of two'),
        ('v5e:2by4', 'no topology'),
    ],
)
def test_another_topology_is_refused_in_a_sentence(name, words):
    with pytest.raises(ValueError, match=words):
        chips.topology(name)


def test_a_clock_is_what_gives_the_published_peak():
    """FLOP/s = 2 · cores · matrix units a core · 128² · Hz; four units a core."""
    for kind in ('v4', 'v5e', 'v5p'):
        chip = chips.CHIPS[kind]
        assert 2 * chip.cores * 4 * 128**2 * chip.clock == pytest.approx(chip.peak, rel=0.01)


# Of the checkpoints on the hub.
PUBLISHED = {
    'llama2_7b': 6738415616,
    'llama2_13b': 13015864320,
    'llama2_70b': 68976648192,
    'llama3_8b': 8030261248,
    'llama3_1_8b': 8030261248,
    'llama3_70b': 70553706496,
    'llama3_1_70b': 70553706496,
    'qwen2_5_0_5b': 494032768,
    'qwen2_5_1_5b': 1543714304,
    'qwen2_5_3b': 3085938688,
    'qwen2_5_7b': 7615616512,
    'qwen2_5_14b': 14770033664,
    'qwen2_5_32b': 32763876352,
    'qwen2_5_72b': 72706203648,
    'mistral_7b': 7248023552,
    'gemma2_9b': 9241705984,
    'phi3_mini_4k': 3821079552,
    'llama2_7b_chat': 6738415616,
    'llama2_70b_chat': 68976648192,
}


@pytest.mark.parametrize('name', models.PRESETS)
def test_a_preset_has_as_many_parameters_as_the_published_checkpoint(name):
    config = hf.config_of(models.get(name)['shape'], name)
    leaves = jax.tree.leaves(decoder.abstract_params(decoder.make_module(config))[0])
    assert sum(x.size for x in leaves) == PUBLISHED[name]


def test_an_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(ValueError, match='llama2_70b, llama2_7b_chat'):
        models.get('llama9')
    with pytest.raises(ValueError, match='smoke, paper, and'):
        self_rewarding.get_config('llama9')


def test_what_a_round_samples_is_read_off_the_config_without_its_data():
    turn = planner.sampling_turn(self_rewarding.get_config('llama2_70b').to_dict())
    sample, judge = planner.jobs(turn, 500, 4096)
    assert (sample['requests'], sample['prompt'], sample['room']) == (
        7000 * 4,
        512,
        1024,
    )  # a multiple of 32
    assert (sample['distinct'], sample['shared'], sample['slots']) == (7000, 0, 256)
    assert (
        judge['requests'] == 7000 * 4 * 3
        and judge['prompt'] > 500 + 1024
        and judge['distinct'] == 7000 * 4
    )
    meets = functools.partial(scorers.compare, votes=2, template='pairwise', max_tokens=256)
    _, compare = planner.jobs(dataclasses.replace(turn, scorer=meets), 500, 4096)
    assert (
        compare['requests'] == 7000 * 4 * 3 * 2 and compare['distinct'] == 7000 * 4 * 3
    )  # each against each, in both orders
    assert 500 + 2 * 1024 < compare['prompt'] < 500 + 2 * 1024 + 400
    lm = dataclasses.replace(toys.toy()[0], cache_gib=40.0)
    for job in (sample, judge):
        job['layout'] = planner.lay_out(lm, job, chips.CHIPS['v5p'])
    sizes = {
        (job['layout'].slots, job['layout'].prompts, job['layout'].chunk) for job in (sample, judge)
    }
    assert sizes == {(256, 4, 256)}
    assert planner.batch_shape(turn, 512, 1024, 16) == {
        # 512 + 2 · 1,024 tokens: one a row
        'examples': 16,
        'n': 2,
        'micros': 1,
        'rows': 16,
        'length': 4096,
        'selected': 2048,
    }
    found = {
        t: {'seconds': s}
        for t, s in (
            ('sample: prefill', 1.0),
            ('sample: decode', 0.5),
            ('judge: prefill', 2.0),
            ('judge: decode', 0.25),
            ('reference', 3.0),
            ('update', 9.0),
        )
    }
    took = planner.round_seconds(
        turn, [sample, judge], planner.batch_shape(turn, 512, 1024, 16), found
    )
    # 28,000 and 84,000 requests in 256 slots: 110 and 329 to each; 7,000 and 28,000 prompts read by
    # fours, 256 tokens at a time, a judge's rubric once; 16 steps at a time; 7,000 pairs in batches
    # of 16: 438
    chunks = -(-(judge['prompt'] - 1 - judge['shared']) // 256)
    expected = {
        'sample': 1750 * 2 * 1.0 + 110 * 64 * 0.5,
        'judge': (7000 * chunks + 1) * 2.0 + 329 * 16 * 0.25,
        'reference': 438 * 3.0,
        'update': 438 * 9.0,
    }
    assert took == expected | {'round': sum(expected.values())}
    del found['update']
    assert (
        planner.round_seconds(turn, [sample], planner.batch_shape(turn, 512, 1024, 16), found)[
            'round'
        ]
        is None
    )


def test_model_flops_by_hand():
    config = decoder.ModelConfig(
        vocab=10, width=4, layers=2, heads=2, kv_heads=1, head_dim=2, mlp=8, max_length=8
    )
    # 2·3 tokens·100 weights, 2·4·10 at one position, and 4·2 layers·2 heads·2 features for each of
    # 5 columns
    assert planner.model_flops(config, 100, 3, 1, 5) == 600 + 80 + 160


def test_time_is_the_slowest_floor_and_the_collectives():
    chip = chips.CHIPS['v5e']
    base = {'cycles': 1.5e9, 'flops': 0.0, 'touched': 0.0, 'wire': 0.0}  # a second of kernels
    assert chip.seconds(8, **base) == 1.0
    assert chip.seconds(8, **base | {'touched': 2 * 0.819e12, 'wire': 200e9}) == 3.0
    assert chip.seconds(8, **base | {'flops': 4 * 8 * 197e12}) == 4.0


def test_what_does_not_fit_says_what_to_change():
    chip, big = chips.CHIPS['v5e'], {'params': 12 * 2**30}
    found = {
        'update': {'fits': False, 'bytes': big},
        'sample: prefill': {'fits': False, 'bytes': {}},
        'reference': {'fits': True, 'bytes': {}},
    }
    update, sample = planner.advice(found, chip, {'remat': 'none'})
    assert all(
        words in update for words in ('mesh.fsdp', 'params=bfloat16', 'remat=full', 'train.batch')
    )
    assert 'fewer slots (of the sampler)' in sample and 'remat' not in sample


def test_a_report_shows_what_fits_and_what_the_compiler_refused():
    one = {
        'fits': True,
        'bytes': {'params': 2**30},
        'tokens': 8,
        'seconds': 0.5,
        'kernel_seconds': 0.4,
        'untimed': 2,
        'collective_seconds': 0.1,
        'tokens_per_s': 16.0,
        'mfu': 0.25,
        'model_flops': 1e15,
        'compile_seconds': 3.0,
        'collectives': {'all-gather': {'count': 80, 'bytes': 2**31}},
        'unknown_loops': 0,
    }
    refused = {
        'fits': False,
        'bytes': {'params': 2**30},
        'refused': 'Ran out of memory (20G of 15.75G)',
    }
    said = planner.show(
        {
            'model': 'm',
            'parameters': 10,
            'topology': 'v5e:2x4',
            'mesh': {},
            'jax': '1',
            'libtpu': '2',
            'hbm': 15.75,
            'prompt_tokens': 512,
            'programs': {'reference': one, 'update': refused},
            'verdict': 'does not fit; change x',
            'round_seconds': {'reference': 90.0, 'update': None},
        }
    )
    for words in (
        'no: Ran out of memory (20G',
        'all-gather 2.00 (80); 2 sorts or Pallas kernels not timed',
        '25.0%',
        'reference 1.5',
        'update ?',
        'change x',
        'predicted, not measured',
    ):
        assert words in said, said


# --- with the compiler ------------------------------------------------------------------------------------------------

SMALL = """
from configs import base

def get_config(arg=''):
    config = base.get(rounds=1, round={
        'prompts': {'name': 'records', 'source': 'no/such/file.jsonl', 'n': 100},
        'sampler': {'name': 'sample', 'n': 2, 'max_tokens': 32, 'slots': 16},
        'scorer': {'name': 'length'}, 'pairs': {'name': 'extremes'}, 'loss': {'name': 'dpo'},
        'train': {'lr': 1e-6, 'batch': 8, 'row_length': 128},
    }, evals={})
    config.model = {'folder': 'none', 'dtype': 'bfloat16', 'shape': {
        'architectures': ['LlamaForCausalLM'], 'hidden_size': 256, 'intermediate_size': 512, 'num_hidden_layers': 2,
        'num_attention_heads': 2, 'num_key_value_heads': 2, 'vocab_size': 512, 'max_position_embeddings': 256}}
    config.mesh.fsdp = 4
    return config
"""


def _plan(*arguments, cwd=ROOT):
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | {
        'PYTHONPATH': str(ROOT)
    }
    return subprocess.run(
        [sys.executable, '-m', 'selfrew.plan', *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--topology=v5e-8',), 'want --config'),
        (
            ('--config=configs/self_rewarding.py:llama2_70b', '--topology=v7-8'),
            "no topology 'v7-8'",
        ),
    ],
    ids=['config', 'topology'],
)
def test_a_mistake_is_named_without_a_traceback(arguments, words):
    found = _plan(*arguments)
    assert found.returncode != 0 and words in found.stdout + found.stderr
    assert 'Traceback' not in found.stderr


LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='wants pip install -e ".[plan]"'
)


@LIBTPU
def test_a_mesh_that_the_torus_cannot_hold_is_refused_in_a_sentence():
    found = _plan(
        '--config=configs/self_rewarding.py:llama2_70b',
        '--topology=v5p:8x8x4',
        '--config.mesh.tensor=16',
    )
    assert found.returncode == 1 and 'tensor=16 cannot be laid out' in found.stderr
    assert 'Traceback' not in found.stderr


@LIBTPU
@pytest.mark.slow
def test_a_small_model_is_planned_for_eight_chips(tmp_path):
    (tmp_path / 'small.py').write_text(SMALL)
    found = _plan(
        f'--config={tmp_path}/small.py', '--topology=v5e:2x4', '--prompt_tokens=32', '--json'
    )
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert (
        said['devices'] == 8
        and said['mesh']['fsdp'] == 4
        and '4 chips have nothing to do' in said['verdict']
    )
    assert said['fits'] and set(said['programs']) == {
        'sample: prefill',
        'sample: decode',
        'reference',
        'update',
    }
    step = said['programs']['update']
    matrix = 2 * (4 * 256 * 256 + 3 * 256 * 512)  # of both layers: q, k, v, o; gate, up, down
    parts = said['parameters'] * 4 / 4
    assert (
        parts <= step['bytes']['params'] < 1.02 * parts
    )  # float32 over 4 devices; norms are whole on each
    assert step['model_flops'] > 6 * matrix * step['tokens'] and step['unknown_loops'] == 0
    assert step['collectives'] and 0 < step['mfu'] < 1 and said['round_seconds']['round'] > 0
