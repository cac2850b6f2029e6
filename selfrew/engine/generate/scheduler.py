"""The scheduler: takes requests through prefill into slots, and samples out of them.

Axis letters here: M requests, S slots, T time in decoding.
"""

import collections
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from selfrew.engine.finite import check_sampled
from selfrew.engine.generate import memory_plan, prefill, programs
from selfrew.engine.generate.control import Control
from selfrew.engine.generate.device_slots import DeviceSlots, Insertion
from selfrew.engine.generate.slot_table import SlotTable
from selfrew.engine.generate.stop_strings import find_stop
from selfrew.models import decoder
from selfrew.types import Response

BURST = 16  # decode steps between two looks at the slots
SHORT_BURST = 8  # the same with stop strings, or while prompts are prefilled
SLOT_COUNTS = 8, 16, 32, 48, 64, 96, 128, 192, 256  # to which the slots may shrink
MIN_FLOPS_SAVED = 1e10  # for which shrinking pays


class _Ready(NamedTuple):
    """A request whose prompt is prefilled."""

    request: int
    pool: prefill.PrefillPool
    row: int  # of the pool


class Scheduler:
    """Takes each request from waiting through prefill to ready and into a slot, see `results`.

    The cache grows with the samples. On a single CPU, where a step's time is proportional to the
    number of slots, their number shrinks once no request waits. The last bits of a result depend on
    both sizes, so at each step a resumed run must have the sizes that an uninterrupted run has. It
    therefore replays the requests whose responses are recorded: they take a slot and pages for as
    many steps as they took. While only replayed requests are in the slots, their steps are counted
    and not computed.
    """

    def __init__(
        self,
        lm,
        params,
        plan: memory_plan.MemoryPlan,
        requests,
        recorded,
        first=(),
        control: Control | None = None,
        *,
        is_fixed: bool = False,
    ):
        """recorded: each request's response where a journal has it, else None. first: see
        prefill.group_by_prompt. is_fixed: no size changes while samples are made.
        """
        self._plan, self._requests, self._recorded = plan, requests, recorded
        # [M] tokens of each prompt that are in its slot's pages
        self._lengths = np.array([len(r.prompt) - 1 - plan.tokens_beside_pages for r in requests])
        # [M] tokens that each sample may have
        self._limits = np.array([r.options.limit for r in requests])
        self._is_missing = np.array([response is None for response in recorded])  # [M]
        # Tokens that the missing samples which have not ended may have in all.
        self._open_limits = int(self._limits[self._is_missing].sum())
        weights = decoder.count_weights(lm.module) + lm.config.vocab * lm.config.width
        self._step_flops = 2 * weights  # of one slot
        self._can_shrink = (
            memory_plan.is_single_cpu(lm)
            and not is_fixed
            and plan.slots > SLOT_COUNTS[0]
            and plan.slots * self._step_flops * self._limits.max() >= MIN_FLOPS_SAVED
        )
        groups = prefill.group_by_prompt(requests, first)
        in_slots = [i for _, members in groups for i in members][: plan.slots]
        tokens_S = np.zeros(plan.slots, np.int64)
        tokens_S[: len(in_slots)] = self._lengths[in_slots]
        tokens_S[: len(in_slots)] += np.minimum(BURST, self._limits[in_slots])
        self._slots = SlotTable(plan.slots)
        self._device = DeviceSlots(
            lm, params, plan, requests, tokens_S, control, has_all_pages=is_fixed
        )
        if not self._can_shrink and self._device.has_all_pages:
            groups = self._without_recorded(groups)  # no size will change: nothing to replay
        self._waiting = collections.deque(groups)
        self._pool: prefill.PrefillPool | None = None
        self._ready: collections.deque[_Ready] = collections.deque()
        # Called with (tokens, prompts read so far, all prompts) as prompts are read.
        self.on_read: Callable[[int, int, int], None] = lambda *_: None
        self._all_prompts, self._read_prompts = len(groups), 0

    def _without_recorded(self, groups) -> list:
        missing = []
        for prompt, members in groups:
            members = [i for i in members if self._recorded[i] is None]
            if members:
                missing.append((prompt, members))
        return missing

    def results(self):
        """Yields (list of (index of a request, its response) of the samples that ended, tokens that
        were sampled), again and again.
        """
        while True:
            self._fill()
            busy_S = self._slots.is_busy
            if not busy_S.any():
                return
            has_stop = any(self._requests[i].options.stop for i in self._slots.request[busy_S])
            if self._can_shrink and not self._has_more():
                self._shrink(busy_S)
                busy_S = self._slots.is_busy
            active_floor, max_steps = self._burst(busy_S, has_stop)
            before_S, is_sampled_S = self._slots.token_count.copy(), self._is_sampled()
            active_S = self._advance(busy_S, active_floor, max_steps)
            sampled_tokens = (self._slots.token_count - before_S)[is_sampled_S].sum()
            yield self._collect(busy_S, active_S, has_stop), int(sampled_tokens)

    def _has_more(self) -> bool:
        """Whether there are requests that are not in a slot yet."""
        return bool(self._ready or self._waiting or self._pool)

    def _burst(self, busy_S, has_stop: bool) -> tuple[int, int]:
        """(Active slots with which the next burst ends early, its most decode steps)."""
        if has_stop:
            return 0, SHORT_BURST
        if self._has_more():
            patience = max(self._plan.slots // 16, 1)  # idle slots for which it ends early
            steps = SHORT_BURST if self._pool else BURST
            return max(int(busy_S.sum()) - patience, 0), steps
        fewer = max((count for count in SLOT_COUNTS if count < len(busy_S)), default=0)
        return fewer if self._can_shrink and self._pays(fewer) else 0, BURST

    def most_left(self) -> int:
        """Tokens that the samples which have not ended may have yet."""
        return self._open_limits - int(self._slots.token_count[self._is_sampled()].sum())

    def _is_sampled(self) -> np.ndarray:
        """[S] Whether a slot has a request that is not replayed."""
        return self._slots.is_busy & self._is_missing[self._slots.request]

    # --- prefill ---

    def _fill(self) -> None:
        """Puts ready requests into idle slots, and prefills prompts for them.

        Prefill comes first: an idle slot costs a decode step as much as a busy one. Once few slots
        are idle, it does one chunk between two bursts.
        """
        few_idle = max(len(self._slots) // 8, 1)
        while self._slots.idle and (self._ready or self._pool or self._waiting):
            if self._ready:
                self._admit()
                continue
            if self._pool is None:
                self._pool = self._next_pool()
            if not self._pool.is_done:
                self._prefill_chunk(self._pool)
            if self._pool.is_done:
                for row, (_, members) in enumerate(self._pool.groups):
                    self._ready.extend(_Ready(i, self._pool, row) for i in members)
                self._pool = None
            elif len(self._slots.idle) <= few_idle:
                return

    def _prefill_chunk(self, pool: prefill.PrefillPool) -> None:
        tokens = pool.prefill_chunk(self._device.prefix_cache)
        if not self._slots.is_busy.any():
            jax.block_until_ready(pool.cache)  # nothing else runs: the time is that of reading
        self._read_prompts += len(pool.groups) if pool.is_done else 0
        self.on_read(tokens, self._read_prompts, self._all_prompts)

    def _next_pool(self) -> prefill.PrefillPool:
        count = min(self._plan.prefill_rows, len(self._waiting))
        groups = [self._waiting.popleft() for _ in range(count)]
        is_replay = all(self._recorded[i] is not None for _, members in groups for i in members)
        return prefill.PrefillPool(self._device.models, self._plan, groups, is_replay)

    def _admit(self) -> None:
        """Puts ready requests with prompts in one pool into idle slots: as many as one call of the
        insert program takes.
        """
        slots, pool, rows = self._slots, self._ready[0].pool, {}
        batch = max(len(slots) // 4, 1)
        for slot in slots.idle[:batch]:
            if not self._ready or self._ready[0].pool is not pool:
                break
            ready = self._ready.popleft()
            is_replay = self._recorded[ready.request] is not None
            slots.assign(slot, ready.request, is_host_only=is_replay)
            rows[slot] = ready.row
        is_new = np.isin(np.arange(len(slots)), list(rows))
        self._device.reserve(np.where(is_new, self._tokens_after(1), 0))
        if slots.is_host_only[slots.is_busy].all():
            return
        # The device has to know of all requests from now on.
        for slot in np.flatnonzero(slots.is_host_only).tolist():
            rows.setdefault(slot, 0)
        slots.is_host_only[:] = False
        insertions = [Insertion(slot, row, self._slot_request(slot)) for slot, row in rows.items()]
        self._device.insert(insertions, batch, pool.cache)

    def _slot_request(self, slot: int) -> programs.SlotRequest:
        """The slot's request for the device; a replayed request only takes the same number of
        steps.
        """
        index = self._slots.request[slot]
        request, is_replay = self._requests[index], self._recorded[index] is not None
        options = request.options
        ends = () if is_replay else options.ends
        return programs.SlotRequest(
            key=request.key_words,
            token=request.prompt[-1],
            filled=0 if is_replay else self._lengths[index],
            limit=self._replay_steps(slot) if is_replay else options.limit,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            ends=ends + (-1,) * (self._device.max_ends - len(ends)),
            strength=options.strength,
        )

    # --- decode ---

    def _tokens_after(self, steps: int) -> np.ndarray:
        """[S] Tokens in each slot's pages after this many steps; 0 where the slot is idle."""
        request = self._slots.request
        sampled = np.minimum(self._slots.token_count + steps, self._limits[request])
        return np.where(self._slots.is_busy, self._lengths[request] + sampled, 0)

    def _advance(self, busy_S, active_floor: int, max_steps: int) -> np.ndarray:
        """Decodes in the busy slots, see programs.decode. Returns [S] which are still active."""
        slots = self._slots
        self._device.reserve(self._tokens_after(max_steps))
        if slots.is_host_only[busy_S].all():
            return self._replay(busy_S, active_floor, max_steps)
        device_count_S, active_S = self._device.decode(busy_S, active_floor, max_steps)
        slots.token_count = np.where(busy_S, slots.host_count + device_count_S, 0)
        return active_S

    def _replay(self, busy_S, active_floor: int, max_steps: int) -> np.ndarray:
        """Counts the steps that `_advance` would do, where all busy slots are replayed."""
        slots, steps_left_S = self._slots, np.zeros(len(self._slots), np.int64)
        for slot in np.flatnonzero(busy_S).tolist():
            steps_left_S[slot] = self._replay_steps(slot)
        for _ in range(max_steps):
            if (steps_left_S > 0).sum() <= active_floor:
                break
            slots.token_count += steps_left_S > 0
            steps_left_S = np.maximum(steps_left_S - 1, 0)
        slots.host_count = np.where(slots.is_host_only, slots.token_count, slots.host_count)
        return steps_left_S > 0

    def _replay_steps(self, slot: int) -> int:
        """Steps that a replayed request still takes: to its sample's end, or to its limit where a
        stop string ended it.
        """
        index = self._slots.request[slot]
        tokens, options = self._recorded[index].tokens, self._requests[index].options
        ended_by_string = options.stop and tokens[-1] not in options.ends
        total = options.limit if ended_by_string else len(tokens)
        return total - int(self._slots.token_count[slot])

    def _pays(self, slot_count: int) -> bool:
        """Whether shrinking to so many slots pays now."""
        busy_S, saved = self._slots.is_busy, len(self._slots) - slot_count
        steps = (self._limits[self._slots.request] - self._slots.token_count)[busy_S].max()
        return slot_count > 0 and saved * self._step_flops * steps >= MIN_FLOPS_SAVED

    def _shrink(self, busy_S) -> None:
        """Shrinks to about as many slots as are busy, where that pays."""
        count = next((count for count in SLOT_COUNTS if count >= busy_S.sum()), len(busy_S))
        if count < len(busy_S) and self._pays(count):
            kept = np.sort(np.argsort(~busy_S, kind='stable')[:count])
            self._device.select(kept)
            self._slots.select(kept)

    # --- responses ---

    def _collect(self, busy_S, active_S, has_stop: bool) -> list[tuple[int, Response]]:
        """Releases the slots whose samples have ended. Returns (index of the request, response) of
        those that were not replayed.
        """
        ended_S = busy_S & ~active_S
        if not has_stop and not ended_S.any():
            return []
        sampled = []  # slots
        for slot in np.flatnonzero(busy_S if has_stop else ended_S).tolist():
            recorded = self._recorded[self._slots.request[slot]]
            if recorded is None:
                sampled.append(slot)
            elif ended_S[slot] or self._slots.token_count[slot] >= len(recorded.tokens):
                self._release(slot)
        finished = []
        for slot, response in self._responses(sampled, ended_S):
            finished.append((int(self._slots.request[slot]), response))
            self._release_sampled(slot)
        return finished

    def _responses(self, slots: list[int], ended_S) -> list[tuple[int, Response]]:
        """(slot, response) of those of the slots whose samples have ended or have a stop string."""
        if not slots:
            return []
        state = self._device.state
        tokens_ST = np.asarray(state.tokens)
        logps_ST = np.asarray(state.logp), np.asarray(state.sampled_logp)
        responses = []
        for slot in slots:
            logps_T = [logp_ST[slot] for logp_ST in logps_ST]
            response = self._response(slot, tokens_ST[slot], logps_T, ended_S[slot])
            if response is not None:
                responses.append((slot, response))
        return responses

    def _response(self, slot: int, tokens_T, logps_T, is_ended: bool) -> Response | None:
        """The slot's response if its sample has ended or has a stop string, else None.

        logps: of each token, under the raw distribution and under the one that it was drawn from.
        Raises ValueError if its log-probability is not finite.
        """
        text, options = self._device.lm.text, self._requests[self._slots.request[slot]].options
        count = int(self._slots.token_count[slot])
        tokens = tuple(tokens_T[:count].tolist())
        finish = 'stop' if tokens[-1] in options.ends else 'length'
        checked = int(self._slots.stop_checked[slot])
        stop = find_stop(text, tokens, options.stop, checked) if options.stop else None
        if stop is not None:
            count, decoded = stop
            tokens, finish = tokens[:count], 'stop'
        elif is_ended:
            decoded = text.decode(tokens)
        else:
            self._slots.stop_checked[slot] = count
            return None
        logp, sampled_logp = (float(x_T[:count].sum(dtype=np.float64)) for x_T in logps_T)
        check_sampled(logp, self._device.lm.module.dtype)
        return Response(decoded, tokens, finish, logp, sampled_logp)

    def _release_sampled(self, slot: int) -> None:
        """Releases a slot whose sample, not a replayed one, has ended."""
        self._open_limits -= int(self._limits[self._slots.request[slot]])
        self._release(slot)

    def _release(self, slot: int) -> None:
        self._device.pages.free(slot)
        self._slots.release(slot)
