"""The host's side: requests into slots, samples out of them, until all are made."""

import collections
import dataclasses
import functools

import jax
import numpy as np

from selfrew.engine.generate import memory_plan, programs
from selfrew.engine.generate.page_table import PageTable
from selfrew.mesh import processes, sharding
from selfrew.models import decoder
from selfrew.types import Response

BURST, STEPS = (
    16,
    8,
)  # steps between two looks at the slots; the latter with stop strings, or while a prompt is read
FEWER = 8, 16, 32, 48, 64, 96, 128, 192, 256  # slots there may be once samples end
SPARED = 1e10  # FLOPs for which it is worth to have fewer
SMALL = 16 * 2**20  # bytes; a cache that takes no more is made whole at once


def _stopped(text, tokens, stop: tuple, since: int) -> tuple[int, str] | None:
    """How many tokens until a stop string is complete, and the text before it; looked for from
    `since` tokens on.
    """
    if not any(s in text.decode(tokens) for s in stop):
        return None
    for n in range(since + 1, len(tokens) + 1):
        said = text.decode(tokens[:n])
        found = [said.index(s) for s in stop if s in said]
        if found:
            return n, said[: min(found)]
    return None


_empty_pool = functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))(programs.empty_cache)


def _read_shared(lm, params, tokens):
    """What all prompts begin with, read once, in one row."""
    if not tokens:
        return None
    pool = _empty_pool(lm.module, lm.cache_dtype, 1, len(tokens))
    chunk = next(n for n in (256, 128, 64, 32) if len(tokens) % n == 0)
    for at in range(0, len(tokens), chunk):
        one = lm.replicate(np.array([tokens[at : at + chunk]], np.int32))
        pool = programs.prefill(lm.module, params, one, np.int32(at), None, pool)
    return programs.as_prefix_cache(lm.module, pool)


class Reader:
    """The pool: distinct prompts that are read together, a chunk of each at a time. groups:
    (prompt, its requests).

    wanted: whether any of them is; else the reading is only counted.
    """

    def __init__(self, lm, layout: memory_plan.MemoryPlan, groups, wanted: bool):
        self.groups, self.at, self._chunk = groups, 0, layout.chunk
        self._whole = max(len(prompt) for prompt, _ in groups) - 1 - layout.shared
        self._tokens = np.full((layout.prompts, layout.pool), lm.text.pad, np.int32)
        for row, (prompt, _) in enumerate(groups):
            own = prompt[layout.shared : -1]
            self._tokens[row, : len(own)] = own
        self._lm = lm
        self.cache = (
            _empty_pool(lm.module, lm.cache_dtype, layout.prompts, layout.pool) if wanted else None
        )

    @property
    def done(self) -> bool:
        return self.at >= self._whole

    def go_on(self, params, shared) -> None:
        if self.cache is not None:
            tokens = self._lm.place_rows(self._tokens[:, self.at : self.at + self._chunk])
            self.cache = programs.prefill(
                self._lm.module, params, tokens, np.int32(self.at), shared, self.cache
            )
        self.at += self._chunk


