"""The kernels agree with plain products, forward and backward, under every kind of mask; decode
never reaches them.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfrew.engine import logprobs
from selfrew.mesh import sharding
from selfrew.models import attention

SCALE = 0.3


def _arrays(R, L, N, K, H, dtype=jnp.float32):
    """(q, k, v) and the cotangent of the output."""
    rng = np.random.default_rng(0)
    shapes = (R, L, N, H), (R, K, H, L), (R, K, L, H), (R, L, N * H)
    q, k, v, cotangent = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return (q, k, v), cotangent


def _packed(R, L):
    """Two documents of a prompt and two branches each, another cut in each row, then padding."""
    doc, branch = np.zeros((2, R, L), np.int32)
    for r in range(R):
        cuts = np.linspace(0, L - 5 - 3 * r, 7).astype(int)
        for i, (start, end) in enumerate(zip(cuts, cuts[1:])):
            doc[r, start:end], branch[r, start:end] = 1 + i // 3, i % 3
    return logprobs.attention_mask(
        types.SimpleNamespace(doc=jnp.asarray(doc), branch=jnp.asarray(branch))
    )


def _window(R, L):
    ago = np.arange(L)[:, None] - np.arange(L)[None, :]
    return _packed(R, L) & (ago < 20)[None]


def _random(R, L):
    causal, own = np.tril(np.ones((L, L), bool)), np.eye(L, dtype=bool)
    return jnp.asarray(
        (np.random.default_rng(0).random((R, L, L)) < 0.3) & causal[None] | own[None]
    )


def _both(function, qkv, cotangent):
    """The output and the three gradients."""
    out, back = jax.vjp(function, *qkv)
    return out, *back(cotangent)


def _compare(found, qkv, cotangent, mask, atol, **options):
    plain = jax.jit(lambda *a: attention.attend(*a, mask, scale=SCALE, **options))
    expected = _both(plain, qkv, cotangent)
    for name, one, other in zip(('output', 'q', 'k', 'v'), found, expected):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            *(np.asarray(x, np.float32) for x in (one, other)), atol=atol, err_msg=name
        )


def test_soft_capped_scores_are_by_the_book():
    R, L, N, K, H, cap = 2, 7, 4, 2, 8, 2.0
    (q, k, v), _ = _arrays(R, L, N, K, H)
    mask = _random(R, L)
    score = (
        np.einsum('rtnh,rnhc->rntc', np.float64(q), np.repeat(np.float64(k), N // K, axis=1))
        * SCALE
    )
    weight = np.exp(cap * np.tanh(score / cap)) * np.asarray(mask)[:, None]
    weight /= weight.sum(-1, keepdims=True)
    expected = np.einsum(
        'rntc,rnch->rtnh', weight, np.repeat(np.float64(v), N // K, axis=1)
    ).reshape(R, L, N * H)
    np.testing.assert_allclose(
        attention.attend(q, k, v, mask, scale=SCALE, softcap=cap), expected, atol=1e-5
    )


def test_in_padding_every_query_sees_itself_and_nothing_else():
    qkv, _ = _arrays(2, 5, 4, 2, 16)
    q, k, v, mask = attention._pad(8, *qkv, _random(2, 5))
    assert (q.shape[1], k.shape[3], v.shape[2]) == (8, 8, 8)
    np.testing.assert_array_equal(mask[:, :5, :5], _random(2, 5))
    np.testing.assert_array_equal(
        mask[:, 5:], np.broadcast_to(np.eye(8, dtype=bool)[5:], (2, 3, 8))
    )
    assert not mask[:, :5, 5:].any()


@pytest.mark.parametrize(
    'L, mask, K, softcap',
    [
        (96, _packed, 2, None),  # a block with padding
        (160, _window, 1, 2.0),
        (160, _random, 4, None),
        (640, _packed, 2, 2.0),  # five blocks each way, many of them empty
    ],
)
def test_splash_equals_plain_products(L, mask, K, softcap):
    qkv, cotangent = _arrays(2, L, 4, K, 16)
    mask = mask(2, L)
    splash = jax.jit(
        lambda *a: attention.attend(*a, mask, scale=SCALE, softcap=softcap, backend='splash')
    )
    _compare(_both(splash, qkv, cotangent), qkv, cotangent, mask, 1e-5, softcap=softcap)


@pytest.mark.parametrize(
    'R, K, part', [(4, 2, (1, 96, 32)), (4, 1, (1, 96, 64)), (2, 2, (2, 96, 32))]
)
def test_splash_on_a_mesh_equals_plain_products(R, K, part):
    """Rows over fsdp, heads over tensor; one key head, or two rows, stay whole."""
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    qkv, cotangent = _arrays(R, 96, 4, K, 16)
    mask = _packed(R, 96)
    splash = jax.jit(
        lambda *a: attention.attend(*a, mask, scale=SCALE, softcap=2.0, backend='splash', mesh=mesh)
    )
    found = _both(splash, qkv, cotangent)
    assert found[0].sharding.shard_shape(found[0].shape) == part
    _compare(found, qkv, cotangent, mask, 1e-5, softcap=2.0)


@pytest.mark.parametrize('L, K, meshed', [(96, 2, False), (97, 1, False), (96, 2, True)])
def test_what_is_handed_to_cudnn_is_plain_attention(monkeypatch, L, K, meshed):
    """Layout, groups, mask and padding, with jax's own plain implementation in place of the kernel."""
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn,
        'dot_product_attention',
        lambda *a, **o: plain(*a, **(o | {'implementation': 'xla'})),
    )
    mesh = sharding.make_mesh(fsdp=4, tensor=2) if meshed else None
    qkv, cotangent = _arrays(4, L, 4, K, 16, jnp.bfloat16)
    mask = _packed(4, L)
    cudnn = jax.jit(lambda *a: attention.attend(*a, mask, scale=SCALE, backend='cudnn', mesh=mesh))
    _compare(_both(cudnn, qkv, cotangent), qkv, cotangent, mask, 0.02)


