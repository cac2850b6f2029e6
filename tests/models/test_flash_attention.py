"""The flash kernels agree with plain products, forward and backward, under every kind of mask."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    SCALE,
    assert_equals_plain,
    output_and_gradients,
    packed_mask,
    random_mask,
    random_qkv,
    windowed_mask,
)
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfrew.mesh import sharding
from selfrew.models import attention, flash_attention

# Relative to the largest value: float32 sums in another order; two steps between neighbouring
# bfloat16 numbers, each at most 2⁻⁷.
FLOAT32, BFLOAT16 = 1e-5, 2**-6


def _attend(mask, **options):
    """Attention as a compiled function of q, k and v."""

    @jax.jit
    def attend(*qkv):
        return attention.attend(*qkv, mask, scale=SCALE, **options)

    return attend


def test_a_padding_token_sees_itself_alone():
    qkv, _ = random_qkv(2, 5, 4, 2, 16)
    q, k, v, mask = flash_attention.pad_tokens(8, *qkv, random_mask(2, 5))
    assert (q.shape[1], k.shape[3], v.shape[2]) == (8, 8, 8)
    np.testing.assert_array_equal(mask[:, :5, :5], random_mask(2, 5))
    expected = np.broadcast_to(np.eye(8, dtype=bool)[5:], (2, 3, 8))
    np.testing.assert_array_equal(mask[:, 5:], expected)
    assert not mask[:, :5, 5:].any()


@pytest.mark.parametrize(
    'L, make_mask, K, softcap',
    [
        (96, packed_mask, 2, None),  # a block with padding
        (160, windowed_mask, 1, 2.0),
        (160, random_mask, 4, None),
        (640, packed_mask, 2, 2.0),  # five blocks each way, many of them empty
    ],
)
def test_splash_equals_plain_products(L, make_mask, K, softcap):
    qkv, cotangent = random_qkv(2, L, 4, K, 16)
    mask = make_mask(2, L)
    splash = _attend(mask, softcap=softcap, backend='splash')
    actual = output_and_gradients(splash, qkv, cotangent)
    assert_equals_plain(actual, qkv, cotangent, mask, FLOAT32, softcap=softcap)


@pytest.mark.parametrize(
    'R, K, shard', [(4, 2, (1, 96, 32)), (4, 1, (1, 96, 64)), (2, 2, (2, 96, 32))]
)
def test_splash_on_a_mesh_equals_plain_products(R, K, shard):
    """Rows over fsdp, heads over tensor; one key head, or two rows, stay whole."""
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    qkv, cotangent = random_qkv(R, 96, 4, K, 16)
    mask = packed_mask(R, 96)
    splash = _attend(mask, softcap=2.0, backend='splash', mesh=mesh)
    actual = output_and_gradients(splash, qkv, cotangent)
    assert actual[0].sharding.shard_shape(actual[0].shape) == shard
    assert_equals_plain(actual, qkv, cotangent, mask, FLOAT32, softcap=2.0)


needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason='wants eight devices')


@pytest.mark.parametrize(
    'L, K, is_meshed',
    [(96, 2, False), (97, 1, False), pytest.param(96, 2, True, marks=needs_eight)],
)
def test_what_is_handed_to_cudnn_is_plain_attention(monkeypatch, L, K, is_meshed):
    """Layout, groups, mask and padding, with jax's own plain implementation as the kernel."""
    original = jax.nn.dot_product_attention

    def plain(*args, **options):
        assert options.pop('implementation') == 'cudnn'
        return original(*args, **options, implementation='xla')

    monkeypatch.setattr(jax.nn, 'dot_product_attention', plain)
    mesh = sharding.make_mesh(fsdp=4, tensor=2) if is_meshed else None
    qkv, cotangent = random_qkv(4, L, 4, K, 16, jnp.bfloat16)
    mask = packed_mask(4, L)
    cudnn = _attend(mask, backend='cudnn', mesh=mesh)
    actual = output_and_gradients(cudnn, qkv, cotangent)
    assert_equals_plain(actual, qkv, cotangent, mask, BFLOAT16)


