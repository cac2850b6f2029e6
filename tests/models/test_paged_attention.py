"""Attention over pages gives what it gives over one contiguous cache, on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import SCALE, assert_near
from toys import SMALL

from selfrew.mesh import sharding
from selfrew.models import attention, decoder, paged_attention

S, B, W = 8, 3, 4  # samples, pages that each may have, tokens of a page
N, K, H = 4, 2, 8
P = 20  # pages of each part of the mesh
LAYERS, LAYER = 2, 1


def _random_pages(parts):
    """Samples of 0 to 11 tokens in pages of random places."""
    rng = np.random.default_rng(1)
    filled = rng.integers(0, B * W, S).astype(np.int32)
    table, samples = np.zeros((S, B), np.int32), S // parts
    owner, place = np.zeros((2, P * parts), np.int32)
    for part in range(parts):
        free = iter(rng.permutation(np.arange(1, P)))
        for sample in range(part * samples, (part + 1) * samples):
            for block in range(filled[sample] // W + 1):
                table[sample, block] = next(free)
                page = part * P + table[sample, block]
                owner[page], place[page] = sample % samples, block
    return paged_attention.Pages(table, owner, place, filled)


def _contiguous(cache, new, pages, parts):
    """(k [S K H B·W], v [S K B·W H]) of each sample's tokens, the new one included."""
    k, v = np.zeros((S, K, H, B * W), np.float32), np.zeros((S, K, B * W, H), np.float32)
    for sample, filled in enumerate(pages.filled):
        for block in range(filled // W + 1):
            page = _global_page(pages, sample, block, parts)
            columns = slice(block * W, (block + 1) * W)
            k[sample, :, :, columns] = cache['k'][LAYER, page]
            v[sample, :, columns] = cache['v'][LAYER, page]
        k[sample, :, :, filled] = new['k'][sample, :, :, 0]
        v[sample, :, filled] = new['v'][sample, :, 0]
    return k, v


def _global_page(pages, sample, block, parts):
    return sample // (S // parts) * P + pages.table[sample, block]


def _assert_written(after, cache, new, pages, parts):
    """The new tokens are in this layer's cache, in their places; the other layer is untouched."""
    for sample, filled in enumerate(pages.filled):
        page, column = _global_page(pages, sample, filled // W, parts), filled % W
        np.testing.assert_array_equal(
            after['k'][LAYER, page, :, :, column], new['k'][sample, :, :, 0]
        )
        np.testing.assert_array_equal(after['v'][LAYER, page, :, column], new['v'][sample, :, 0])
    for name in 'kv':
        np.testing.assert_array_equal(after[name][0], cache[name][0])


@pytest.mark.parametrize(
    'axes, softcap, shared, window',
    [
        ({}, None, 0, 99),
        ({}, 2.0, 5, 99),
        ({'tensor': 2, 'fsdp': 4}, None, 5, 99),
        ({'data': 2}, 1.0, 0, 6),
    ],
    ids=str,
)
def test_pages_give_what_a_contiguous_cache_gives(axes, softcap, shared, window):
    """A token of each of 8 samples, in the second of 2 layers; free pages are never seen."""
    parts = axes.get('fsdp', 1) * axes.get('data', 1)
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    mesh = sharding.make_mesh(**axes, devices=devices) if axes else None
    pages, rng = _random_pages(parts), np.random.default_rng(2)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    q, new = draw(S, 1, N, H), {'k': draw(S, K, H, 1), 'v': draw(S, K, 1, H)}
    cache = {'k': draw(LAYERS, P * parts, K, H, W), 'v': draw(LAYERS, P * parts, K, W, H)}
    prefix = {'k': draw(K, H, shared), 'v': draw(K, shared, H)} if shared else None
    column, last = np.arange(shared + B * W), shared + pages.filled[:, None]
    mask = ((column <= last) & (column > last - window))[:, None]

    @jax.jit
    def attend(*args):
        return paged_attention.attend(*args, scale=SCALE, softcap=softcap, mesh=mesh)

    out, after = attend(q, new, cache, LAYER, pages, mask, prefix)
    _assert_written(jax.tree.map(np.asarray, after), cache, new, pages, parts)
    k, v = _contiguous(cache, new, pages, parts)
    expected = attention.attend(q, k, v, mask, prefix, scale=SCALE, softcap=softcap, is_cached=True)
    assert_near(out, expected, 5e-6)


def _case(axes, features):
    """(mesh, pages, q, new, cache) of a random case on a mesh with these axes."""
    parts = axes.get('fsdp', 1) * axes.get('data', 1)
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    mesh = sharding.make_mesh(**axes, devices=devices) if axes else None
    pages, rng = _random_pages(parts), np.random.default_rng(2)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    q, new = draw(S, 1, N, features), {'k': draw(S, K, features, 1), 'v': draw(S, K, 1, features)}
    cache = {
        'k': draw(LAYERS, P * parts, K, features, W),
        'v': draw(LAYERS, P * parts, K, W, features),
    }
    return mesh, pages, q, new, cache


@pytest.mark.parametrize(
    'axes, softcap, window, dtype',
    [
        ({}, None, None, 'float32'),
        ({'data': 2, 'tensor': 2}, 2.0, 6, 'float32'),
        ({'fsdp': 2}, None, 6, 'float32'),
        ({}, None, None, 'float8_e4m3fn'),
    ],
    ids=str,
)
def test_the_kernel_gives_what_plain_products_give(
    interpreted_kernel, axes, softcap, window, dtype
):
    """Interpreted on a CPU: a token of each of 8 samples, in the second of 2 layers, where a local
    layer sees `window` tokens and a global one all.
    """
    features = 128
    mesh, pages, q, new, cache = _case(axes, features)
    cache, pages_in_all = jax.tree.map(lambda x: x.astype(dtype), cache), cache['k'].shape[1]
    column, last = np.arange(B * W), pages.filled[:, None]

    @jax.jit
    def attend(q, new, pages, cache, is_local, mask=None):
        options = {'scale': features**-0.5, 'softcap': softcap, 'mesh': mesh}
        options |= {'is_local': is_local, 'window': window}
        return paged_attention.attend(q, new, cache, LAYER, pages, mask, None, **options)

    keys_and_values = np.stack([cache['k'].transpose(0, 1, 4, 2, 3), cache['v'].swapaxes(2, 3)], 4)
    kv = keys_and_values.reshape(LAYERS, pages_in_all, W, 2 * K, features)
    for is_local in (False, True) if window else (False,):
        seen = (column <= last) & (column > last - (window if is_local else 99))
        expected, after = attend(q, new, pages, cache, is_local, seen[:, None])
        out, after_kernel = attend(q, new, pages, {'kv': kv}, is_local)
        assert_near(out, expected, 1e-5)
        written = np.asarray(after_kernel['kv']).reshape(LAYERS, pages_in_all, W, K, 2, features)
        np.testing.assert_array_equal(written[..., 0, :], np.moveaxis(after['k'], 4, 2))
        np.testing.assert_array_equal(written[..., 1, :], np.moveaxis(after['v'], 3, 2))


@pytest.mark.parametrize(
    'axes, softcap', [({}, None), ({'data': 2, 'tensor': 2}, 2.0), ({'fsdp': 2}, None)], ids=str
)
def test_the_kernel_of_a_gpu_gives_what_plain_products_give(interpreted_kernel, axes, softcap):
    """Interpreted on a CPU: a token of each of 8 samples, in the second of 2 layers."""
    features = 16
    mesh, pages, q, new, cache = _case(axes, features)
    seen = (np.arange(B * W) <= pages.filled[:, None])[:, None]

    @jax.jit
    def attend(q, new, pages, cache, mask=None):
        options = {'scale': features**-0.5, 'softcap': softcap, 'mesh': mesh}
        return paged_attention.attend(q, new, cache, LAYER, pages, mask, None, **options)

    expected, after = attend(q, new, pages, cache, seen)
    out, after_kernel = attend(
        q, new, pages, {'keys': cache['k'].swapaxes(3, 4), 'values': cache['v']}
    )
    assert_near(out, expected, 1e-5)
    np.testing.assert_array_equal(after_kernel['keys'], after['k'].swapaxes(3, 4))
    np.testing.assert_array_equal(after_kernel['values'], after['v'])


def _large_case():
    """(q, new, cache, pages) in bfloat16, pages of 128 tokens and heads of 64 features."""
    rng, width, features = np.random.default_rng(3), 128, 64

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.bfloat16)

    pages = _random_pages(1)
    pages = pages._replace(filled=pages.filled * (width // W))
    new = {'k': draw(S, K, features, 1), 'v': draw(S, K, 1, features)}
    shape = LAYERS, P, K, width, features
    return draw(S, 1, N, features), new, {'keys': draw(*shape), 'values': draw(*shape)}, pages


@jax.jit
def _attend_globally(q, new, cache, pages, mask=None):
    return paged_attention.attend(
        q, new, cache, LAYER, pages, mask, None, scale=0.125, softcap=None, mesh=None
    )


def test_the_kernel_of_a_gpu_lowers_without_one():
    traced = _attend_globally.trace(*_large_case())
    program = traced.lower(lowering_platforms=('cuda',)).as_text()
    assert '__gpu$xla.gpu.triton' in program


@pytest.mark.skipif(
    jax.default_backend() != 'gpu', reason='needs a GPU; run with JAX_PLATFORMS=cuda'
)
def test_the_kernel_of_a_gpu_equals_plain_products():
    q, new, cache, pages = _large_case()
    out, _ = _attend_globally(q, new, cache, pages)
    plain = {'k': cache['keys'].swapaxes(3, 4), 'v': cache['values']}
    columns = B * cache['keys'].shape[3]
    mask = (np.arange(columns) <= pages.filled[:, None])[:, None]
    expected, _ = _attend_globally(q, new, plain, pages, mask)
    assert_near(out.astype(jnp.float32), expected.astype(jnp.float32), 2e-2)


@pytest.mark.parametrize(
    'fields, dtype, kernel',
    [
        ({}, 'bfloat16', 'gpu'),
        ({}, 'float8_e4m3fn', None),  # it converts nothing
        ({'head_dim': 96}, 'bfloat16', None),
        ({'local': (True, False)}, 'bfloat16', None),
    ],
    ids=str,
)
def test_the_kernel_of_a_gpu_is_chosen_where_it_can_compute(monkeypatch, fields, dtype, kernel):
    monkeypatch.setattr(sharding, 'platform', lambda mesh: 'gpu')
    config = dataclasses.replace(SMALL, **({'head_dim': 64} | fields))
    module = decoder.make_module(config, 'bfloat16', attention='cudnn_paged')
    assert paged_attention.kernel_of(module, dtype) == kernel
    assert paged_attention.kernel_of(module.clone(attention='cudnn'), dtype) is None


@pytest.mark.parametrize(
    'dtype, heads, reads',
    [
        ('bfloat16', 1, True),
        ('bfloat16', 8, True),
        ('bfloat16', 3, False),
        ('float8_e4m3fn', 1, False),  # a key and a value are half of 32 bits
        ('float8_e4m3fn', 2, True),
        ('float8_e4m3fn', 8, True),
    ],
)
def test_the_kernel_reads_heads_that_fill_words(monkeypatch, dtype, heads, reads):
    monkeypatch.setattr(sharding, 'platform', lambda mesh: 'tpu')
    config = dataclasses.replace(SMALL, heads=2 * heads, kv_heads=heads, head_dim=128)
    module = decoder.make_module(config, attention='splash')
    assert paged_attention.kernel_of(module, dtype) == ('tpu' if reads else None)