@pytest.mark.parametrize('L, meshed', [(96, False), (97, False), (96, True)])
def test_cudnn_lowers_for_cuda_without_a_gpu(monkeypatch, L, meshed):
    version = types.SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr('jax._src.cudnn.fused_attention_stablehlo.cuda_versions', version)
    mesh = sharding.make_mesh(fsdp=4, tensor=2) if meshed else None
    qkv, cotangent = _arrays(4, L, 4, 2, 64, jnp.bfloat16)
    mask = _packed(4, L)
    cudnn = lambda *a: attention.attend(*a, mask, scale=SCALE, backend='cudnn', mesh=mesh)
    both = jax.jit(lambda *a: _both(cudnn, a, cotangent))
    program = both.trace(*qkv).lower(lowering_platforms=('cuda',)).as_text()
    assert (
        '@__cudnn$fmhaScaleBiasSoftmax(' in program
        and '@__cudnn$fmhaScaleBiasSoftmaxBackward(' in program
    )


@pytest.mark.skipif(
    jax.default_backend() != 'gpu', reason='needs a GPU; run with JAX_PLATFORMS=cuda'
)
@pytest.mark.parametrize('L, mask', [(96, _packed), (97, _random), (1024, _window)])
def test_cudnn_equals_plain_products(L, mask):
    qkv, cotangent = _arrays(4, L, 4, 2, 64, jnp.bfloat16)
    mask = mask(4, L)
    cudnn = jax.jit(lambda *a: attention.attend(*a, mask, scale=SCALE, backend='cudnn'))
    _compare(_both(cudnn, qkv, cotangent), qkv, cotangent, mask, 0.2)


@pytest.mark.parametrize('backend', attention.BACKENDS)
def test_a_cache_and_a_single_token_go_by_plain_products(backend):
    (q, k, v), _ = _arrays(2, 8, 4, 2, 16)
    mask = _random(2, 8)
    whole = attention.attend(q, k, v, mask, scale=SCALE)
    for start, end in ((5, 8), (5, 6), (0, 1)):
        rest = q[:, start:end], k[..., :end], v[:, :, :end], mask[:, start:end, :end]
        found = attention.attend(*rest, scale=SCALE, backend=backend, cached=start > 0)
        np.testing.assert_allclose(found, whole[:, start:end], atol=1e-6)


def test_columns_that_rows_share_are_as_good_as_each_rows_own():
    (q, k, v), _ = _arrays(2, 8, 4, 2, 16)
    k, v = k.at[1, :, :, :5].set(k[0, :, :, :5]), v.at[1, :, :5].set(v[0, :, :5])
    look = lambda *a: attention.attend(q, *a, scale=SCALE, cached=True)
    own = look(k, v, _random(2, 8))
    shared = look(k[..., 5:], v[:, :, 5:], _random(2, 8), {'k': k[0, :, :, :5], 'v': v[0, :, :5]})
    np.testing.assert_allclose(shared, own, atol=1e-6)


@pytest.mark.parametrize(
    'options, named',
    [
        ({'backend': 'flash'}, "no attention 'flash'; there are: xla, cudnn, splash"),
        ({'backend': 'cudnn', 'softcap': 2.0}, "attention='cudnn' has no soft-capping; use xla"),
        ({'backend': 'cudnn'}, "attention='cudnn' computes in bfloat16 or float16, not float32"),
    ],
)
def test_what_a_back_end_cannot_do_is_refused_by_name(options, named):
    qkv, _ = _arrays(1, 8, 4, 2, 16)
    with pytest.raises(ValueError, match=named):
        attention.attend(*qkv, _random(1, 8), scale=SCALE, **options)