@pytest.mark.parametrize(
    'L, is_meshed', [(96, False), (97, False), pytest.param(96, True, marks=needs_eight)]
)
def test_cudnn_lowers_for_cuda_without_a_gpu(monkeypatch, L, is_meshed):
    version = types.SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr('jax._src.cudnn.fused_attention_stablehlo.cuda_versions', version)
    mesh = sharding.make_mesh(fsdp=4, tensor=2) if is_meshed else None
    qkv, cotangent = random_qkv(4, L, 4, 2, 64, jnp.bfloat16)
    cudnn = _attend(packed_mask(4, L), backend='cudnn', mesh=mesh)

    def both(*qkv):
        return output_and_gradients(cudnn, qkv, cotangent)

    program = jax.jit(both).trace(*qkv).lower(lowering_platforms=('cuda',)).as_text()
    assert '@__cudnn$fmhaScaleBiasSoftmax(' in program
    assert '@__cudnn$fmhaScaleBiasSoftmaxBackward(' in program


@pytest.mark.skipif(
    jax.default_backend() != 'gpu', reason='needs a GPU; run with JAX_PLATFORMS=cuda'
)
@pytest.mark.parametrize(
    'L, make_mask', [(96, packed_mask), (97, random_mask), (1024, windowed_mask)]
)
def test_cudnn_equals_plain_products(L, make_mask):
    qkv, cotangent = random_qkv(4, L, 4, 2, 64, jnp.bfloat16)
    mask = make_mask(4, L)
    actual = output_and_gradients(_attend(mask, backend='cudnn'), qkv, cotangent)
    assert_equals_plain(actual, qkv, cotangent, mask, 2 * BFLOAT16)


@pytest.mark.slow
def test_splash_compiles_for_a_tpu_and_needs_less_memory(monkeypatch):
    """On a v5e of eight chips that is not there: the real kernels, forward and backward.

    Rows of 2048 tokens.
    """
    pytest.importorskip('libtpu')
    jax.devices()  # reads XLA_FLAGS, as does libtpu, which ends at one that it does not know
    monkeypatch.delenv('XLA_FLAGS')
    monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
    monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # another process may be compiling too
    devices = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x4').devices
    mesh = Mesh(np.array(devices).reshape(1, 4, 2), sharding.AXES)
    R, L, N, K, H = 8, 2048, 32, 8, 128

    def spec(shape, dtype, *axes):
        where = NamedSharding(mesh, PartitionSpec(('data', 'fsdp'), *axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    bf16 = jnp.bfloat16
    q = spec((R, L, N, H), bf16, None, 'tensor')
    k, v = spec((R, K, H, L), bf16, 'tensor'), spec((R, K, L, H), bf16, 'tensor')
    mask, cotangent = spec((R, L, L), bool), spec((R, L, N * H), bf16, None, 'tensor')
    temporary_bytes, kernels = {}, {}
    for backend in ('xla', 'splash'):

        def both(q, k, v, mask, cotangent, backend=backend):
            def attend(*qkv):
                return attention.attend(*qkv, mask, scale=H**-0.5, backend=backend, mesh=mesh)

            return output_and_gradients(attend, (q, k, v), cotangent)

        compiled = jax.jit(both).lower(q, k, v, mask, cotangent).compile()
        temporary_bytes[backend] = compiled.memory_analysis().temp_size_in_bytes
        kernels[backend] = compiled.as_text().count('"tpu_custom_call"')
    print('temporary bytes a chip:', temporary_bytes)
    assert kernels == {'xla': 0, 'splash': 3}  # the forward, dq, dkv
    # Although xla already computes a block of queries at a time.
    assert temporary_bytes['splash'] < temporary_bytes['xla'] / 2
