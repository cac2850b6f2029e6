"""Matrices in int8."""

import jax.numpy as jnp
import numpy as np

from selfrew.models import quantization


def test_each_output_has_the_scale_of_its_largest_weight():
    matrix_IO = jnp.array([[254.0, 0.0, -1.0], [-1.0, 0.0, 0.25]])
    shapes = {'down': 0, 'down_scale': 0, 'norm': 0}
    made = quantization.quantized({'down': matrix_IO, 'norm': jnp.ones(2)}, shapes)
    assert made['down'].dtype == jnp.int8
    np.testing.assert_array_equal(made['down'], [[127, 0, -127], [0, 0, 32]])  # -0.5 is even: 0
    np.testing.assert_allclose(made['down_scale'], [2.0, 1 / 127, 1 / 127], rtol=1e-6)
    np.testing.assert_array_equal(made['norm'], 1.0)


def test_each_token_of_an_embedding_has_a_scale():
    shapes = {'embed': 0, 'embed_scale': 0}
    made = quantization.quantized({'embed': jnp.array([[1.0, -2.0], [0.5, 0.5]])}, shapes)
    np.testing.assert_array_equal(made['embed'], [[64, -127], [127, 127]])  # 63.5 is odd: 64
    np.testing.assert_allclose(made['embed_scale'], [2 / 127, 0.5 / 127], rtol=1e-6)


def test_what_is_in_int8_stays():
    shapes = {'blocks': {'up': 0, 'up_scale': 0}}
    once = quantization.quantized({'blocks': {'up': jnp.array([[[0.3, -4.0]]])}}, shapes)
    twice = quantization.quantized(once, shapes)
    assert twice['blocks']['up'] is once['blocks']['up']
    assert once['blocks']['up_scale'].shape == (1, 2)