@pytest.mark.slow
def test_splash_compiles_for_a_tpu_and_needs_less_memory(monkeypatch):
    """A v5e of eight chips that is not there: the real kernels, forward and backward, 2048 tokens a
    row.
    """
    pytest.importorskip('libtpu')
    from jax.experimental import topologies

    monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
    monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # another process may be compiling too
    devices = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x4').devices
    mesh = Mesh(np.array(devices).reshape(1, 4, 2), sharding.AXES)
    R, L, N, K, H = 8, 2048, 32, 8, 128

    def spec(shape, dtype, *axes):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes))
        )

    rows, bf16 = ('data', 'fsdp'), jnp.bfloat16
    q, cotangent = (
        spec((R, L, N, H), bf16, rows, None, 'tensor'),
        spec((R, L, N * H), bf16, rows, None, 'tensor'),
    )
    k, v = spec((R, K, H, L), bf16, rows, 'tensor'), spec((R, K, L, H), bf16, rows, 'tensor')
    temp, kernels = {}, {}
    for backend in ('xla', 'splash'):

        def both(q, k, v, mask, cotangent, backend=backend):
            attend = lambda *a: attention.attend(
                *a, mask, scale=H**-0.5, backend=backend, mesh=mesh
            )
            return _both(attend, (q, k, v), cotangent)

        compiled = jax.jit(both).lower(q, k, v, spec((R, L, L), bool, rows), cotangent).compile()
        temp[backend] = compiled.memory_analysis().temp_size_in_bytes
        kernels[backend] = compiled.as_text().count('"tpu_custom_call"')
    print('temporary bytes a chip:', temp)
    assert kernels == {'xla': 0, 'splash': 3}  # the forward, dq, dkv
    assert temp['splash'] < temp['xla'] / 2  # which looks at a block of queries at a time


def _paged_case(S=8, B=3, W=4, P=20, parts=1):
    """Samples of 0 to 11 tokens in pages that lie anyhow; and the same in one stretch each."""
    rng = np.random.default_rng(1)
    filled = rng.integers(0, B * W, S).astype(np.int32)
    table, owner, place = (
        np.zeros((S, B), np.int32),
        np.zeros(P * parts, np.int32),
        np.zeros(P * parts, np.int32),
    )
    for part in range(parts):
        free = iter(rng.permutation(np.arange(1, P)))
        for s in range(part * S // parts, (part + 1) * S // parts):
            for b in range(filled[s] // W + 1):
                table[s, b] = next(free)
                owner[part * P + table[s, b]], place[part * P + table[s, b]] = s % (S // parts), b
    return attention.Pages(table, owner, place, filled)


@pytest.mark.parametrize(
    'mesh, softcap, common, window',
    [
        ({}, None, 0, 99),
        ({}, 2.0, 5, 99),
        ({'tensor': 2, 'fsdp': 4}, None, 5, 99),
        ({'data': 2}, 1.0, 0, 6),
    ],
    ids=str,
)
def test_pages_give_what_one_stretch_gives(mesh, softcap, common, window):
    """A token of each of 8 samples, with 2 layers, of which the second is asked; what is nobody's
    is never seen.
    """
    S, N, K, H, W, B, layers = 8, 4, 2, 8, 4, 3, 2
    parts = 1 if not mesh else mesh.get('fsdp', 1) * mesh.get('data', 1)
    pages, rng = _paged_case(parts=parts), np.random.default_rng(2)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    q, new = draw(S, 1, N, H), {'k': draw(S, K, H, 1), 'v': draw(S, K, 1, H)}
    cache = {'k': draw(layers, 20 * parts, K, H, W), 'v': draw(layers, 20 * parts, K, W, H)}
    shared = {'k': draw(K, H, common), 'v': draw(K, common, H)} if common else None
    at = np.arange(common + B * W)
    last = common + pages.filled[:, None]
    mask = ((at <= last) & (at > last - window))[:, None]
    mesh = (
        sharding.make_mesh(**mesh, devices=jax.devices()[: 8 if 'tensor' in mesh else 2])
        if mesh
        else None
    )
    out, after = jax.jit(
        lambda *a: attention.paged_attention(*a, scale=SCALE, softcap=softcap, mesh=mesh)
    )(q, new, cache, 1, pages, mask, shared)
    k, v = np.zeros((S, K, H, B * W), np.float32), np.zeros((S, K, B * W, H), np.float32)
    for s in range(S):
        for b in range(pages.filled[s] // W + 1):
            page = s // (S // parts) * 20 + pages.table[s, b]
            k[s, :, :, b * W : (b + 1) * W], v[s, :, b * W : (b + 1) * W] = (
                cache[name][1, page] for name in 'kv'
            )
        k[s, :, :, pages.filled[s]], v[s, :, pages.filled[s]] = (
            new['k'][s, :, :, 0],
            new['v'][s, :, 0],
        )
        page, column = (
            s // (S // parts) * 20 + pages.table[s, pages.filled[s] // W],
            pages.filled[s] % W,
        )
        assert (np.asarray(after['k'])[1, page, :, :, column] == new['k'][s, :, :, 0]).all()
        assert (np.asarray(after['v'])[1, page, :, column] == new['v'][s, :, 0]).all()
    np.testing.assert_array_equal(after['k'][0], cache['k'][0])
    expected = attention.attend(q, k, v, mask, shared, scale=SCALE, softcap=softcap, cached=True)
    np.testing.assert_allclose(out, expected, atol=2e-6)
