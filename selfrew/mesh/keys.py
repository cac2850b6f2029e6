"""JAX keys: one for each purpose, and what the host draws from them."""

import zlib

import jax
import numpy as np


def fold_name(key, name: str):
    """The key of a named purpose: `key` folded with the name's CRC-32."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def numpy_rng(key) -> np.random.Generator:
    """A generator for what the host draws; the same key gives the same draws."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
