"""The slots on the device, with their paged cache and its page table."""

import contextlib
import ctypes
import dataclasses
from typing import NamedTuple

import numpy as np

from selfrew.engine.generate import memory_plan, prefill, programs
from selfrew.engine.generate.control import Control, scorers_of
from selfrew.engine.generate.page_table import PageTable
from selfrew.mesh import buckets, sharding
from selfrew.models import decoder

SMALL_CACHE_BYTES = 16 * 2**20  # a cache up to this size is allocated in full at once


class Insertion(NamedTuple):
    """A request that goes into a slot."""

    slot: int
    row: int  # of the prefill pool, where its prompt is
    request: programs.SlotRequest  # of host values


class DeviceSlots:
    """The slots of one call: `state` on the device, and the page table of its cache.

    The cache has half of all pages that the slots may have, or all of them.
    """

    def __init__(
        self,
        lm,
        params,
        plan: memory_plan.MemoryPlan,
        requests,
        first_tokens_S,
        control: Control | None = None,
        *,
        has_all_pages: bool = False,
    ):
        """first_tokens_S: tokens that each slot will hold after its first burst. has_all_pages: the
        cache does not grow.
        """
        own = [(lm, params), *(control.scorers if control else ())]
        self.models = [_as_sampled(*model) for model in own]
        (self.lm, self.params), self._plan = self.models[0], plan
        self._scorers, lm = scorers_of(control, self.models), self.lm
        prefix = requests[0].prompt[: plan.prefix_tokens]
        # For prefill; decode steps read it too, unless it is in shared pages.
        self.prefix_cache = prefill.make_prefix_cache(self.models, prefix)
        self.max_ends = max(1, *(len(request.options.ends) for request in requests))
        shards = sharding.row_shards(lm.mesh)
        self.pages = PageTable(
            plan.slots, plan.pages_per_slot, plan.page_size, 1, shards, plan.prefix_pages
        )
        small = SMALL_CACHE_BYTES // (plan.page_size * memory_plan.column_bytes(lm))
        needed = self.pages.pages_needed(self.pages.pages_of(first_tokens_S))
        least = self._all_pages() if has_all_pages else min(self._all_pages(), small)
        count = self._round_pages(max(needed, least))
        self.pages.repack(np.arange(plan.slots), count)
        self.state = programs.empty_slots(
            lm.module,
            lm.cache_dtype,
            rows=plan.slots,
            pages=self.pages.total_pages,
            page_size=plan.page_size,
            max_tokens=plan.max_tokens,
            ends=self.max_ends,
            words=len(requests[0].key_words),
            scorers=tuple((scorer.module, scorer.cache_dtype) for scorer, _ in self.models[1:]),
        )
        if plan.prefix_pages:
            pages = self.pages.shared_pages()
            cache, self.state = self.state.cache, self.state._replace(cache=())
            cache = programs.write_prefix(lm.module, cache, self.prefix_cache, pages)
            self.state = self.state._replace(cache=cache)

    # --- pages ---

    @property
    def has_all_pages(self) -> bool:
        """Whether the cache cannot grow any more."""
        return self.pages.pages == self._all_pages()

    def _all_pages(self, slots: int | None = None) -> int:
        """The pages that each part of the mesh needs for every slot to reach its full length."""
        slots = len(self.pages.table) if slots is None else slots
        shared = self.pages.shared
        return 1 + shared + slots // self.pages.parts * (self._plan.pages_per_slot - shared)

    def _round_pages(self, needed: int) -> int:
        """Half of all pages if that is enough, else all of them."""
        half = -(-self._all_pages() // 2)
        return half if needed <= half else self._all_pages()

    def reserve(self, tokens_S) -> None:
        """Gives each slot pages for this many tokens, and grows the cache where it has too few."""
        wanted_S = self.pages.pages_of(tokens_S)
        needed = self.pages.pages_needed(wanted_S)
        if needed > self.pages.pages:
            self._repack(np.arange(len(wanted_S)), self._round_pages(needed))
        for slot in np.flatnonzero(wanted_S > self.pages.allocated).tolist():
            self.pages.allocate(slot, wanted_S[slot])

    def _repack(self, slots, pages: int) -> None:
        source, parts = self.pages.repack(slots, pages), list(self.state.cache)
        self.state = self.state._replace(cache=())
        for i in range(len(parts)):  # one by one: only one part is in memory twice
            parts[i] = programs.move_pages(self.lm.module, parts[i], source)
        self.state = self.state._replace(cache=tuple(parts))
        _release_freed_memory()

    def select(self, slots) -> None:
        """Keeps only these slots. The others must have no pages."""
        self._repack(slots, min(self.pages.pages, self._all_pages(len(slots))))
        cache = self.state.cache
        rest = programs.select_slots(self.state._replace(cache=()), slots.astype(np.int32))
        self.state = rest._replace(cache=cache)

    # --- samples ---

    def insert(self, insertions: list[Insertion], batch: int, pool_cache) -> None:
        """Puts requests into slots, `batch` in each call of the program.

        pool_cache: of the prefill pool with their prompts; None where all of them are replayed.
        """
        if pool_cache is None:
            sizes = self._plan.prefill_rows, self._plan.prefill_columns
            pool_cache = prefill.empty_pools(self.models, *sizes)
        for start in range(0, len(insertions), batch):
            self._insert_batch(insertions[start : start + batch], batch, pool_cache)

    def _insert_batch(self, insertions: list[Insertion], batch: int, pool_cache) -> None:
        slots = [insertion.slot for insertion in insertions]
        rows = [insertion.row for insertion in insertions]
        requests = [insertion.request for insertion in insertions]
        padding = batch - len(slots)
        page_count = self._plan.prefill_columns // self._plan.page_size  # of a row of the pool
        columns = zip(*requests, *requests[:1] * padding)
        request = programs.SlotRequest(*map(np.array, columns, programs.REQUEST_DTYPES))
        pages = np.zeros((batch, page_count), np.int32)
        first = self.pages.shared
        pages[: len(slots)] = [
            self.pages.global_pages(slot, first + page_count)[first:] for slot in slots
        ]
        row = np.array(rows + [0] * padding, np.int32)
        # The slot of the padding is beyond the last one, so it is dropped.
        slot = np.array(slots + [len(self.pages.table)] * padding, np.int32)
        self.state = programs.insert(
            self.lm.module, self.state, pool_cache, slot, row, pages, request
        )

    def fork(self, source_S, is_forked_S, limit_S, first_page_S, tokens_S) -> None:
        """Slots go on with the sample of another one, see programs.fork.

        first_page: [S] the first page that may differ between the two; all before it hold the same
        tokens. tokens: [S] in the pages of both.
        """
        pages = []
        for slot in np.flatnonzero(is_forked_S & (source_S != np.arange(len(source_S)))).tolist():
            source, first = int(source_S[slot]), int(first_page_S[slot])
            count = int(self.pages.pages_of(tokens_S[slot]))
            from_pages = self.pages.global_pages(source, count)[first:]
            to_pages = self.pages.global_pages(slot, count)[first:]
            pages += zip(from_pages.tolist(), to_pages.tolist())
        size = buckets.next_power_of_two(max(len(pages), 1))
        page_X, copy_X = np.array(pages + [(0, 0)] * (size - len(pages)), np.int32).T
        self.state = programs.fork(
            self.lm.module,
            self.state,
            source_S.astype(np.int32),
            is_forked_S,
            limit_S.astype(np.int32),
            page_X,
            copy_X,
            np.int32(len(pages)),
        )

    def decode(self, busy_S, active_floor: int, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Runs decode steps, see programs.decode. Returns each slot's number of tokens and whether
        it is still active, both [S].
        """
        self.state = programs.decode(
            self.lm.module,
            self.params,
            None if self._plan.prefix_pages else self.prefix_cache,
            self.state,
            self.pages.device_arrays(),
            busy_S,
            np.int32(active_floor),
            np.int32(max_steps),
            self._scorers,
        )
        return np.asarray(self.state.token_count), np.asarray(self.state.active)


def _as_sampled(lm, params) -> tuple:
    """(lm, params) as a model is sampled with: on a single CPU each layer has its own arrays."""
    if not memory_plan.is_single_cpu(lm):
        return lm, params
    module = lm.module.clone(stacked=False)
    return dataclasses.replace(lm, module=module), decoder.unstack(lm.module, params)


def _release_freed_memory() -> None:
    """Returns freed memory to the system.

    After arrays of many sizes, glibc keeps 200 MB and more.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
