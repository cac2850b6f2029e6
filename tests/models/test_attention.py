"""Plain attention is by the book, with a cache, a shared prefix and soft-capping; decode never
reaches the kernels, and what a back end cannot do is refused.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import SCALE, assert_near, random_mask, random_qkv

from selfrew.models import attention

TOLERANCE = 1e-5  # of float32 sums over a few columns, relative to the largest value


@pytest.mark.parametrize('cached', [0, 3])
def test_grouped_attention_equals_loops(cached):
    """Query head n reads key head n // G; there may be more columns than tokens."""
    R, L, N, K, H = 2, 5, 6, 2, 4
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    q, k, v = draw(R, L, N, H), draw(R, K, cached + L, H), draw(R, K, cached + L, H)
    mask = rng.random((R, L, cached + L)) < 0.6
    mask &= np.tril(np.ones((L, cached + L), bool), cached)
    mask[:, range(L), range(cached, cached + L)] = True  # every token sees at least itself
    expected = np.zeros((R, L, N, H))
    for row, token, head in np.ndindex(R, L, N):
        kv_head = head // (N // K)
        seen = np.flatnonzero(mask[row, token])
        score = q[row, token, head] @ k[row, kv_head, seen].T / np.sqrt(H)
        weight = np.exp(score - score.max())
        expected[row, token, head] = (weight / weight.sum()) @ v[row, kv_head, seen]
    k_RKHC = k.swapaxes(2, 3)
    out = attention.attend(q, k_RKHC, v, mask, scale=H**-0.5, is_cached=cached > 0)
    assert_near(out, expected.reshape(R, L, N * H), TOLERANCE)


def test_soft_capped_scores_are_by_the_book():
    R, L, N, K, H, cap = 2, 7, 4, 2, 8, 2.0
    (q, k, v), _ = random_qkv(R, L, N, K, H)
    mask = random_mask(R, L)
    k64, v64 = np.repeat(np.float64(k), N // K, axis=1), np.repeat(np.float64(v), N // K, axis=1)
    score = np.einsum('rtnh,rnhc->rntc', np.float64(q), k64) * SCALE
    weight = np.exp(cap * np.tanh(score / cap)) * np.asarray(mask)[:, None]
    weight /= weight.sum(-1, keepdims=True)
    expected = np.einsum('rntc,rnch->rtnh', weight, v64).reshape(R, L, N * H)
    out = attention.attend(q, k, v, mask, scale=SCALE, softcap=cap)
    assert_near(out, expected, TOLERANCE)


@pytest.mark.parametrize('backend', attention.BACKENDS)
def test_a_cache_and_a_single_token_use_plain_products(backend):
    (q, k, v), _ = random_qkv(2, 8, 4, 2, 16)
    mask = random_mask(2, 8)
    whole = attention.attend(q, k, v, mask, scale=SCALE)
    for start, end in ((5, 8), (5, 6), (0, 1)):
        rest = q[:, start:end], k[..., :end], v[:, :, :end], mask[:, start:end, :end]
        out = attention.attend(*rest, scale=SCALE, backend=backend, is_cached=start > 0)
        assert_near(out, whole[:, start:end], TOLERANCE)


def test_a_shared_prefix_equals_the_same_columns_in_each_row():
    (q, k, v), _ = random_qkv(2, 8, 4, 2, 16)
    k, v = k.at[1, :, :, :5].set(k[0, :, :, :5]), v.at[1, :, :5].set(v[0, :, :5])
    mask = random_mask(2, 8)
    prefix = {'k': k[0, :, :, :5], 'v': v[0, :, :5]}
    expected = attention.attend(q, k, v, mask, scale=SCALE, is_cached=True)
    rest = k[..., 5:], v[:, :, 5:]
    out = attention.attend(q, *rest, mask, prefix, scale=SCALE, is_cached=True)
    assert_near(out, expected, TOLERANCE)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'backend': 'flash'}, "no attention 'flash'; there are: xla, cudnn, cudnn_paged, splash"),
        (
            {'backend': 'cudnn', 'softcap': 2.0},
            "attention='cudnn' cannot soft-cap, got softcap=2.0; use xla",
        ),
        ({'backend': 'cudnn'}, "attention='cudnn' computes in bfloat16 or float16, not float32"),
    ],
)
def test_what_a_back_end_cannot_do_is_refused_by_name(options, message):
    qkv, _ = random_qkv(1, 8, 4, 2, 16)
    with pytest.raises(ValueError, match=message):
        attention.attend(*qkv, random_mask(1, 8), scale=SCALE, **options)


@pytest.mark.parametrize('dtype', ['float8_e4m3fn', 'uint8'], ids=['floats', 'bits'])
def test_what_is_too_large_for_float8_becomes_its_largest(dtype):
    x = jnp.array([500.0, -1e6, 448.0, 0.3, 17.0])
    stored = attention.to_stored(x, jnp.dtype(dtype))
    assert stored.dtype == dtype
    kept = attention.from_stored(stored).astype(jnp.float32)
    np.testing.assert_array_equal(kept, [448.0, -448.0, 448.0, 0.3125, 16.0])
