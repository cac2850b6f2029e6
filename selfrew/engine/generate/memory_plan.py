"""The sizes of a call's arrays, planned before it begins."""

import dataclasses

import jax.numpy as jnp

from selfrew.mesh import buckets, sharding

SLOTS, SLOTS_OF_A_CPU = 256, 128
PAGE, PAGE_OF_A_CPU = (
    128,
    64,
)  # tokens that lie together in the cache: a tile of a TPU; what a CPU's products want
CACHE_SHARE = 0.3  # of a device's memory, for caches
MIN_SHARED_PREFIX = (
    64  # tokens with which all prompts begin, from which on they are read once for all
)
PREFILL_TOKENS = 1024  # tokens read together when prompts are


def is_on_cpu(lm) -> bool:
    return lm.mesh.devices.flat[0].platform == 'cpu'


def is_single_cpu(lm) -> bool:
    """Whether there is one device, a CPU: each layer's arrays lie by themselves, and slots get
    fewer in the end.
    """
    return is_on_cpu(lm) and lm.mesh.size == 1


def default_slots(lm, requests: int) -> int:
    """How many slots there are, at most, for so many requests where nobody says: 256; on a CPU 128."""
    return min(SLOTS_OF_A_CPU if is_on_cpu(lm) else SLOTS, buckets.next_power_of_two(requests))


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """The sizes of a call's arrays: they depend on all of its requests, not on how far it has come."""

    slots: int
    page: int  # tokens
    blocks: int  # pages that a slot may have
    limit: int  # tokens that a sample may have
    shared: int  # tokens with which all prompts begin, in no slot's cache
    prompts: int  # read together, rows of the pool
    chunk: int  # tokens of them that are read at a time
    pool: int  # columns of the pool
    bytes: int  # of all caches, on one device


def column_bytes(lm) -> int:
    """What one column of one row of the cache takes on a device, which holds its share of the
    heads.
    """
    c, parts = lm.config, lm.mesh.shape['tensor']
    heads = c.kv_heads // parts if c.kv_heads % parts == 0 else c.kv_heads
    return 2 * c.layers * heads * c.head_dim * jnp.dtype(lm.cache_dtype).itemsize


def cache_budget(lm) -> float:
    """Bytes that caches may take on a device: what the config says; else CACHE_SHARE of its memory,
    or 4 GiB of a host's.
    """
    if lm.cache_gib is not None:
        return lm.cache_gib * 2**30
    limit = (
        (lm.mesh.local_devices[0].memory_stats() or {}).get('bytes_limit')
        if lm.mesh.local_devices
        else None
    )
    return CACHE_SHARE * limit if limit else 4 * 2**30


def plan(
    lm, lengths, limits, distinct: int, *, slots: int, shared: int = 0, memory: float
) -> MemoryPlan:
    """The layout for requests whose prompts have these lengths and whose samples may have so many
    tokens.

    Args:
      lengths, limits: ints, of each request. distinct: how many of the prompts differ.
      slots: at most so many. shared: tokens with which all prompts begin.
      memory: bytes that the caches may take on a device.
    Raises ValueError, with the numbers, where not even one slot for each part of the mesh fits.
    """
    split, a_column = sharding.row_shards(lm.mesh), column_bytes(lm)
    longest = max(a - 1 - shared + b for a, b in zip(lengths, limits))
    page = PAGE
    if is_on_cpu(
        lm
    ):  # of little, one page each: there, what pages cost is more than what they spare
        page = buckets.round_up(longest, 32) if longest <= 2 * PAGE_OF_A_CPU else PAGE_OF_A_CPU
    context = max(lengths) - 1 - shared  # a prompt's last token is read in its slot
    chunk = max(min(buckets.round_up(context, 16), 64 if context <= 256 else 256), 1)
    pool = buckets.round_up(buckets.round_up(max(context, 1), chunk), page)
    prompts = buckets.round_up(
        min(buckets.next_power_of_two(distinct), max(PREFILL_TOKENS // chunk, 1)), split
    )
    blocks = buckets.bucket(-(-longest // page))
    wanted = buckets.round_up(min(slots, buckets.next_power_of_two(len(lengths))), split)
    fixed = (2 * prompts // split * pool + shared + page) * a_column
    a_slot = (
        blocks * page * a_column * (1 if is_single_cpu(lm) else 1.5)
    )  # while it grows, both caches
    fit = int((memory - fixed) // a_slot) * split
    if fit < split:
        gib = lambda n: f'{n / 2**30:.3g} GiB'
        raise ValueError(
            f'a slot of {blocks * page} tokens takes {gib(a_slot)} of a device, prompts that are being read '
            f'{gib(fixed)}, and the cache may take {gib(memory)}: raise model.cache_gib, lower max_tokens '
            f'({max(limits)}; prompts have up to {max(lengths)}), take model.cache=bfloat16 or a larger mesh'
        )
    rows = min(wanted, fit)
    return MemoryPlan(
        rows,
        page,
        blocks,
        buckets.bucket(max(limits), 16),
        shared,
        prompts,
        chunk,
        pool,
        int(fixed + rows // split * a_slot),
    )


def shared_prefix_length(prompts) -> int:
    """With how many tokens all prompts begin, of those before the last, in steps of 32; 0 where it
    does not pay.
    """
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last))
    )
    same = min(same, min(map(len, prompts)) - 1) // 32 * 32
    return same if same >= MIN_SHARED_PREFIX else 0
