"""mathematics in a process of its own, where limits on time and memory can end it.

A limit of this kind works in any thread and in any worker process, which a signal does not.
"""

import atexit
import functools
import json
import logging
import os
import selectors
import subprocess
import sys
import tempfile
import threading
from typing import Any

LIMIT_S = 10.0  # for one verdict, wall clock
START_LIMIT_S = 120.0  # to import sympy, on a busy machine
MEMORY_BYTES = 4 * 2**30
VERDICTS_KEPT = 2**18


@functools.lru_cache(VERDICTS_KEPT)
def same(truth: str, said: str) -> bool:
    """mathematics.same, or False where that takes longer than LIMIT_S."""
    return bool(_child().ask('same', truth, said))


@functools.lru_cache(VERDICTS_KEPT)
def key(text: str) -> str | None:
    """The key of mathematics.read, or None where that takes longer than LIMIT_S."""
    return _child().ask('key', text)


class _Child:
    """A process that answers one question at a time; a new one takes its place after a limit."""

    def __init__(self):
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None
        self.errors = tempfile.TemporaryFile()

    def ask(self, question: str, *texts: str) -> Any:
        with self.lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([question, *texts]).encode() + b'\n')
                process.stdin.flush()
                answer = self._read_line(LIMIT_S)
            except BrokenPipeError:
                answer = None
            if answer is None:
                self.stop()
                shown = ' and '.join(repr(text[:80]) for text in texts)
                logging.warning('no verdict on %s within %g s: not the same', shown, LIMIT_S)
                return None
            return json.loads(answer)

    def _running(self) -> subprocess.Popen:
        """The process, started if there is none. OSError if it does not start."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, '-c', f'from {__name__} import serve; serve()'],
                env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
            )
            if self._read_line(START_LIMIT_S) is None:
                self.stop()
                self.errors.seek(0)
                reason = self.errors.read().decode(errors='replace').strip().split('\n')[-1]
                raise OSError(f'the process that runs math-verify did not start: {reason}')
        return self.process

    def _read_line(self, limit_s: float) -> bytes | None:
        """A line that the process writes; None at its end or after the limit."""
        assert self.process is not None and self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            # The process writes a line at once, so that its start is as good as the whole.
            return self.process.stdout.readline() or None if selector.select(limit_s) else None

    def stop(self) -> None:
        if self.process is not None and os.getpid() == self.owner:
            self.process.kill()
            self.process.communicate()
        self.process = None


_children: list[_Child] = []
_children_lock = threading.Lock()


def _child() -> _Child:
    """The child of this process; a fork does not use its parent's."""
    with _children_lock:
        if not _children or _children[-1].owner != os.getpid():
            _children[:] = [_Child()]
            atexit.register(_children[-1].stop)
        return _children[-1]


def serve() -> None:
    """Answers the questions on standard input, one JSON line each, until it ends."""
    import resource  # noqa: PLC0415 - Unix only, and only the child needs it

    import math_verify  # noqa: F401, PLC0415 - a second, before the first question's limit counts

    from selfrew.tasks.answers import mathematics  # noqa: PLC0415 - the child's alone

    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ValueError, OSError):  # a system without that limit, or with a lower one
        pass
    out = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)  # what a library prints is no answer
    out.write(b'ready\n')
    out.flush()
    for line in sys.stdin:
        question, *texts = json.loads(line)
        try:
            answer = (
                mathematics.same(*texts) if question == 'same' else mathematics.read(*texts).key
            )
        except Exception:  # sympy fails in many ways on what people write
            answer = None
        out.write(json.dumps(answer).encode() + b'\n')
        out.flush()
