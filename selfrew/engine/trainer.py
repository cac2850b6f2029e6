"""A round of updates: packing, the reference pass, and the optimiser steps."""

import functools
import logging
import math
import time
from typing import Any

import jax
import numpy as np

from selfrew.engine import (
    finite,
    loss_contract,
    packing,
    progress,
    reference as references,
    schedules,
    train_state,
    train_step,
    update_memory,
)
from selfrew.mesh import keys, processes, sharding, stopping

CLOCK_EVERY = 10  # updates after which several processes agree on the time, which holds them up


def train(
    lm,
    state,
    examples,
    key,
    loss,
    report,
    saves=None,
    *,
    optimizer,
    lr: float,
    batch: int = 16,
    accumulate: int | None = None,
    epochs: int = 1,
    max_steps: int | None = None,
    row_length: int = 512,
    only: str | None = None,
    reference: str = 'exact',
    max_gap: float = 0.01,
    warmup: float = 0.0,
    schedule: str = 'constant',
    final: float = 0.0,
    save_every: int | None = None,
    save_minutes: float = 30.0,
    keep_saves: int = 2,
):
    """Trains for a round on its examples. Returns (State, totals).

    The arrays of the incoming state are reused for the returned one, so that the model is not in
    memory twice.

    Args:
      loss: a bound loss of the shelf `losses`. report(step, metrics): called after each update,
        with floats.
      saves: where the state amid the training is saved and found again (running.checkpoint's
        TrainingSaves), so that a stopped run goes on with the next update; None: nowhere.
      optimizer: makes an optax transformation, see `optimizers`.
      batch: examples per update. accumulate: micro-batches that its rows are split into, to take
        less memory; their gradients add up to the same. None: as few as fit the device's memory,
        see update_memory.choose; so is what the backward pass recomputes, if `lm` leaves it open.
        epochs: passes over the examples.
        max_steps: stops after so many updates; None: no limit.
      row_length: tokens of a packed row; an example that does not fit is dropped and counted.
      only: 'value' changes the value head alone, so that what it values is the law of the model
        as it is; None: all parameters, or all adapters and the value head.
      reference, max_gap: see `reference.columns`; max_gap is in nats per token.
      lr, warmup, schedule, final: see `schedules.learning_rate`.
      save_every, save_minutes: after so many updates, and so many minutes, the state is saved; and
        when the process is asked to stop. keep_saves: how many of them stay on disk, the last ones.
    Totals: steps, examples, dropped, tokens (of responses, trained on), gap (mean |trainer −
    sampler| log-prob per token, nan if nothing was sampled), gap_max (the largest mean of one
    response), accumulate, remat, and update_gib (the GiB of a device that an update is estimated
    to take).
    Raises ValueError for an option out of range, an unknown schedule or reference, if no example is
    left, or if the sampler's log-probs are missing or too far off; finite.NotFinite at the first
    update whose log-probabilities, loss, gradient or new parameters are not finite;
    stopping.Stopped where the process is asked to stop.
    """
    counts = {'batch': batch, 'accumulate': accumulate, 'epochs': epochs, 'row_length': row_length}
    _check_options(counts | {'max_steps': max_steps}, schedule, reference)
    lm = train_state.training_only(lm, only)
    docs, dropped = _tokenise(lm, examples, row_length, loss_contract.takes_mismatched(loss))

    @functools.lru_cache(maxsize=1)  # one packing in memory at a time
    def packed(micros: int) -> list:
        parts, rng = micros * sharding.row_shards(lm.mesh), keys.numpy_rng(key)
        sizes = {'batch': batch, 'row_length': row_length, 'parts': parts}
        return packing.epochs(docs, epochs, rng=rng, **sizes)

    split = _choose_split(lm, optimizer, packed, accumulate)
    lm, accumulate = update_memory.with_remat(lm, split.remat), split.accumulate
    passes = packed(accumulate)
    first_update, one_pass = _split(passes[0][:1], accumulate), _split(passes[0], accumulate)
    source = {'kind': reference, 'max_gap': max_gap}
    ref, old, gaps = references.columns(
        lm, state.params, docs, examples, loss, first_update, one_pass, **source
    )
    batches = [update for updates in passes for update in updates][:max_steps]
    if ref is not None:
        batches = [references.with_reference(update, ref) for update in batches]
    if old is not None:
        batches = [references.with_old_logp(update, old) for update in batches]
    rate = {'lr': lr, 'warmup': warmup, 'schedule': schedule, 'final': final}
    rates = [schedules.learning_rate(i, len(batches), **rate) for i in range(len(batches))]
    saver = _Saver(saves, save_every, save_minutes, keep_saves)
    state = _run_steps(lm, state, batches, rates, key, loss, report, optimizer, split, saver)
    return state, {
        'steps': len(batches),
        'examples': len(docs),
        'dropped': dropped,
        'tokens': sum(float(update.mask.sum()) for update in batches),
        'gap': float(np.mean(gaps)) if gaps else math.nan,
        'gap_max': max(gaps, default=math.nan),
        'accumulate': accumulate,
        'remat': split.remat,
        'update_gib': split.needed / 2**30,
    }


