"""LoRA adapters of the blocks' matrices: their names, fresh ones, and merging them.

An adapter is a pair of factors beside its matrix [in out]: `NAME_lora_a` [in rank] and
`NAME_lora_b` [rank out], each stacked over layers. Their product counts lora_alpha / rank.

Axis letters here: X layers, I and O input and output features of a matrix, A rank of its adapter.
"""

import functools

import jax
import jax.numpy as jnp

from selfrew.models.config import ModelConfig
from selfrew.models.loading import load_all, loaded

SUFFIXES = '_lora_a', '_lora_b'  # of the two factors, behind the name of their matrix


def is_adapter(name: str) -> bool:
    """Whether the parameter of a block with this name is a factor of an adapter."""
    return name.endswith(SUFFIXES)


def init_adapters(shapes, key) -> dict:
    """Fresh adapters of the blocks, name -> float32 array.

    The first factor is random and the second 0, so that they change nothing yet.

    shapes: of all parameters, adapters included (see decoder.abstract_params).
    """
    adapters = {}
    for i, (name, leaf) in enumerate(sorted(shapes['blocks'].items())):
        if name.endswith(SUFFIXES[0]):
            normal_XIA = jax.random.normal(jax.random.fold_in(key, i), leaf.shape)
            adapters[name] = normal_XIA * leaf.shape[1] ** -0.5
        elif name.endswith(SUFFIXES[1]):
            adapters[name] = jnp.zeros(leaf.shape)
    return adapters


def merge_adapters(config: ModelConfig, params) -> dict:
    """The parameters without adapters: each matrix with its adapter's product added."""
    return load_all(merging_loaders(config, params))


def merging_loaders(config: ModelConfig, params) -> dict:
    """What `merge_adapters` returns, with a function that merges it in the place of each matrix
    that has an adapter.

    params: in the place of a parameter there may be a function that returns it.
    """
    blocks = params['blocks']
    merged = {name: x for name, x in blocks.items() if not is_adapter(name)}
    for name in merged:
        factors = [blocks[name + suffix] for suffix in SUFFIXES if name + suffix in blocks]
        if factors:
            merged[name] = functools.partial(_merge, config, merged[name], *factors)
    return params | {'blocks': merged}


def _merge(config: ModelConfig, *matrix_and_factors) -> jax.Array:
    """A matrix with the product of its adapter's factors added, in its own dtype."""
    matrix_XIO, down_XIA, up_XAO = map(loaded, matrix_and_factors)
    scale = config.lora_alpha / config.lora
    delta_XIO = jnp.matmul(down_XIA, up_XAO, precision='highest') * scale
    return (matrix_XIO.astype(jnp.float32) + delta_XIO).astype(matrix_XIO.dtype)
