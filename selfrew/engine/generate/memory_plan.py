"""Plans the sizes of a call's arrays before it begins: slots, pages, the prefill pool."""

import dataclasses
import math

import jax.numpy as jnp

from selfrew.engine import sampling_layout
from selfrew.mesh import buckets, memory, sharding
from selfrew.models import paged_attention

CPU_SLOTS = 128
REPLICA_SLOTS = 256  # of each replica, at least, where memory allows
CACHE_READS = 3  # a decode step's reads of the cache over those of the weights; more gains little
PAGE_SIZE = 128  # tokens of a page: a tile of a TPU
CPU_PAGE_SIZE = 64  # what suits a CPU's matrix products
CACHE_SHARE, CPU_CACHE_SHARE = 0.4, 0.3  # of a device's memory, for caches
MIN_SHARED_PREFIX = 64  # tokens; a shorter common prefix of all prompts gets no prefix cache
PREFILL_TOKENS = 1024  # tokens of all prompts that a part of the mesh prefills together


def is_on_cpu(lm) -> bool:
    return sharding.platform(lm.mesh) == 'cpu'


def is_single_cpu(lm) -> bool:
    """Whether the mesh is one CPU device. Then each layer has its own arrays, and the number of
    slots shrinks as the last samples end.
    """
    return is_on_cpu(lm) and lm.mesh.size == 1


def default_slots(lm, lengths, limits) -> int:
    """The slots of requests with these prompts and limits, unless a caller sets them or memory
    holds fewer: on a CPU 128, elsewhere what keeps a device's memory busy.

    A decode step reads the weights once, and the cache of each sample. So a step of more samples
    takes longer but costs less for each, until the cache takes CACHE_READS times as long as the
    weights: then all the slots that there could be would gain a third more tokens/s.

    lengths: tokens of each request's prompt. limits: tokens that its sample may have.
    """
    requests = buckets.next_power_of_two(len(lengths))
    if is_on_cpu(lm):
        return min(CPU_SLOTS, requests)
    columns = sum(length + limit / 2 for length, limit in zip(lengths, limits)) / len(lengths)
    balanced = CACHE_READS * sampling_layout.weight_bytes(lm) / (columns * column_bytes(lm))
    a_replica = max(REPLICA_SLOTS, buckets.next_power_of_two(math.ceil(balanced)))
    return min(a_replica * sharding.row_shards(lm.mesh), requests)


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """The sizes of a call's arrays. They depend on all of its requests, not on its progress."""

    slots: int
    page_size: int  # tokens of a page
    pages_per_slot: int  # that a slot may have
    max_tokens: int  # of a sample
    prefix_tokens: int  # that all prompts begin with; they are in the prefix cache
    prefix_pages: int  # with these tokens, shared by all slots; 0: they are beside the pages
    prefill_rows: int  # of the prefill pool: prompts that are prefilled together
    prefill_chunk: int  # tokens of each of them that one call of prefill reads
    prefill_columns: int  # of the prefill pool
    bytes: int  # of all caches, on one device

    @property
    def tokens_beside_pages(self) -> int:
        """Tokens of each prompt that are in the prefix cache only, and not in pages."""
        return 0 if self.prefix_pages else self.prefix_tokens


def column_bytes(lm) -> int:
    """Bytes of one cache column of one row on a device, which holds its share of the heads."""
    c = lm.config
    heads = c.kv_heads // sharding.shards(lm.mesh, 'kv', c.kv_heads)
    return 2 * c.layers * heads * c.head_dim * jnp.dtype(lm.cache_dtype).itemsize


def cache_budget(lm) -> float:
    """Bytes that caches may take on a device: lm.cache_gib if it is set, else a share of the
    device's memory.
    """
    if lm.cache_gib is not None:
        return lm.cache_gib * 2**30
    share = CPU_CACHE_SHARE if is_on_cpu(lm) else CACHE_SHARE
    return share * memory.device_bytes(lm.mesh.local_devices[0])


