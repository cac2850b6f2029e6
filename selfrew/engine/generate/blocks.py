"""Block-wise control: several candidates of each sample, of which the best one goes on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from selfrew.engine.generate import memory_plan
from selfrew.engine.generate.control import Control
from selfrew.engine.generate.options import Request
from selfrew.engine.generate.scheduler import BURST, SHORT_BURST, Scheduler
from selfrew.types import Response

CANDIDATE = 2**31  # folded with a candidate's number: tokens are numbered below it


@jax.jit
def _candidate_keys(key_words_MW, number_K):
    """[M K W] The data of the keys of candidates from the second one on."""

    def fold(words_W, number):
        return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(words_W), number))

    return jax.vmap(lambda words_W: jax.vmap(lambda k: fold(words_W, k))(number_K))(key_words_MW)


def candidate_requests(requests: list[Request], count: int) -> list[Request]:
    """Each request `count` times in a row, with keys of their own; the first one's is the
    request's.
    """
    numbers = np.arange(1, count, dtype=np.uint32) + np.uint32(CANDIDATE)
    words_MKW = np.zeros((len(requests), 0, 0), np.uint32)
    if count > 1:
        key_words_MW = jnp.stack([request.key_words for request in requests])
        words_MKW = np.asarray(_candidate_keys(key_words_MW, numbers))
    return [
        dataclasses.replace(request, key_words=words)
        for request, others in zip(requests, words_MKW)
        for words in (request.key_words, *others)
    ]


class BlockScheduler(Scheduler):
    """Samples K candidates of each request in K slots, a block of M tokens at a time. At the end of
    a block all slots go on with the candidate of the highest value, until that one has ended
    (block-wise best-of-K, arXiv 2310.17022, §3.2).

    A candidate that ends earlier waits with its value at its end. Of equal values the first
    candidate's counts. Nothing is read again: a candidate's pages are copied from where the block
    began. The sizes are fixed from the first step on, so that what a journal has need not be
    replayed.
    """

    def __init__(
        self,
        lm,
        params,
        plan: memory_plan.MemoryPlan,
        requests,
        recorded,
        first,
        control: Control | None,
    ):
        """The arguments are those of `Scheduler`; all requests have the same K and M, and K divides
        the number of slots.
        """
        self._count, self._block = requests[0].options.candidates, requests[0].options.block
        K = self._count
        super().__init__(
            lm,
            params,
            plan,
            candidate_requests(requests, K),
            [response for response in recorded for _ in range(K)],
            [K * number for number in first],
            control,
            is_fixed=True,
        )
        self._start = np.zeros(plan.slots, np.int64)  # [S] tokens of the sample before its block

    def _slot_request(self, slot: int):
        self._start[slot] = 0
        request = super()._slot_request(slot)
        return request._replace(limit=min(self._block, request.limit))

    def _block_end(self, slots):
        """Tokens of the samples at the end of the slots' blocks."""
        return np.minimum(
            self._start[slots] + self._block, self._limits[self._slots.request[slots]]
        )

    def _groups(self, busy_S) -> dict[int, np.ndarray]:
        """Request -> the slots of its candidates, in their order."""
        busy = np.flatnonzero(busy_S)
        busy = busy[np.argsort(self._slots.request[busy])]
        owner = self._slots.request[busy] // self._count
        return {int(i): busy[owner == i] for i in np.unique(owner)}

    def _burst(self, busy_S, has_stop: bool) -> tuple[int, int]:
        """No burst goes beyond a block's end, so that all slots go on together."""
        del has_stop
        counts = self._slots.token_count
        left = [
            self._block_end(slots[0]) - counts[slots].max()
            for slots in self._groups(busy_S).values()
        ]
        return 0, int(min(*left, SHORT_BURST if self._pool else BURST))

    def _collect(self, busy_S, active_S, has_stop: bool) -> list[tuple[int, Response]]:
        """Ends the blocks whose candidates have all come to their end; returns (index of the
        request, response) of the samples that ended with it.
        """
        del has_stop
        whole = [(i, s) for i, s in self._groups(busy_S).items() if not active_S[s].any()]
        if not whole:
            return []
        state = self._device.state
        value_S, token_S = np.asarray(state.value), np.asarray(state.request.token)
        source_S, is_forked_S = np.arange(len(busy_S)), np.zeros(len(busy_S), bool)
        finished = {}  # slot of the best candidate -> (index of the request, slots of all)
        for index, slots in whole:
            best = int(slots[np.argmax(value_S[slots])])
            if not np.isfinite(value_S[slots]).all():
                raise ValueError('the value of a candidate is not finite; its scorer is damaged')
            options = self._requests[self._slots.request[best]].options
            count = int(self._slots.token_count[best])
            if int(token_S[best]) in options.ends or count >= options.limit:
                finished[best] = index, slots
            else:
                source_S[slots], is_forked_S[slots] = best, True
        responses = []
        for best, response in self._responses(list(finished), ~active_S):
            index, slots = finished[best]
            # The law of the best of several candidates is not that of each.
            responses.append((index, dataclasses.replace(response, sampled_logp=None)))
            for slot in slots.tolist():
                self._release_sampled(slot)
        self._fork(source_S, is_forked_S)
        return responses

    def _fork(self, source_S, is_forked_S) -> None:
        """Forked slots go on with the sample of their source, into a new block."""
        if not is_forked_S.any():
            return
        slots, page_size = self._slots, self._plan.page_size
        count_S = np.where(is_forked_S, slots.token_count[source_S], slots.token_count)
        lengths_S = self._lengths[slots.request]
        first_page_S = (lengths_S + self._start) // page_size
        slots.token_count = count_S
        self._start = np.where(is_forked_S, count_S, self._start)
        tokens_S = np.where(is_forked_S, lengths_S + count_S, 0)
        self._device.reserve(tokens_S)
        limit_S = self._block_end(np.arange(len(slots)))
        self._device.fork(source_S, is_forked_S, limit_S, first_page_S, tokens_S)
