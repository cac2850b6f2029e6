"""Rotary position embeddings: frequencies of all supported kinds, angles, and the rotation."""

import math

import jax.numpy as jnp
import numpy as np

from selfrew.models.config import ModelConfig, Rope


def frequencies(rope: Rope, head_dim: int, max_length: int) -> np.ndarray:
    """Radians per position [rotated features / 2], float32.

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


def angles(rope: Rope, config: ModelConfig, position_RL):
    """(cos, sin) of the positions' angles, [R L 1 rotated features / 2] each, float32.

    Positions count from 0.
    """
    frequency = jnp.asarray(frequencies(rope, config.head_dim, config.max_length))
    angle = position_RL[:, :, None, None].astype(jnp.float32) * frequency[None, None, None, :]
    return jnp.cos(angle) * rope.attention_factor, jnp.sin(angle) * rope.attention_factor


def rotate(x_RLNH, cos, sin):
    """The heads rotated by these angles, in the half-split layout of Llama checkpoints.

    Features beyond those that have angles stay as they are.
    """
    cos, sin, half = cos.astype(x_RLNH.dtype), sin.astype(x_RLNH.dtype), cos.shape[-1]
    first, second = x_RLNH[..., :half], x_RLNH[..., half : 2 * half]
    rotated = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate([*rotated, x_RLNH[..., 2 * half :]], axis=-1)
