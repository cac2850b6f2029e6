"""The page table on the host: which slot owns each page of the cache."""

import numpy as np

from selfrew.models import paged_attention


class PageTable:
    """The pages of each slot. Each part of the mesh has equally many slots and pages, and a slot's
    pages are in its own part.

    Pages are numbered within their part. Page 0 belongs to no slot, see paged_attention.Pages.
    """

    def __init__(self, slots: int, blocks: int, page: int, pages: int, parts: int = 1):
        """slots: in all parts together. blocks: pages that a slot may have. page: tokens of a page.
        pages: of each part, page 0 included.
        """
        self.page, self.pages, self.parts = page, pages, parts
        self.table = np.zeros((slots, blocks), np.int32)  # a slot's pages; 0 where it has fewer
        self.allocated = np.zeros(slots, np.int64)  # pages of each slot
        self._free = [list(range(pages - 1, 0, -1)) for _ in range(parts)]

    @property
    def total_pages(self) -> int:
        """The pages of all parts together."""
        return self.parts * self.pages

    def _part(self, slot):
        return slot // (len(self.table) // self.parts)

    def pages_of(self, tokens):
        """The number of pages that this many tokens take."""
        return -(-tokens // self.page)

    def pages_needed(self, blocks_S) -> int:
        """The pages that each part must have, so that each slot can have `blocks_S` pages without
        giving back any.
        """
        pages_S = np.maximum(self.allocated, blocks_S)
        return 1 + int(pages_S.reshape(self.parts, -1).sum(axis=1).max())

    def allocate(self, slot: int, blocks: int) -> None:
        """Gives the slot free pages until it has `blocks`. IndexError where none is free."""
        free = self._free[self._part(slot)]
        while self.allocated[slot] < blocks:
            self.table[slot, self.allocated[slot]] = free.pop()
            self.allocated[slot] += 1

    def free(self, slot: int) -> None:
        """Takes all pages from the slot."""
        self._free[self._part(slot)].extend(self.table[slot, : self.allocated[slot]].tolist())
        self.table[slot], self.allocated[slot] = 0, 0

    def global_pages(self, slot: int, blocks: int) -> np.ndarray:
        """[blocks] The slot's first pages, numbered over all parts; 0 where it has fewer."""
        count, global_pages = min(blocks, self.allocated[slot]), np.zeros(blocks, np.int32)
        global_pages[:count] = self.table[slot, :count] + self._part(slot) * self.pages
        return global_pages

    def repack(self, slots, pages: int) -> np.ndarray:
        """Keeps only these slots, and gives each part `pages` pages. Other slots must have none.

        Returns [parts pages], the old page whose content each new page takes over.
        """
        old_table, self.allocated = self.table[slots], self.allocated[slots]
        self.table, self.pages = np.zeros_like(old_table), pages
        source_PQ = np.zeros((self.parts, pages), np.int32)
        used = np.ones(self.parts, np.int64)  # of each part; page 0 belongs to no slot
        for slot, count in enumerate(self.allocated):
            part = self._part(slot)
            new_pages = np.arange(used[part], used[part] + count)
            source_PQ[part, new_pages] = old_table[slot, :count]
            self.table[slot, :count] = new_pages
            used[part] += count
        self._free = [list(range(pages - 1, first - 1, -1)) for first in used]
        return source_PQ

    def device_arrays(self) -> paged_attention.Pages:
        """The table as the device needs it, in host arrays, without `filled`."""
        slots, blocks = self.table.shape
        slot, place = np.nonzero(np.arange(blocks)[None, :] < self.allocated[:, None])
        page = self._part(slot) * self.pages + self.table[slot, place]
        owner, place_of_page = np.zeros((2, self.total_pages), np.int32)
        owner[page], place_of_page[page] = slot % (slots // self.parts), place
        return paged_attention.Pages(self.table.copy(), owner, place_of_page, None)