def plan(
    lm,
    lengths,
    limits,
    distinct: int,
    *,
    slots: int | None = None,
    prefix_tokens: int = 0,
    memory: float,
    scorers=(),
    group: int = 1,
) -> MemoryPlan:
    """The sizes for requests with these prompts and limits.

    Args:
      lengths: tokens of each request's prompt.
      limits: tokens that each request's sample may have.
      distinct: number of different prompts.
      slots: at most this many; None: see default_slots.
      prefix_tokens: of the prefix that all prompts share.
      memory: bytes that the caches may take on a device.
      scorers: other models that read the same tokens.
      group: the number of slots is a multiple of it.
    Raises ValueError with the numbers if the memory does not hold one slot per row shard.
    """
    shards = sharding.row_shards(lm.mesh)
    models = lm, *scorers
    per_column = sum(map(column_bytes, models))
    have_kernel = [paged_attention.kernel_of(m.module, m.cache_dtype) for m in models]
    if any(have_kernel):  # such pages hold all of a sample's tokens
        prefix_tokens = prefix_tokens // PAGE_SIZE * PAGE_SIZE if all(have_kernel) else 0
    longest = max(length - 1 - prefix_tokens + limit for length, limit in zip(lengths, limits))
    page_size = PAGE_SIZE if any(have_kernel) else _page_size(lm, longest)
    prefix_pages = prefix_tokens // page_size if any(have_kernel) else 0
    own_pages = buckets.bucket(-(-longest // page_size))
    context = max(lengths) - 1 - prefix_tokens  # the slot itself reads a prompt's last token
    chunk = max(min(buckets.round_up(context, 16), 64 if context <= 256 else 256), 1)
    columns = buckets.round_up(buckets.round_up(max(context, 1), chunk), page_size)
    most_rows = max(PREFILL_TOKENS // chunk, 1)
    rows = buckets.round_up(min(buckets.next_power_of_two(distinct), most_rows * shards), shards)
    slots = slots or max(default_slots(lm, lengths, limits), group)
    wanted = buckets.round_up(min(slots, buckets.next_power_of_two(len(lengths))), shards)
    # Two pools, the prefix in its cache and in shared pages, and the page that belongs to no slot.
    fixed_columns = 2 * rows // shards * columns + prefix_tokens + (1 + prefix_pages) * page_size
    fixed_bytes = fixed_columns * per_column
    copies = 1 if is_single_cpu(lm) else 1.5  # the old and the new cache, while it grows
    slot_bytes = own_pages * page_size * per_column * copies
    fitting = int((memory - fixed_bytes) // slot_bytes) * shards
    if fitting < shards:
        raise ValueError(
            f'a slot of {own_pages * page_size} tokens takes {_gib(slot_bytes)} of a device, '
            f'prefilling prompts takes {_gib(fixed_bytes)}, and the cache may take {_gib(memory)}: '
            f'raise model.cache_gib, lower max_tokens ({max(limits)}; prompts have up to '
            f'{max(lengths)}), set model.cache=bfloat16 or use a larger mesh'
        )
    slots = min(wanted, fitting)
    if group > 1:
        together = math.lcm(group, shards)
        slots = max(slots // together, 1) * together
        if slots > fitting:
            raise ValueError(
                f'{together} slots are sampled together, and the cache has room for {fitting}: '
                f'raise model.cache_gib, lower max_tokens ({max(limits)}) or candidates ({group})'
            )
    return MemoryPlan(
        slots=slots,
        page_size=page_size,
        pages_per_slot=prefix_pages + own_pages,
        max_tokens=buckets.bucket(max(limits), 16),
        prefix_tokens=prefix_tokens,
        prefix_pages=prefix_pages,
        prefill_rows=rows,
        prefill_chunk=chunk,
        prefill_columns=columns,
        bytes=int(fixed_bytes + slots // shards * slot_bytes),
    )


def _page_size(lm, longest: int) -> int:
    """Tokens of a page. On a CPU short samples have one page each: there, paging costs more time
    than it saves memory.
    """
    if not is_on_cpu(lm):
        return PAGE_SIZE
    return buckets.round_up(longest, 32) if longest <= 2 * CPU_PAGE_SIZE else CPU_PAGE_SIZE


def _gib(size: float) -> str:
    return f'{size / 2**30:.3g} GiB'


def shared_prefix_length(prompts) -> int:
    """Tokens of the prefix that all prompts share, without any prompt's last token, in steps of 32.

    0 where it is shorter than MIN_SHARED_PREFIX and a prefix cache does not pay.
    """
    first, last = min(prompts), max(prompts)  # all prompts share what these two share
    pairs = enumerate(zip(first, last))
    common = next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))
    common = min(common, min(map(len, prompts)) - 1) // 32 * 32
    return common if common >= MIN_SHARED_PREFIX else 0
