"""What a run says of itself: log.txt, status.json while it runs, and its report at every end.

None of this may end a run: where a file cannot be written, it is left out.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator

from selfrew.engine import progress
from selfrew.engine.run_files import write_atomic
from selfrew.mesh import processes, stopping
from selfrew.running import console, report
from selfrew.running.stage import json_bytes

WRITE_SECONDS = 5.0  # between two writes of status.json within a stage


class Status:
    """status.json of a run. Only process 0 writes it.

    state: running, finished, stopped (it was asked to) or failed. turn, stage; done and total of
    it, rate a second and seconds_left where they are known; updated; error.
    """

    def __init__(self, workdir: str):
        self._path, self._written = os.path.join(workdir, 'status.json'), 0.0
        self._fields = {'state': 'running', 'host': socket.gethostname(), 'pid': os.getpid()}
        self._stage = {}

    def begin(self, turn: str, stage: str) -> None:
        """Says which stage of which turn begins."""
        self._stage = {'turn': turn, 'stage': stage}
        self.write()

    def show(self, at: progress.Progress) -> None:
        """Says how far the stage is, at most every WRITE_SECONDS."""
        if time.monotonic() - self._written >= WRITE_SECONDS:
            known = {name: value for name, value in at._asdict().items() if value is not None}
            self._stage = {name: self._stage.get(name) for name in ('turn', 'stage')} | known
            self.write()

    def end(self, state: str, error: str | None = None) -> None:
        """Says how the run ended."""
        self._fields |= {'state': state} | ({'error': error} if error else {})
        self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        if processes.is_main():
            fields = self._fields | self._stage | {'updated': now()}
            with contextlib.suppress(OSError):
                write_atomic(self._path, json_bytes(fields))


def now() -> str:
    """The local time with its offset, to the second."""
    return time.strftime('%Y-%m-%dT%H:%M:%S%z')


@contextlib.contextmanager
def reporting(workdir: str) -> Iterator[Status]:
    """A context in which a run writes status.json and log.txt, and at its end its report, with the
    reason if something ended it.
    """
    status = Status(workdir)
    with (
        console.logging_to(os.path.join(workdir, 'log.txt')),
        progress.shown_to(status.show),
        stopping.in_run(lambda reason: status.end('stopped', reason)),
    ):
        console.say_to_log(f'--- started {now()}, process {os.getpid()} on {socket.gethostname()}')
        status.write()
        try:
            yield status
        except BaseException as problem:
            state = 'stopped' if isinstance(problem, STOPS) else 'failed'
            reason = described(problem)
            status.end(state, reason)
            write_report(workdir, state, reason)
            console.say_to_log(f'--- {state}: {reason}')
            raise
        status.end('finished')
        write_report(workdir, 'finished', say=console.say_to_log)
        console.say_to_log(f'--- finished {now()}')


STOPS = stopping.Stopped, KeyboardInterrupt


def described(problem: BaseException) -> str:
    """An exception in words."""
    if isinstance(problem, KeyboardInterrupt):
        return 'SIGINT'
    if processes.is_loss(problem):
        first_line = str(problem).partition('\n')[0]
        return f'another process of the run has ended, or cannot be reached ({first_line})'
    text = str(problem.args[0] if isinstance(problem, KeyError) and problem.args else problem)
    is_told = isinstance(problem, (ValueError, OSError, KeyError, stopping.Stopped))
    return text if is_told and text else f'{type(problem).__name__}: {text}'


def write_report(workdir: str, state: str, reason: str | None = None, say=console.say) -> None:
    """Writes summary.json and curve.png as far as the run has come, and says the table."""
    if not processes.is_main():
        return
    try:
        table = report.write_report(workdir, {'state': state, 'reason': reason, 'time': now()})
    except (OSError, ValueError) as problem:
        logging.warning('no report could be written: %s', problem)
    else:
        say(f'\n{table}')
