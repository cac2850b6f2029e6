"""Products in bfloat16 on a CPU are those of float32 up to the rounding, and so are gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfrew.mesh import sharding
from selfrew.models import cpu_products

ROUNDING = 2.0**-8  # of a result, relative to the largest


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


def _assert_near(actual, expected):
    largest = np.abs(expected).max()
    np.testing.assert_allclose(actual.astype(jnp.float32), expected, atol=ROUNDING * largest)


@pytest.mark.parametrize('is_last_transposed', [False, True])
def test_products_and_gradients_are_those_of_float32(is_last_transposed):
    """Also where what comes after wants a result column by column."""
    x, matrix, cotangent = _random(64, 48), _random(48, 80, seed=1), _random(64, 80, seed=2)
    cotangent = cotangent.astype(jnp.float32)
    cotangent = cotangent.T if is_last_transposed else cotangent

    def products_and_gradients(multiply, x, matrix):
        def result(x, matrix):
            return multiply(x, matrix).T if is_last_transposed else multiply(x, matrix)

        out, pull = jax.vjp(result, x, matrix)
        return out, *pull(cotangent)

    actual = jax.jit(products_and_gradients, static_argnums=0)(cpu_products.product, x, matrix)
    assert [a.dtype for a in actual] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    in_float32 = x.astype(jnp.float32), matrix.astype(jnp.float32)
    expected = products_and_gradients(jnp.matmul, *in_float32)
    for one, other in zip(actual, expected, strict=True):
        _assert_near(one, other)


def test_a_matrix_that_lies_column_by_column_is_multiplied():
    x, matrix = _random(64, 48), _random(80, 48, seed=1)
    actual = jax.jit(lambda x, matrix: cpu_products.product(x, matrix.T))(x, matrix)
    _assert_near(actual, x.astype(jnp.float32) @ matrix.T.astype(jnp.float32))


@pytest.mark.parametrize(
    'dtype, axes, suits',
    [('bfloat16', {}, True), ('float32', {}, False), ('bfloat16', {'fsdp': 8}, False)],
    ids=str,
)
def test_they_are_for_bfloat16_on_one_device(dtype, axes, suits):
    mesh = sharding.make_mesh(**axes) if axes else None
    assert cpu_products.suit(jnp.dtype(dtype), mesh) is suits
