"""Arrays and masks for the tests of attention, and the comparison with plain products."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from selfrew.engine import logprobs
from selfrew.models import attention

SCALE = 0.3


def random_qkv(R, L, N, K, H, dtype=jnp.float32):
    """(q, k, v) and the cotangent of the output."""
    rng = np.random.default_rng(0)
    shapes = (R, L, N, H), (R, K, H, L), (R, K, L, H), (R, L, N * H)
    q, k, v, cotangent = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    return (q, k, v), cotangent


def packed_mask(R, L):
    """Two documents of a prompt and two branches each, another cut in each row, then padding."""
    doc, branch = np.zeros((2, R, L), np.int32)
    for row in range(R):
        cuts = np.linspace(0, L - 5 - 3 * row, 7).astype(int)
        for i, (start, end) in enumerate(zip(cuts, cuts[1:])):
            doc[row, start:end], branch[row, start:end] = 1 + i // 3, i % 3
    batch = types.SimpleNamespace(doc=jnp.asarray(doc), branch=jnp.asarray(branch))
    return logprobs.attention_mask(batch)


def windowed_mask(R, L):
    """The packed mask, cut to the last 20 tokens."""
    distance = np.arange(L)[:, None] - np.arange(L)[None, :]
    return packed_mask(R, L) & (distance < 20)[None]


def random_mask(R, L):
    """A random causal mask under which every token sees itself."""
    causal, diagonal = np.tril(np.ones((L, L), bool)), np.eye(L, dtype=bool)
    is_drawn = np.random.default_rng(0).random((R, L, L)) < 0.3
    return jnp.asarray(is_drawn & causal[None] | diagonal[None])


def output_and_gradients(function, qkv, cotangent):
    """The output and the gradients of q, k and v."""
    out, pull_back = jax.vjp(function, *qkv)
    return out, *pull_back(cotangent)


def assert_near(actual, expected, tolerance, name=''):
    """Every value is within `tolerance` times the largest of the expected values."""
    actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest, err_msg=name)


def assert_equals_plain(actual, qkv, cotangent, mask, tolerance, **options):
    """The output and the gradients are those of plain products: see assert_near."""

    @jax.jit
    def plain(*qkv):
        return attention.attend(*qkv, mask, scale=SCALE, **options)

    expected = output_and_gradients(plain, qkv, cotangent)
    for name, value, plain_value in zip(('output', 'q', 'k', 'v'), actual, expected):
        assert value.dtype == plain_value.dtype
        assert_near(value, plain_value, tolerance, name)
