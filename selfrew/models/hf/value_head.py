"""Writes and reads a value head, in a file of its own beside the model's."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from selfrew.models.hf.tensors import VALUE_FILE, VALUE_TENSOR
from selfrew.models.hf.writer import set_usual_mode
from selfrew.models.loading import loaded


def write_value_head(folder: str, value) -> None:
    """Writes a value head [D V] into a folder, float32, stored [V D] as heads are.

    value: the array, or a function that returns it.
    """
    path = os.path.join(folder, VALUE_FILE)
    stored = np.ascontiguousarray(np.asarray(jax.device_get(loaded(value)), np.float32).T)
    save_file({VALUE_TENSOR: stored}, path, metadata={'format': 'pt'})
    set_usual_mode(path)


def has_value_head(folder: str) -> bool:
    """Whether a folder has the file of a value head."""
    return os.path.isfile(os.path.join(folder, VALUE_FILE))


def value_head_loader(folder: str, leaf, sharding):
    """A function that returns the value head [D V] of a folder; zeros where it has none.

    leaf: shape and dtype of the head. Raises ValueError where the file's head has another shape.
    """
    path = os.path.join(folder, VALUE_FILE)
    if not has_value_head(folder):
        return jax.jit(functools.partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=sharding)
    with safe_open(path, framework='np') as file:
        stored = tuple(file.get_slice(VALUE_TENSOR).get_shape())
    if stored != leaf.shape[::-1]:
        raise ValueError(f'{path}: the value head is {stored}, expected {leaf.shape[::-1]}')

    def load():
        with safe_open(path, framework='np') as file:
            array_DV = np.asarray(file.get_tensor(VALUE_TENSOR)).T.astype(leaf.dtype)
        if not np.isfinite(array_DV.astype(np.float32)).all():
            raise ValueError(f'{path}: the value head holds numbers that are not finite')
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: array_DV[index])

    return load
