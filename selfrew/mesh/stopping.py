"""How a process is asked to stop: by SIGINT (ctrl-C), SIGTERM (preemption), SIGHUP, or by itself.

While a run is on, a signal asks: the next safe point (`check`) ends the run, and before it, what is
in training is saved. A run that reaches no safe point within GRACE_SECONDS, and a command that is
not yet running, end at once; so they do at a second signal. Whatever the moment, files have their
names only when they are whole, so that ending at once costs time and nothing else.

Imports no jax: it listens before jax is imported.
"""

import contextlib
import dataclasses
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, cast

GRACE_SECONDS = 25.0  # preempted machines get about 30
POLL_SECONDS = 0.5  # between two looks whether the run has ended
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Stopped(BaseException):
    """The run was asked to stop, and has come to a safe point. code: the status to exit with."""

    def __init__(self, reason: str, code: int):
        super().__init__(reason)
        self.reason, self.code = reason, code


@dataclasses.dataclass
class _Request:
    """What was asked of this process."""

    reason: str | None = None
    code: int = 0
    runs: list = dataclasses.field(default_factory=list)  # before_exit of each run that is on
    points: int = 0  # safe points passed
    is_common_point: Callable[[int], bool] | None = None  # of several processes, see `agree_by`


_request = _Request()


def listen() -> None:
    """Takes over SIGINT, SIGTERM and SIGHUP, but for those that are ignored (as under nohup). Call
    it once, in the main thread.

    A thread answers them, since Python's own handlers wait while XLA compiles or computes. A signal
    that the parent had blocked is heard too: some launchers block them for themselves, and what
    they start inherits it.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    threading.Thread(target=_answer, args=(read_end,), name='signals', daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _answer(read_end: int) -> None:
    number = None
    while True:
        number = number or cast(int, _next_signal(read_end, lambda: True))
        name, code = signal.Signals(number).name, 128 + number
        if not is_on():
            _exit(f'{name}: stopped; no run was on', code)
        if _request.is_common_point is None:
            _say(f'{name}: saving and stopping; once more stops at once')
            ask(name, code)
        else:
            _say(f'{name}: all processes save and stop at their next common point')
            os.kill(os.getpid(), signal.SIGTERM)  # jax tells the others
        run = _request.runs[:1]
        number = _second_signal(read_end, run, time.monotonic() + GRACE_SECONDS)
        if _goes_on(run):
            when = f'{GRACE_SECONDS:g} s later' if number is None else 'asked twice'
            _exit(f'{name}, {when}: stopped amid its work; what was saved before is whole', code)


def _second_signal(read_end: int, run: list, until: float) -> int | None:
    """The number of the next signal that comes while a run goes on, and before a time."""
    return _next_signal(read_end, lambda: _goes_on(run) and time.monotonic() < until)


def _goes_on(run: list) -> bool:
    """Whether a run has not ended."""
    return bool(run) and _request.runs[:1] == run


def _next_signal(read_end: int, waits: Callable[[], bool]) -> int | None:
    """The number of the next of our signals; None if `waits()` is no longer true before it."""
    while waits():
        if select.select([read_end], [], [], POLL_SECONDS)[0]:
            (number,) = os.read(read_end, 1)
            if number in SIGNALS:
                return number
    return None


def _exit(reason: str, code: int) -> NoReturn:
    for before_exit in _request.runs:
        with contextlib.suppress(Exception):
            before_exit(reason)
    _say(reason)
    os._exit(code)


def _say(text: str) -> None:
    os.write(2, f'\nselfrew: {text}\n'.encode())


@contextlib.contextmanager
def in_run(before_exit: Callable[[str], None]) -> Iterator[None]:
    """A context in which a run has begun and passes safe points.

    before_exit: called with the reason, in another thread, where the process ends amid its work.
    """
    _request.runs.append(before_exit)
    try:
        yield
    finally:
        _request.runs.remove(before_exit)
        _request.reason = None


def is_on() -> bool:
    """Whether a run is on, which a signal asks to stop."""
    return bool(_request.runs)


def agree_by(is_common_point: Callable[[int], bool]) -> None:
    """Makes several processes stop at the same safe point: the one, by number, where this is True.

    Such a function is jax's reached_preemption_sync_point, which also hears of SIGTERM itself.
    """
    _request.is_common_point = is_common_point


def ask(reason: str, code: int = 1) -> None:
    """Asks this process's run to stop at its next safe point."""
    if _request.reason is None:
        _request.reason, _request.code = reason, code


def is_asked() -> bool:
    """Whether the run is to stop at this safe point, of which several processes pass the same."""
    _request.points += 1
    if _request.is_common_point is not None and _request.is_common_point(_request.points):
        ask('SIGTERM', 128 + signal.SIGTERM)
    return _request.reason is not None


def check() -> None:
    """A safe point: raises Stopped if the run was asked to stop."""
    if is_asked():
        raise Stopped(_request.reason or '', _request.code)
