"""The page table on the host: which slot owns each page of the cache.

Axis letters here: S slots, B pages that a slot may have, Z parts of the mesh, Q pages of a part.
"""

import numpy as np

from selfrew.models import paged_attention


class PageTable:
    """The pages of each slot. Each part of the mesh has equally many slots and pages, and a slot's
    pages are in its own part.

    Pages are numbered within their part. Page 0 belongs to no slot, see paged_attention.Pages. The
    next pages may be shared: they are the first pages of each slot that has any.
    """

    def __init__(
        self,
        slots: int,
        pages_per_slot: int,
        page_size: int,
        pages: int,
        parts: int = 1,
        shared: int = 0,
    ):
        """slots: in all parts together. pages_per_slot: that a slot may have. page_size: in tokens.
        pages: of each part, page 0 and the shared ones included.
        """
        self.page_size, self.pages, self.parts, self.shared = page_size, pages, parts, shared
        # [S B] int32, a slot's pages; 0 where it has fewer
        self.table = np.zeros((slots, pages_per_slot), np.int32)
        self.allocated = np.zeros(slots, np.int64)  # [S] pages that the slot has
        self._free = [list(range(pages - 1, shared, -1)) for _ in range(parts)]

    @property
    def total_pages(self) -> int:
        """The pages of all parts together."""
        return self.parts * self.pages

    def _part(self, slot):
        return slot // (len(self.table) // self.parts)

    def pages_of(self, tokens):
        """The number of pages that this many tokens take."""
        return -(-tokens // self.page_size)

    def pages_needed(self, wanted_S) -> int:
        """The pages that each part must have, so that each slot can have `wanted_S` pages without
        giving back any.
        """
        pages_S = np.maximum(np.maximum(self.allocated, wanted_S) - self.shared, 0)
        return 1 + self.shared + int(pages_S.reshape(self.parts, -1).sum(axis=1).max())

    def allocate(self, slot: int, count: int) -> None:
        """Gives the slot free pages until it has `count`. IndexError where none is free."""
        free = self._free[self._part(slot)]
        while self.allocated[slot] < count:
            block = self.allocated[slot]
            self.table[slot, block] = 1 + block if block < self.shared else free.pop()
            self.allocated[slot] += 1

    def free(self, slot: int) -> None:
        """Takes all pages from the slot."""
        own = self.table[slot, self.shared : self.allocated[slot]]
        self._free[self._part(slot)].extend(own.tolist())
        self.table[slot], self.allocated[slot] = 0, 0

    def global_pages(self, slot: int, count: int) -> np.ndarray:
        """[count] The slot's first pages, numbered over all parts; 0 where it has fewer."""
        global_pages, filled = np.zeros(count, np.int32), min(count, self.allocated[slot])
        global_pages[:filled] = self.table[slot, :filled] + self._part(slot) * self.pages
        return global_pages

    def shared_pages(self) -> np.ndarray:
        """[Z shared] The shared pages of each part, numbered over all parts."""
        first = np.arange(self.parts, dtype=np.int32)[:, None] * self.pages
        return first + np.arange(1, 1 + self.shared, dtype=np.int32)

    def repack(self, slots, pages: int) -> np.ndarray:
        """Keeps only these slots, and gives each part `pages` pages. Other slots must have none.

        Returns [Z Q], the old page whose content each new page takes over.
        """
        old_table, self.allocated = self.table[slots], self.allocated[slots]
        self.table, self.pages = np.zeros_like(old_table), pages
        source_ZQ = np.zeros((self.parts, pages), np.int32)
        shared = np.arange(1, 1 + self.shared)
        source_ZQ[:, shared] = shared
        used = np.full(self.parts, 1 + self.shared)  # of each part
        for slot, count in enumerate(self.allocated):
            part, own = self._part(slot), slice(self.shared, count)
            new_pages = used[part] + np.arange(max(count - self.shared, 0))
            source_ZQ[part, new_pages] = old_table[slot, own]
            self.table[slot, own] = new_pages
            self.table[slot, : min(count, self.shared)] = shared[:count]
            used[part] += len(new_pages)
        self._free = [list(range(pages - 1, first - 1, -1)) for first in used]
        return source_ZQ

    def device_arrays(self) -> paged_attention.Pages:
        """The table as the device needs it, in host arrays, without `filled`."""
        slots, pages_per_slot = self.table.shape
        slot, place = np.nonzero(np.arange(pages_per_slot)[None, :] < self.allocated[:, None])
        page = self._part(slot) * self.pages + self.table[slot, place]
        owner, place_of_page = np.zeros((2, self.total_pages), np.int32)
        owner[page], place_of_page[page] = slot % (slots // self.parts), place
        return paged_attention.Pages(self.table.copy(), owner, place_of_page, None)
