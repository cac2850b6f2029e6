"""The journal of an unfinished stage: its responses so far, for the run that resumes a killed one.

It has one line of JSON per response, [name, value, checksum], in the file of the innermost open
`recording`. Outside of one, nothing is written. A line that is not as it was written is left out:
its response is made again.
"""

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Iterator
from typing import Any

from selfrew.engine.run_files import naming
from selfrew.mesh import processes

_open: list['Journal'] = []


class Journal:
    """Named values. `entries` are those that a killed run has left in the file."""

    def __init__(self, path: str):
        text = processes.on_main(lambda: _read_text(path))
        # After the last newline comes nothing, or half a line of a killed run.
        *lines, incomplete = text.split('\n')
        entries = [entry for line in lines if (entry := _read_line(line)) is not None]
        if len(entries) < len(lines):
            bad = len(lines) - len(entries)
            logging.warning('%s: %d damaged lines; their responses are made again', path, bad)
        self.entries = dict(entries)
        self._path, self._file, self._end = path, None, len(text) - len(incomplete)

    def put(self, name: str, value) -> None:
        """Adds a value; `flush` writes it to the file."""
        if not processes.is_main():
            return
        with naming(self._path):
            if self._file is None:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
                self._file = open(self._path, 'a', encoding='ascii')
                self._file.truncate(self._end)
            self._file.write(json.dumps([name, value, _checksum(name, value)]) + '\n')

    def flush(self) -> None:
        """Raises OSError, with the path, where the file cannot be written."""
        if self._file:
            with naming(self._path):
                self._file.flush()

    def close(self) -> None:
        if self._file:
            with naming(self._path):
                self._file.close()


def _checksum(name: str, value) -> int:
    return zlib.crc32(json.dumps([name, value]).encode())


def _read_line(line: str) -> tuple[str, Any] | None:
    """(name, value) of a line; None if it is damaged. Lines of before there were checksums have
    none.
    """
    try:
        name, value, *rest = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    is_sound = isinstance(name, str) and rest in ([], [_checksum(name, value)])
    return (name, value) if is_sound else None


def _read_text(path: str) -> str:
    try:
        with open(path, 'rb') as file:
            return file.read().decode('ascii', errors='replace')
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
