"""What an unfinished stage has made so far, for the run that comes after a killed one. Layer 1.

A line for each response, in the file of the innermost `kept`; without one, nothing is written.
"""

import contextlib
import json
import os

from selfrew.mesh import processes

_open = []


class Journal:
    """Names and values that were put, those of a killed run included."""

    def __init__(self, path: str):
        text = processes.on_main(lambda: _text(path))
        lines = text.split(
            '\n'
        )  # behind the last newline: nothing, or half a line, which is made again
        self.entries = dict(json.loads(line) for line in lines[:-1])
        self._path, self._file, self._begin = path, None, len(text) - len(lines[-1])

    def put(self, name: str, value) -> None:
        """Adds a value. It is written once `flush` was called."""
        if processes.is_main() and self._file is None:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._file = open(self._path, 'a', encoding='ascii')
            self._file.truncate(self._begin)
        if self._file:
            self._file.write(json.dumps([name, value]) + '\n')

    def flush(self) -> None:
        if self._file:
            self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


def _text(path: str) -> str:
    try:
        with open(path, 'rb') as file:
            return file.read().decode('ascii')
    except FileNotFoundError:
        return ''


@contextlib.contextmanager
def recording(path: str):
    """What is made inside is written to the file at `path`, and what stands there is not made
    again.
    """
    _open.append(Journal(path))
    try:
        yield
    finally:
        _open.pop().close()


def current() -> Journal | None:
    return _open[-1] if _open else None