class Scheduler:
    """Requests on their way: waiting to be read, being read, ready to be let in, in a slot.
    `results` is all there is.

    The cache gets more pages as samples grow; and on a CPU, where a step takes as long as it has
    slots, there are fewer of them once no request waits and samples end. The last bits of what is
    computed depend on how many there are of either. A run that was killed and goes on must have as
    many at each step as it would have had; so what it has made already goes through the slots
    again, as ghosts: they take a slot, and pages, for as many steps as they took, and where there
      is nothing else in the slots, these are counted, not made.
    """

    def __init__(self, lm, params, layout: memory_plan.MemoryPlan, requests, made):
        """made: each request's response, or None."""
        longest = max(r.asked.limit for r in requests)
        self._flops = 2 * (
            decoder.count_weights(lm.module) + lm.config.vocab * lm.config.width
        )  # of a slot's step
        alone = memory_plan.is_single_cpu(lm)
        self._shrinks = (
            alone and layout.slots > FEWER[0] and layout.slots * self._flops * longest >= SPARED
        )
        if alone:
            params = decoder.unstack(lm.module, params)
            lm = dataclasses.replace(lm, module=lm.module.clone(stacked=False))
        self.lm, self.params, self.layout, self.requests, self.made = (
            lm,
            params,
            layout,
            requests,
            made,
        )
        # How many tokens of each request's prompt lie in its slot's pages; and how many its sample
        # may have.
        self._lengths = np.array([len(r.prompt) - 1 - layout.shared for r in requests])
        self._limits = np.array([r.asked.limit for r in requests])
        groups = collections.defaultdict(list)
        for i, request in enumerate(requests):
            groups[request.prompt].append(i)
        # Prompts of like length are read together, the longest first.
        order = sorted(groups.items(), key=lambda group: -len(group[0]))
        self.shared = _read_shared(lm, params, requests[0].prompt[: layout.shared])
        self.ends = max(1, *(len(r.asked.ends) for r in requests))
        S = layout.slots
        self.book = PageTable(S, layout.blocks, layout.page, 1, sharding.row_shards(lm.mesh))
        first = [i for _, members in order for i in members][:S]
        tokens = np.zeros(S, np.int64)
        tokens[: len(first)] = self._lengths[first] + np.minimum(BURST, self._limits[first])
        least = min(self._all_pages(), SMALL // (layout.page * memory_plan.column_bytes(lm)))
        self.book.repack(
            np.arange(S), self._pages(max(self.book.pages_needed(self.book.pages_of(tokens)), least))
        )
        self.state = programs.empty_slots(
            lm.module,
            lm.cache_dtype,
            rows=S,
            pages=self.book.pages * self.book.parts,
            page=layout.page,
            limit=layout.limit,
            ends=self.ends,
            words=len(requests[0].words),
        )
        if (
            not self._shrinks and self.book.pages == self._all_pages()
        ):  # nothing will change: no need of ghosts
            own = [(prompt, [i for i in members if made[i] is None]) for prompt, members in order]
            order = [(prompt, members) for prompt, members in own if members]
        self.waiting = collections.deque(order)
        self.reader, self.ready = (
            None,
            collections.deque(),
        )  # of (request, its reader, its row in the pool)
        self.holds = np.full(S, -1)  # the request in each slot
        self.produced = np.zeros(S, np.int64)  # how many tokens it has
        self.searched = np.zeros(S, np.int64)  # how many of these are known to hold no stop string
        self.unseen = np.zeros(
            S, np.int64
        )  # how many of them the device does not know of, a ghost's
        self.hidden = np.zeros(S, bool)  # ghosts that the device does not know of at all

    def results(self):
        """Yields lists of (which request, its response) as samples come to their ends."""
        patience = max(self.layout.slots // 16, 1)  # so many idle slots are worth a look
        while True:
            self._fill()
            busy = self.holds >= 0
            if not busy.any():
                return
            strings = any(self.requests[i].asked.stop for i in self.holds[busy])
            most, floor = STEPS if strings or self.reader else BURST, 0
            if self.ready or self.waiting or self.reader:
                floor = 0 if strings else max(busy.sum() - patience, 0)
            elif self._shrinks:
                self._shrink(busy)
                busy = self.holds >= 0
                fewer = max((n for n in FEWER if n < len(busy)), default=0)
                floor = 0 if strings or not self._pays(fewer) else fewer
            active = self._advance(busy, floor, most)
            yield self._collect(busy, active, strings)

    # --- slots ---

    def _pays(self, slots: int) -> bool:
        """Whether it would pay to have so many slots from now on."""
        left = (self._limits[self.holds] - self.produced)[self.holds >= 0].max()
        return slots > 0 and (len(self.holds) - slots) * self._flops * left >= SPARED

    def _shrink(self, busy) -> None:
        """Goes on with as few slots as there are samples left, about, where it pays."""
        S = next((n for n in FEWER if n >= busy.sum()), len(busy))
        if S >= len(busy) or not self._pays(S):
            return
        keep = np.sort(np.argsort(~busy, kind='stable')[:S])
        self._repage(keep, min(self.book.pages, self._all_pages(S)))
        rest = programs.select_slots(self.state._replace(cache=()), keep.astype(np.int32))
        self.state = rest._replace(cache=self.state.cache)
        for name in ('holds', 'produced', 'searched', 'unseen', 'hidden'):
            setattr(self, name, getattr(self, name)[keep])

    def _all_pages(self, slots: int | None = None) -> int:
        """So many that each slot has all it may have; of each part of the mesh."""
        return 1 + (slots or len(self.book.table)) // self.book.parts * self.layout.blocks

    def _pages(self, wanted: int) -> int:
        """How many there should be where so many are wanted: half of all that may be, or all."""
        half = -(-self._all_pages() // 2)
        return half if wanted <= half else self._all_pages()

    def _upto(self, most: int) -> np.ndarray:
        """How many tokens each slot's cache will have to hold after so many steps; 0 of one that is
        idle.
        """
        tokens = self._lengths[self.holds] + np.minimum(
            self.produced + most, self._limits[self.holds]
        )
        return np.where(self.holds >= 0, tokens, 0)

    def _room(self, blocks_S) -> None:
        """Gives each slot so many pages, and the cache more where there are too few."""
        if (wanted := self.book.pages_needed(blocks_S)) > self.book.pages:
            self._repage(np.arange(len(self.holds)), self._pages(wanted))
        for slot in np.flatnonzero(blocks_S > self.book.allocated):
            self.book.allocate(slot, blocks_S[slot])

    def _repage(self, slots, pages: int) -> None:
        content, parts = self.book.repack(slots, pages), list(self.state.cache)
        self.state = self.state._replace(cache=())
        for i in range(
            len(parts)
        ):  # one after the other, so that no more than one lies in memory twice
            parts[i] = programs.move_pages(self.lm.module, parts[i], content)
        self.state = self.state._replace(cache=tuple(parts))
        processes.release_freed_memory()

    def _advance(self, busy, floor: int, most: int) -> np.ndarray:
        """Makes tokens in the busy slots. Returns which are still at it, [S] bool."""
        self._room(self.book.pages_of(self._upto(most)))
        if self.hidden[busy].all():
            rest = np.where(
                busy, [self._rest(slot) if i >= 0 else 0 for slot, i in enumerate(self.holds)], 0
            )
            for _ in range(most):
                if (rest > 0).sum() <= floor:
                    break
                self.produced += rest > 0
                rest = np.maximum(rest - 1, 0)
            self.unseen = np.where(self.hidden, self.produced, self.unseen)
            return rest > 0
        self.state = programs.decode(
            self.lm.module,
            self.params,
            self.shared,
            self.state,
            self.book.device_arrays(),
            busy,
            np.int32(floor),
            np.int32(most),
        )
        self.produced = np.where(busy, self.unseen + np.asarray(self.state.produced), 0)
        return np.asarray(self.state.active)

    def _rest(self, slot: int) -> int:
        """How many more steps a ghost takes: until its sample ended, or to its limit where a stop
        string ended it.
        """
        i = self.holds[slot]
        tokens, asked = self.made[i].tokens, self.requests[i].asked
        by_string = asked.stop and tokens[-1] not in asked.ends
        return (asked.limit if by_string else len(tokens)) - int(self.produced[slot])

    def _fill(self) -> None:
        """Lets requests into the idle slots, and reads prompts for them; a chunk at a time once few
        slots are idle.

        A step costs as much with idle slots, and what is to be read has to be read: so it is read
        first.
        """
        few = max(len(self.holds) // 8, 1)
        while (self.holds < 0).any() and (self.ready or self.reader or self.waiting):
            if self.ready:
                self._admit()
                continue
            if self.reader is None:
                some = [
                    self.waiting.popleft()
                    for _ in range(min(self.layout.prompts, len(self.waiting)))
                ]
                wanted = any(self.made[i] is None for _, members in some for i in members)
                self.reader = Reader(self.lm, self.layout, some, wanted)
            if not self.reader.done:
                self.reader.go_on(self.params, self.shared)
            if self.reader.done:
                for row, (_, members) in enumerate(self.reader.groups):
                    self.ready.extend((i, self.reader, row) for i in members)
                self.reader = None
            elif (self.holds < 0).sum() <= few:
                return  # the slots go on between its chunks

    def _admit(self) -> None:
        """Lets requests, whose prompts lie in one pool, into idle slots: as many as one call of the
        program takes.
        """
        here, source, A = [], self.ready[0][1], max(len(self.holds) // 4, 1)
        for slot in np.flatnonzero(self.holds < 0)[:A]:
            if not self.ready or self.ready[0][1] is not source:
                break
            i, _, row = self.ready.popleft()
            self.holds[slot], self.searched[slot], self.produced[slot], self.unseen[slot] = (
                i,
                0,
                0,
                0,
            )
            self.hidden[slot] = self.made[i] is not None
            here.append((slot, i, row))
        fresh = [slot for slot, _, _ in here]
        self._room(
            self.book.pages_of(np.where(np.isin(np.arange(len(self.holds)), fresh), self._upto(1), 0))
        )
        if self.hidden[self.holds >= 0].all():
            return
        here += [
            (slot, self.holds[slot], 0) for slot in np.flatnonzero(self.hidden) if slot not in fresh
        ]
        self.hidden[:] = False
        for at in range(0, len(here), A):
            self._put(here[at : at + A], A, source.cache)

    def _put(self, here, A: int, pool) -> None:
        """Has the device let in [(slot, request, row of the pool)], at most A."""
        pool = pool or _empty_pool(
            self.lm.module, self.lm.cache_dtype, self.layout.prompts, self.layout.pool
        )
        slots, S, rest = [slot for slot, _, _ in here], len(self.holds), A - len(here)
        B, asked = (
            self.layout.pool // self.layout.page,
            [self._asked(slot, i) for slot, i, _ in here],
        )
        ask = programs.SlotRequest(
            *(np.array(x, kind) for x, kind in zip(zip(*asked, *asked[:1] * rest), programs.KINDS))
        )
        pages = np.zeros((A, B), np.int32)
        pages[: len(here)] = [self.book.global_pages(slot, B) for slot in slots]
        row = np.array([row for _, _, row in here] + [0] * rest, np.int32)
        slot = np.array(slots + [S] * rest, np.int32)  # beyond the last slot: dropped
        self.state = programs.insert(self.lm.module, self.state, pool, slot, row, pages, ask)

    def _asked(self, slot: int, i: int) -> programs.SlotRequest:
        """What is asked of a slot; of a ghost only that it takes as long as its sample took."""
        request, ghost = self.requests[i], self.made[i] is not None
        o, ends = request.asked, () if ghost else request.asked.ends
        filled, limit = (0, self._rest(slot)) if ghost else (self._lengths[i], o.limit)
        return programs.SlotRequest(
            request.words,
            request.prompt[-1],
            filled,
            limit,
            o.temperature,
            o.top_k,
            o.top_p,
            o.min_p,
            ends + (-1,) * (self.ends - len(ends)),
        )

    def _collect(self, busy, active, strings: bool) -> list:
        """(Which request, its response) of the slots whose samples have ended, which are idle from
        now on.
        """
        over, out = busy & ~active, []
        if not strings and not over.any():
            return out
        seen = [
            slot
            for slot in np.flatnonzero(busy if strings else over)
            if not self._ghost(slot, over[slot])
        ]
        if seen:
            tokens, logp = np.asarray(self.state.tokens), np.asarray(self.state.logp)
        for slot in seen:
            n, asked = int(self.produced[slot]), self.requests[self.holds[slot]].asked
            mine, said = tuple(tokens[slot, :n].tolist()), None
            finish = 'stop' if mine[-1] in asked.ends else 'length'
            if asked.stop and (
                found := _stopped(self.lm.text, mine, asked.stop, int(self.searched[slot]))
            ):
                (n, said), finish = found, 'stop'
                mine = mine[:n]
            elif not over[slot]:
                self.searched[slot] = n
                continue
            said = self.lm.text.decode(mine) if said is None else said
            total = float(logp[slot, :n].sum(dtype=np.float64))
            out.append((int(self.holds[slot]), Response(said, mine, finish, total)))
            self._leave(slot)
        return out

    def _ghost(self, slot: int, over: bool) -> bool:
        """Whether a ghost is in the slot, which it leaves where its sample had come to its end."""
        response = self.made[self.holds[slot]]
        if response is not None and (over or self.produced[slot] >= len(response.tokens)):
            self._leave(slot)
        return response is not None

    def _leave(self, slot: int) -> None:
        self.book.free(slot)
        self.holds[slot], self.hidden[slot] = -1, False
