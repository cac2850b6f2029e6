"""Rotary position embeddings: frequencies of all supported kinds, angles, and the rotation.

Axis letters beside those of selfrew.types: J pairs of features that are rotated, one frequency
each.
"""

import math

import jax.numpy as jnp
import numpy as np

from selfrew.models.config import ModelConfig, Rope


def frequencies(rope: Rope, head_dim: int, max_length: int) -> np.ndarray:
    """Radians per position [J], float32.

    'linear' divides all frequencies by the factor. 'llama3' divides the slow ones, with a ramp to
    the fast ones. 'longrope' divides each by its own factor: from `short` if `max_length` is at
    most `original`, else from `long`. `max_length` is the longest context of the run, not of a
    sequence: a row's result must not depend on its final length or on the rest of its batch.
    """
    features = int(head_dim * rope.partial)
    inverse = 1.0 / rope.theta ** (
        np.arange(0, features, 2, dtype=np.float32) / np.float32(features)
    )
    if rope.kind == 'linear':
        inverse = inverse / rope.factor
    elif rope.kind == 'llama3':
        wavelength = 2 * math.pi / inverse
        ramp = (rope.original / wavelength - rope.low) / (rope.high - rope.low)  # 0: slow, 1: fast
        ramp = np.clip(ramp, 0.0, 1.0)
        inverse = ramp * inverse + (1 - ramp) * inverse / rope.factor
    elif rope.kind == 'longrope':
        factors = rope.long if max_length > rope.original else rope.short
        inverse = inverse / np.array(factors, np.float32)
    return inverse.astype(np.float32)


def cos_sin(rope: Rope, config: ModelConfig, position_RL):
    """(cos, sin) of the positions' angles, [R L 1 J] each, float32.

    Positions count from 0.
    """
    frequency_J = jnp.asarray(frequencies(rope, config.head_dim, config.max_length))
    position_RL11 = position_RL[:, :, None, None].astype(jnp.float32)
    angle_RL1J = position_RL11 * frequency_J[None, None, None, :]
    factor = rope.attention_factor
    return jnp.cos(angle_RL1J) * factor, jnp.sin(angle_RL1J) * factor


def rotate(x_RLNH, cos_RL1J, sin_RL1J):
    """The heads rotated by these angles, in the half-split layout of Llama checkpoints.

    Features beyond those that have angles stay as they are.
    """
    J = cos_RL1J.shape[-1]
    cos_RL1J, sin_RL1J = cos_RL1J.astype(x_RLNH.dtype), sin_RL1J.astype(x_RLNH.dtype)
    first_RLNJ, second_RLNJ = x_RLNH[..., :J], x_RLNH[..., J : 2 * J]
    rotated = (
        first_RLNJ * cos_RL1J - second_RLNJ * sin_RL1J,
        second_RLNJ * cos_RL1J + first_RLNJ * sin_RL1J,
    )
    return jnp.concatenate([*rotated, x_RLNH[..., 2 * J :]], axis=-1)
