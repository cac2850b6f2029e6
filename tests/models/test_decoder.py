"""The decoder's norms are by the book, and its heads and dtypes are what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import SMALL

from selfrew.models import decoder, layers


def test_a_scalar_head_begins_at_zero_and_gives_a_number_a_token():
    module = decoder.make_module(dataclasses.replace(SMALL, scalar_head=True))
    params = decoder.init_params(module, jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (7, SMALL.width))
    values = decoder.scalar_value(params, hidden)
    assert values.shape == (7,) and not values.any()
    params = params | {'scalar': params['scalar'] + 1.0}
    # The rounding of a sum grows with the sum of absolute values.
    tolerance = 1e-6 * float(jnp.abs(hidden).sum(axis=1).max())
    values = decoder.scalar_value(params, hidden)
    np.testing.assert_allclose(values, hidden.sum(axis=1), rtol=0, atol=tolerance)


def test_a_model_without_a_scalar_head_has_no_value():
    params = decoder.init_params(decoder.make_module(SMALL), jax.random.key(0))
    with pytest.raises(KeyError, match="no 'scalar' head; checkpoints .*SequenceClassification"):
        decoder.scalar_value(params, jnp.zeros((7, SMALL.width)))


def test_norm_divides_by_the_root_mean_square():
    # mean square of (3, 4) is 12.5; √12.5 = 3.535534; scales 1 and 2
    normed = layers.rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(normed, [[0.848528, 2.262742]], rtol=2e-6)


def test_an_offset_of_one_is_added_in_float32():
    """1 + 2⁻¹⁰ has no bfloat16: added in bfloat16, the scale would be lost."""
    x, scale = jnp.ones((1, 4)), jnp.full(4, 2.0**-10, jnp.bfloat16)
    normed = layers.rms_norm(x, scale, 0.0, unit_offset=True)
    np.testing.assert_allclose(normed, np.full((1, 4), 1 + 2.0**-10), rtol=1e-6)


def test_bfloat16_compute_keeps_float32_parameters_and_logits():
    module = decoder.make_module(SMALL, 'bfloat16')
    params = decoder.init_params(module, jax.random.key(0))
    tokens = jnp.arange(6)[None]
    causal = jnp.tril(jnp.ones((1, 6, 6), bool))
    hidden, _ = module.apply({'params': params}, tokens, tokens, causal)
    exact, _ = decoder.make_module(SMALL).apply({'params': params}, tokens, tokens, causal)
    assert hidden.dtype == jnp.bfloat16
    assert decoder.logits(module, params, hidden[0]).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
    # Hidden states have a root mean square of 1, and a bfloat16 has 8 bits of mantissa.
    np.testing.assert_allclose(hidden.astype(jnp.float32), exact, atol=0.1)
