"""JAX random keys: one key per purpose, and numpy generators for draws on the host."""

import zlib

import jax
import numpy as np


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that JAX would take as another: 2**32 + 5 and 5 give one key."""
    if not 0 <= seed < 2**32:
        raise ValueError(f'seed={seed}: want a whole number from 0 to 2**32 - 1')


def fold_name(key, name: str):
    """The key for a named purpose: `key` folded with the name's CRC-32."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def numpy_rng(key) -> np.random.Generator:
    """A numpy generator for draws on the host. The same key gives the same draws."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def named_rng(key, name: str) -> np.random.Generator:
    """A numpy generator of its own for a named purpose: seeded by `key` and the name's CRC-32."""
    seed = np.asarray(jax.random.key_data(key)).tolist()
    return np.random.default_rng([*seed, zlib.crc32(name.encode())])
