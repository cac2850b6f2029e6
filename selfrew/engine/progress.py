"""Progress bars that tell reading, compiling and computing apart; totals of what was computed."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
from tqdm import tqdm

from selfrew.mesh import processes

COMPILING = (
    '/jax/core/compile/jaxpr_to_mlir_module_duration',
    '/jax/core/compile/backend_compile_duration',
)


class Progress(NamedTuple):
    """How far a stage is."""

    title: str
    done: int
    total: int
    unit: str
    rate: float | None  # units, or tokens, a second
    seconds_left: float | None


_viewers: list[Callable[[Progress], None]] = []


@contextlib.contextmanager
def shown_to(viewer: Callable[[Progress], None]) -> Iterator[None]:
    """A context in which each bar also shows its progress to `viewer`."""
    _viewers.append(viewer)
    try:
        yield
    finally:
        _viewers.remove(viewer)


def _show(*fields) -> None:
    for viewer in _viewers:
        viewer(Progress(*fields))


class Totals(NamedTuple):
    """What this process has done so far."""

    read_tokens: int = 0  # of prompts
    sampled_tokens: int = 0
    compile_seconds: float = 0.0

    def since(self, before: 'Totals', seconds: float, trained_tokens: float) -> dict:
        """What a turn of so many seconds did since `before`, by name.

        tokens_per_s: sampled tokens, those of verdicts included, and trained ones, in the time that
        was not spent compiling. What was taken from a file was not computed and does not count.
        """
        done = dict(zip(self._fields, (now - then for now, then in zip(self, before))))
        computed = done['sampled_tokens'] + trained_tokens
        return done | {'tokens_per_s': computed / max(seconds - done['compile_seconds'], 1e-9)}


_totals = Totals()


def totals() -> Totals:
    """What this process has done so far; a difference of two says what was done between them."""
    return _totals


def _add(**amounts) -> None:
    global _totals
    _totals = _totals._replace(**{k: getattr(_totals, k) + v for k, v in amounts.items()})


def _add_compilation(event: str, duration_secs: float, **_) -> None:
    if event in COMPILING:
        _add(compile_seconds=duration_secs)


jax.monitoring.register_event_duration_secs_listener(_add_compilation)


def duration(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any: 4:05, 1:02:03."""
    return tqdm.format_interval(max(seconds, 0.0)).removeprefix('0')


class StepBar:
    """A bar over steps of equal length, whose rate leaves out a first step that compiles."""

    def __init__(self, total: int, title: str, unit: str, done: int = 0):
        """done: steps that were made before."""
        self._done, self._title, self._begun = done, title, totals().compile_seconds
        self._total, self._steps, self._first = total, 0, 0.0  # when the first one was made
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=f'{title}: compiling',
            unit=unit,
            mininterval=1.0,
            smoothing=0.0,
            disable=not processes.is_main(),
        )

    def __enter__(self) -> 'StepBar':
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def step(self) -> None:
        """Counts a step."""
        bar = self._bar
        if bar.n == self._done and not bar.disable:
            if totals().compile_seconds > self._begun:
                bar.start_t, bar.initial = time.time(), self._done + 1
            bar.set_description_str(self._title, refresh=False)
        bar.update()
        self._steps += 1
        if self._steps == 1:
            self._first = time.time()
        at, passed = self._done + self._steps, time.time() - self._first
        rate = (self._steps - 1) / passed if passed > 0 and self._steps > 1 else None
        left = (self._total - at) / rate if rate else None
        _show(self._title, at, self._total, 'step', rate, left)


class SamplingBar:
    """A bar over samples: prompts read, tokens a second, the time that is left.

    Compiling counts neither as time of sampling nor towards the time that is left.
    """

    def __init__(self, total: int, done: int, title: str):
        """done: samples that are there already, of a killed run."""
        self._title, self._total, self._missing = title, total, total - done
        self._begun, self._compiled = time.time(), totals().compile_seconds
        self._read = self._sampled = self._ended = 0
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit='sample',
            mininterval=1.0,
            bar_format='{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]',
            disable=not processes.is_main(),
        )

    def __enter__(self) -> 'SamplingBar':
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def reading(self, tokens: int, prompts: int, total_prompts: int) -> None:
        """Counts prompt tokens that were read; so many prompts are read of all."""
        _add(read_tokens=tokens)
        self._read += tokens
        if self._sampled == 0:
            rate = self._read / self._seconds()
            self._bar.set_description_str(f'{self._title}: reading prompts', refresh=False)
            self._show(f'{prompts} of {total_prompts} prompts, {rate:,.0f} tokens/s')

    def sampling(self, tokens: int, ended: int, most_left: int) -> None:
        """Counts sampled tokens and the samples that have ended.

        most_left: tokens that the samples which have not ended may have yet.
        """
        _add(sampled_tokens=tokens)
        self._sampled += tokens
        self._ended += ended
        rate, expected = self._sampled / self._seconds(), most_left
        self._bar.set_description_str(self._title, refresh=False)
        left = ''
        if rate > 0:
            if self._ended:  # as if each token were the last one with the same probability
                length = self._sampled / self._ended
                expected = min(most_left, max(length * self._missing - self._sampled, 0.0))
            bound = '' if self._ended else 'at most '
            left = f', {bound}{duration(expected / rate)} left'
        self._show(f'{rate:,.0f} tokens/s{left}', ended)
        done = self._total - self._missing + self._ended
        seconds_left = expected / rate if left else None
        _show(self._title, done, self._total, 'sample', rate, seconds_left)

    def _seconds(self) -> float:
        """Since the bar was made, without compiling."""
        compiled = totals().compile_seconds - self._compiled
        return max(time.time() - self._begun - compiled, 1e-9)

    def _show(self, text: str, ended: int = 0) -> None:
        """Adds samples that have ended; prints the bar with this text, at most once a second."""
        bar, compiled = self._bar, totals().compile_seconds - self._compiled
        text += f', compiled for {duration(compiled)}' if compiled >= 1.0 else ''
        bar.set_postfix_str(text, refresh=False)
        bar.update(ended)
        if not bar.disable and time.time() - bar.last_print_t >= bar.mininterval:
            bar.refresh()
            bar.last_print_t = time.time()
