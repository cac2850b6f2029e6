"""The journal of an unfinished stage: its responses so far, for the run that resumes a killed one.

It has one line of JSON per response, in the file of the innermost open `recording`. Outside of one,
nothing is written.
"""

import contextlib
import json
import os
from collections.abc import Iterator

from selfrew.mesh import processes

_open: list['Journal'] = []


class Journal:
    """Named values. `entries` are those that a killed run has left in the file."""

    def __init__(self, path: str):
        text = processes.on_main(lambda: _read_text(path))
        # After the last newline comes nothing, or half a line of a killed run: its value is redone.
        *lines, incomplete = text.split('\n')
        self.entries = dict(json.loads(line) for line in lines)
        self._path, self._file, self._end = path, None, len(text) - len(incomplete)

    def put(self, name: str, value) -> None:
        """Adds a value; `flush` writes it to the file."""
        if not processes.is_main():
            return
        if self._file is None:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._file = open(self._path, 'a', encoding='ascii')
            self._file.truncate(self._end)
        self._file.write(json.dumps([name, value]) + '\n')

    def flush(self) -> None:
        if self._file:
            self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


def _read_text(path: str) -> str:
    try:
        with open(path, 'rb') as file:
            return file.read().decode('ascii')
    except FileNotFoundError:
        return ''


@contextlib.contextmanager
def recording(path: str) -> Iterator[None]:
    """Records the responses made inside, in the file at `path`. Those in it are not made again."""
    _open.append(Journal(path))
    try:
        yield
    finally:
        _open.pop().close()


def current() -> Journal | None:
    """The journal of the innermost open `recording`, or None."""
    return _open[-1] if _open else None
