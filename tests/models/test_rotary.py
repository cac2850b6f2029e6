"""Rotary embeddings keep lengths, depend on differences of position, and turn by known angles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import SMALL

from selfrew.models import rotary
from selfrew.models.config import Rope


def _rotated(x, position, theta):
    config = dataclasses.replace(SMALL, head_dim=x.shape[-1])
    cos_sin = rotary.cos_sin(Rope(theta), config, jnp.array([[position]]))
    return np.asarray(rotary.rotate(x, *cos_sin)).ravel()


def test_rotation_keeps_lengths_and_sees_only_differences_of_position():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    np.testing.assert_array_equal(_rotated(q, 0, 1e4), np.asarray(q).ravel())
    length = float(jnp.linalg.norm(q))
    assert np.linalg.norm(_rotated(q, 37, 1e4)) == pytest.approx(length, rel=1e-5)
    dots = [_rotated(q, start + 5, 1e4) @ _rotated(k, start, 1e4) for start in (0, 3, 40, 400)]
    # Angles up to 405 are rounded to 2^-15 = 3e-5; an error of an angle counts |q||k|.
    tolerance = 1e-4 * length * float(jnp.linalg.norm(k))
    assert dots == pytest.approx([dots[0]] * 4, abs=tolerance)
    assert abs(_rotated(q, 6, 1e4) @ _rotated(k, 0, 1e4) - dots[0]) > 5 * tolerance


def test_rotation_turns_each_pair_by_its_angle():
    """Half-split: features (i, i + H/2) turn by position · theta^(−i / (H/2)).

    That is by 3 and 0.3 for H = 4, theta = 100, position 3.
    """
    x = jnp.array([1.0, 2.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    expected = [np.cos(3), 2 * np.cos(0.3), np.sin(3), 2 * np.sin(0.3)]
    np.testing.assert_allclose(_rotated(x, 3, 100.0), expected, atol=2e-6)
