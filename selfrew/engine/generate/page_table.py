"""The host's account of the cache's pages: whose each of them is."""

import numpy as np

from selfrew.models import attention


class PageTable:
    """Pages and slots lie in parts of the mesh, as many in each; a slot's pages lie in its part.

    Pages are numbered within their part. Page 0 is nobody's, see attention.Pages.
    """

    def __init__(self, slots: int, blocks: int, page: int, pages: int, parts: int = 1):
        """slots: in all. blocks: pages a slot may have, of `page` tokens. pages: of each part, page
        0 included.
        """
        self.page, self.pages, self.parts = page, pages, parts
        self.table, self.allocated = np.zeros((slots, blocks), np.int32), np.zeros(slots, np.int64)
        self._free = [list(range(pages - 1, 0, -1)) for _ in range(parts)]

    def _part(self, slot):
        return slot // (len(self.table) // self.parts)

    def pages_of(self, tokens):
        """How many pages so many tokens take."""
        return -(-tokens // self.page)

    def pages_needed(self, blocks_S) -> int:
        """How many pages each part must have, so that each slot can have so many, or those that it
        has.
        """
        return 1 + int(np.maximum(self.allocated, blocks_S).reshape(self.parts, -1).sum(axis=1).max())

    def allocate(self, slot: int, blocks: int) -> None:
        """The slot has at least so many pages from now on. IndexError where none is left."""
        free = self._free[self._part(slot)]
        while self.allocated[slot] < blocks:
            self.table[slot, self.allocated[slot]] = free.pop()
            self.allocated[slot] += 1

    def free(self, slot: int) -> None:
        """The slot has no page any more."""
        self._free[self._part(slot)].extend(self.table[slot, : self.allocated[slot]].tolist())
        self.table[slot], self.allocated[slot] = 0, 0

    def global_pages(self, slot: int, blocks: int) -> np.ndarray:
        """[blocks] The slot's pages, counted over all parts; 0 where it has fewer."""
        held, places = min(blocks, self.allocated[slot]), np.zeros(blocks, np.int32)
        places[:held] = self.table[slot, :held] + self._part(slot) * self.pages
        return places

    def repack(self, slots, pages: int) -> np.ndarray:
        """Goes on with these of the slots and so many pages of each part; what is not among them
        must hold none.

        Returns the page [parts pages] whose content each new one takes over.
        """
        old, held = self.table[slots], self.allocated[slots]
        self.table, self.allocated, self.pages = np.zeros_like(old), held, pages
        content, count = np.zeros((self.parts, pages), np.int32), np.ones(self.parts, np.int64)
        for slot, (mine, n) in enumerate(zip(old, held)):
            part = self._part(slot)
            new = np.arange(count[part], count[part] + n)
            content[part, new], self.table[slot, :n] = mine[:n], new
            count[part] += n
        self._free = [list(range(pages - 1, n - 1, -1)) for n in count]
        return content

    def device_arrays(self) -> attention.Pages:
        """What the device wants to know, host arrays; without `filled`."""
        slot, place = np.nonzero(np.arange(self.table.shape[1])[None, :] < self.allocated[:, None])
        at = self._part(slot) * self.pages + self.table[slot, place]
        owner, where = np.zeros((2, self.parts * self.pages), np.int32)
        owner[at], where[at] = slot % (len(self.table) // self.parts), place
        return attention.Pages(self.table.copy(), owner, where, None)
