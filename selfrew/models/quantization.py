"""Matrices in int8, each output with a float32 scale, for sampling (weights only: products are
computed in the dtype of the compute).

A quantized matrix W [in out] is round(W / scale), scale [out] = max |W| over its inputs / 127,
beside it as `NAME_scale`. Of the embedding [vocab width], which is also read by row, each token has
a scale. Norms, biases, adapters and the heads of values stay as they are.
"""

import functools

import jax
import jax.numpy as jnp

SUFFIX = '_scale'  # of a scale, behind the name of its matrix
LARGEST = 127


def is_scale(name: str) -> bool:
    """Whether the parameter with this name is the scale of a matrix in int8."""
    return name.endswith(SUFFIX)


def is_quantized(name: str, group) -> bool:
    """Whether a parameter is a matrix in int8. group: the names of those beside it."""
    return name + SUFFIX in group


def quantized(params, shapes) -> dict:
    """The parameters of a model as those of the same one with matrices in int8.

    shapes: of the latter, see decoder.abstract_params; which matrices have a scale. Each is
    converted alone, so that little memory is taken beside both. Parameters that are quantized
    already stay as they are.
    """
    result = {}
    for name, x in params.items():
        if isinstance(x, dict):
            result[name] = quantized(x, shapes[name])
        elif is_quantized(name, shapes) and not is_quantized(name, params):
            result[name], result[name + SUFFIX] = _quantize(x, -1 if name == 'embed' else -2)
        else:
            result[name] = x
    return result


@functools.partial(jax.jit, static_argnums=1)
def _quantize(matrix, inputs: int):
    """(int8 values, float32 scales) of a matrix, or a stack of them. inputs: the axis of inputs."""
    matrix = matrix.astype(jnp.float32)
    largest = jnp.max(jnp.abs(matrix), axis=inputs, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / LARGEST
    return jnp.round(matrix / scale).astype(jnp.int8), jnp.squeeze(scale, inputs)
