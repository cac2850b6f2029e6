"""The slots as the host sees them: which request each slot has, and how far its sample is."""

import numpy as np


class SlotTable:
    """For each of S slots its request and progress. It is busy while it has a request.

    A replayed request is one whose response was recorded by a killed run. `is_host_only` marks
    those that the device does not know of: their steps are counted on the host. `host_count` is
    that count. The device continues from it once it has the request.
    """

    def __init__(self, slots: int):
        self.request = np.full(slots, -1)  # [S] index of its request; -1 where it is idle
        self.token_count = np.zeros(slots, np.int64)  # [S] tokens of its sample
        self.stop_checked = np.zeros(slots, np.int64)  # [S] of these, known to hold no stop string
        self.is_host_only = np.zeros(slots, bool)  # [S]
        self.host_count = np.zeros(slots, np.int64)  # [S] tokens

    def __len__(self) -> int:
        return len(self.request)

    @property
    def is_busy(self) -> np.ndarray:
        """[S] bool."""
        return self.request >= 0

    @property
    def idle(self) -> list[int]:
        """The idle slots."""
        return np.flatnonzero(~self.is_busy).tolist()

    def assign(self, slot: int, request: int, *, is_host_only: bool) -> None:
        """Gives the slot a request without tokens."""
        self.request[slot], self.is_host_only[slot] = request, is_host_only
        self.token_count[slot] = self.stop_checked[slot] = self.host_count[slot] = 0

    def release(self, slot: int) -> None:
        """Takes its request from the slot."""
        self.request[slot], self.is_host_only[slot] = -1, False

    def select(self, slots) -> None:
        """Keeps only these slots."""
        self.request, self.token_count = self.request[slots], self.token_count[slots]
        self.stop_checked = self.stop_checked[slots]
        self.is_host_only, self.host_count = self.is_host_only[slots], self.host_count[slots]