def _choose_split(lm, optimizer, packed, accumulate: int | None) -> update_memory.Split:
    """How an update is computed: the same in all processes. Warns if it may not fit.

    packed: micro-batches -> the passes over the examples.
    """

    def largest(micros: int) -> tuple[int, int, int]:
        batches = [batch for updates in packed(micros) for batch in updates]
        rows = max(batch.tokens.shape[0] for batch in batches) // micros
        selected = max(batch.target.shape[1] for batch in batches)
        return rows, batches[0].tokens.shape[1], selected

    device = lm.mesh.local_devices[0]
    chosen: Any = processes.on_main(
        lambda: update_memory.choose(
            lm, optimizer, largest, accumulate=accumulate, limit=update_memory.budget(device)
        )
    )
    split = update_memory.Split(*chosen)
    if split.needed > split.limit:
        logging.warning(
            'an update with accumulate=%d and remat=%s is estimated to take %.3g GiB of a device, '
            'of which it should take at most %.3g; a smaller train.batch or row_length, '
            "model.lora, or params='bfloat16' take less",
            split.accumulate,
            split.remat,
            split.needed / 2**30,
            split.limit / 2**30,
        )
    return split


def _check_options(counts: dict, schedule: str, reference: str) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f'train.{name}={value}: want at least 1')
    schedules.check_schedule(schedule)
    references.check_reference(reference)


def _tokenise(lm, examples, row_length: int, mismatched: bool) -> tuple[list[packing.Doc], int]:
    """(docs, dropped), see `packing.tokenise`; with mismatched responses if the loss takes these.

    Raises ValueError if no doc is left.
    """
    positions = lm.config.max_length
    docs, dropped = packing.tokenise(lm.text, examples, row_length=row_length, positions=positions)
    if not docs:
        raise ValueError(
            f'no example to train on: {len(examples)} came, {dropped} of them empty or longer than '
            f'row_length={row_length} or {positions} positions'
        )
    if mismatched:
        docs = packing.with_mismatched(docs, row_length, positions)
        if not docs:
            raise ValueError(
                f'the loss wants, beside each example, a response to another prompt; none of the '
                f'{len(examples) - dropped} examples has one that fits row_length={row_length}'
            )
    return docs, len(examples) - len(docs)


def _split(batches, accumulate: int) -> list:
    """All micro-batches of the batches."""
    return [micro for batch in batches for micro in packing.micro_batches(batch, accumulate)]


class _Saver:
    """Saves the state amid a training when it is time to."""

    def __init__(self, saves, every: int | None, minutes: float, keep: int):
        self._saves, self._every, self._minutes, self._keep = saves, every, minutes, keep
        self._last = time.monotonic()

    @property
    def updates(self) -> int:
        """Updates that were made before the training was stopped."""
        return self._saves.updates if self._saves else 0

    def restore(self, lm, optimizer, params):
        """The state after these updates."""
        return self._saves.restore(lm, optimizer, params)

    def is_due(self, updates: int) -> bool:
        """Whether the state is to be saved after so many updates."""
        if self._saves is None:
            return False
        if self._every is not None and updates % self._every == 0:
            return True
        if not processes.is_alone() and updates % CLOCK_EVERY:
            return False
        return processes.on_main(lambda: time.monotonic() - self._last >= 60.0 * self._minutes)

    def save(self, lm, state, updates: int, *, wait: bool) -> None:
        """Saves the state after so many updates. wait: until it is written."""
        if self._saves is not None:
            self._saves.write(lm, state, updates, self._keep, wait=wait)
            self._last = time.monotonic()


def _run_steps(lm, state, batches, rates, key, loss, report, optimizer, split, saver):
    """The state after one update per batch, with the learning rate at its place in `rates`."""
    optimizer, done = train_state.cached_optimizer(optimizer), saver.updates
    if done:
        state = saver.restore(lm, optimizer, state.params)
    state = train_state.begin_round(lm, state, optimizer)
    update = train_step.compiled_step(lm, loss, optimizer)

    def report_step(i, metrics):
        metrics = {name: float(value) for name, value in metrics.items()}
        checked = {name: metrics.pop(name) for name in list(metrics) if _is_check(name)}
        what = [name.removeprefix(train_step.NOT_FINITE) for name, bad in checked.items() if bad]
        if what:
            indices = batches[i].index[batches[i].real > 0].tolist()
            raise finite.NotFinite(sorted(what), i, indices, metrics)
        report(i, metrics)

    pending = {}  # metrics of the step before: fetched while the next one runs
    total, accumulate = len(batches), split.accumulate
    title = 'update'
    if (accumulate, split.remat) != (1, 'none'):
        size = f'{split.needed / 2**30:.2g} of {split.limit / 2**30:.2g} GiB'
        title += f' (accumulate {accumulate}, remat {split.remat}, about {size})'
    with progress.StepBar(total, title, 'step', done) as bar:
        for i in range(done, total):
            placed = packing.place(lm, train_step.stack_micro_batches(batches[i], accumulate))
            state, metrics = update(state, placed, rates[i], jax.random.fold_in(key, i))
            if pending:
                report_step(i - 1, pending)
            pending = metrics | {'lr': rates[i]}
            bar.step()
            is_last, is_stopping = i + 1 == total, stopping.is_asked()
            if not is_last and (is_stopping or saver.is_due(i + 1)):
                report_step(i, pending)
                pending = {}
                saver.save(lm, state, i + 1, wait=is_stopping)
                stopping.check()
        if pending:
            report_step(total - 1, pending)
    return state


def _is_check(name: str) -> bool:
    return name.startswith(train_step.NOT_FINITE)
