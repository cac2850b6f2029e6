"""Chooses how an update is split and what it recomputes, so that it fits a device's memory.

The estimate is fitted to what XLA reports of the compiled update (memory_analysis) on a CPU: see
tests/engine/test_update_memory.py. It leans to the large side.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from selfrew.engine import train_state
from selfrew.mesh import memory, sharding

# The share of a device's memory that an update may take. A CPU's memory has other users.
SHARE, CPU_SHARE = 0.85, 0.6
ATTENTION_COPIES = 6  # of one layer's attention scores, in float32, at the peak of a backward pass
LEAST_ROWS = 4  # of a micro-batch on a device: with fewer, products get slow
REMATS = 'none', 'dots', 'full'  # from the fastest on


class Split(NamedTuple):
    """How an update is computed."""

    accumulate: int  # micro-batches
    remat: str
    needed: int  # bytes that it is estimated to take on a device
    limit: int  # bytes that it may take there


def budget(device) -> int:
    """Bytes of a device that an update may take."""
    share = CPU_SHARE if device.platform == 'cpu' else SHARE
    return int(share * memory.device_bytes(device))


@functools.cache
def with_remat(lm, remat: str):
    """The same model, recomputing that in its backward pass; one object for each, so that programs
    are compiled once.
    """
    if lm.module.remat == remat:
        return lm
    return dataclasses.replace(lm, module=lm.module.clone(remat=remat))


def choose(lm, optimizer, pack, *, accumulate: int | None, limit: int) -> Split:
    """The fastest split that fits: first more micro-batches, then more recomputation.

    What the config states is kept: `accumulate`, and what `lm` recomputes unless it leaves that
    open. If nothing fits it is the smallest, which needs more than its limit.

    Args:
      optimizer: bound, as the turn's.
      pack: micro-batches -> (rows, tokens of a row, selected tokens) of the largest micro-batch.
      limit: bytes that it may take on a device.
    """
    made, pack = train_state.cached_optimizer(optimizer), functools.cache(pack)
    counts = [accumulate or 1]
    rows = pack(counts[0])[0] // sharding.row_shards(lm.mesh)
    while accumulate is None and rows // counts[-1] > LEAST_ROWS:
        counts.append(2 * counts[-1])
    splits = []
    for remat in (lm.module.remat,) if lm.has_fixed_remat else REMATS:
        for count in counts:
            rows, length, selected = pack(count)
            sizes = {'rows': rows, 'length': length, 'selected': selected, 'micros': count}
            needed = update_bytes(lm, made, **sizes, remat=remat)
            splits.append(Split(count, remat, needed, limit))
            if needed <= limit:
                return splits[-1]
    return min(splits, key=lambda split: split.needed)


def update_bytes(
    lm, optimizer, *, rows: int, length: int, selected: int, micros: int, remat: str
) -> int:
    """Bytes of a device that an update is estimated to take, parameters and optimiser included.

    Args:
      rows, length: of a micro-batch, over all devices, and tokens of a row. selected: tokens of a
        micro-batch at which the head is applied, on one device.
      micros: micro-batches, whose gradients are added up.
    """
    c, mesh = lm.config, lm.mesh
    state = train_state.abstract_state(lm, optimizer)
    trainable = train_state.trainable_params(lm, state.params)
    held = _device_bytes(state.params) + _device_bytes(state.opt)
    gradients = sum(4 * math.prod(_part(leaf)) for leaf in jax.tree.leaves(trainable))
    gradients *= 2 if micros > 1 else 1
    tokens = rows // sharding.row_shards(mesh) * length
    width = float(_itemsize(lm))
    if sharding.platform(mesh) == 'cpu':  # which computes bfloat16 in float32, with copies
        width = 4.0 if width == 4.0 else 4.5
    layers = tokens * c.layers * width * _saved(c, mesh, remat)
    transient = tokens * _saved(c, mesh, 'none') * width  # one layer's, recomputed or not
    if lm.module.attention == 'xla':
        heads = c.heads // sharding.shards(mesh, 'heads', c.heads)
        transient += ATTENTION_COPIES * 4 * tokens * heads * length
    head = 5 * 4 * selected * c.width
    return int(held + gradients + layers + transient + head + _gathered(lm))


def _saved(c, mesh, remat: str) -> float:
    """Numbers that are kept of a token in a layer for the backward pass, on a device."""
    mlp = c.mlp // sharding.shards(mesh, 'mlp', c.mlp)
    heads = c.heads // sharding.shards(mesh, 'heads', c.heads) * c.head_dim
    kv = c.kv_heads // sharding.shards(mesh, 'kv', c.kv_heads) * c.head_dim
    if remat == 'full':
        return c.width
    if remat == 'dots':
        products = 2 * mlp + heads + 2 * kv + c.width
        if c.lora:
            products *= 2  # an adapter has products of its own
        return products + 0.25 * c.width
    return 4 * mlp + heads + 2 * kv + 3 * c.width


def _gathered(lm) -> int:
    """Bytes of two layers' weights, which a device gathers where they are spread over several."""
    if lm.mesh.shape['fsdp'] == 1:
        return 0
    blocks = jax.tree.leaves(lm.abstract_params()['blocks'])
    tensor = lm.mesh.shape['tensor']
    weights = sum(leaf.size for leaf in blocks) / lm.config.layers / tensor
    return int(2 * weights * _itemsize(lm))


def _itemsize(lm) -> int:
    return jnp.dtype(lm.module.dtype).itemsize


def _part(leaf) -> tuple[int, ...]:
    """The shape of an array's part on a device."""
    return leaf.sharding.shard_shape(leaf.shape)


def _device_bytes(tree: Any) -> int:
    """Bytes of the arrays on a device."""
    return sum(map(sharding.bytes_of_shard, jax.tree.leaves(tree)))
