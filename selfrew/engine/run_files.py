"""The files of a run on disk: written whole or not at all, and known by their checksums."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

PUT_BACK = 'put a copy of it back'
MAKE_AGAIN = "start the run's command again: it makes the state again from the one before"


def turn_order(name: str) -> tuple[int, str]:
    """The key that sorts names of turns as they run: '02' < '02-rehearsal' < '11' < '100'."""
    match = re.match(r'\d+', name)
    return (int(match[0]), name[match.end() :]) if match else (0, name)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Names the path in an OSError that names none, such as that of a full disk."""
    try:
        yield
    except OSError as problem:
        if problem.errno is None or problem.filename is not None:
            raise
        raise OSError(problem.errno, problem.strerror, path) from problem


def write_atomic(path: str, data: bytes) -> None:
    """Writes the whole file or none of it; makes its folder if needed.

    Raises OSError, with the path, where the disk is full, read-only or gone.
    """
    partial = f'{path}.partial'
    with naming(path):
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        try:
            with open(partial, 'wb') as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(partial)
            raise


def read_json(path: str, remedy: str) -> Any:
    """The JSON of a file. Raises ValueError, with the path and what to do, where it is damaged."""
    with open(path, 'rb') as file:
        data = file.read()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f'{path} is damaged ({problem}); {remedy}') from None


def read_manifest(path: str) -> dict[str, dict]:
    """What the manifest of a turn's folder lists; {} where there is none. ValueError if damaged."""
    if not os.path.exists(path):
        return {}
    remedy = f'delete the folder {os.path.dirname(path)} to make its turn again'
    manifest = read_json(path, remedy)
    if not isinstance(manifest, dict) or not all(isinstance(e, dict) for e in manifest.values()):
        raise ValueError(f'{path} is damaged (want an object of objects); {remedy}')
    return manifest


def checksums(folder: str) -> dict[str, str]:
    """The SHA-256 of each file below a folder, by its path in it."""
    paths = [
        os.path.relpath(os.path.join(parent, file), folder)
        for parent, _, files in os.walk(folder)
        for file in files
    ]
    return {path: sha256_of(os.path.join(folder, path)) for path in sorted(paths)}


def sha256_of(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def damage(folder: str, expected: dict[str, str] | None) -> str | None:
    """What is wrong with the files below a folder, in words; None if they have these checksums.

    expected: as `checksums` gave it; None for a state of before there were any.
    """
    if expected is None:
        return None if os.path.isdir(folder) else f'{folder} is missing'
    try:
        actual = checksums(folder)
    except OSError as problem:
        return f'{problem.filename or folder} cannot be read: {problem.strerror or problem}'
    for path, sha256 in expected.items():
        if actual.get(path) != sha256:
            what = 'was changed after it was written' if path in actual else 'is missing'
            return f'{os.path.join(folder, path)} {what}'
    if added := sorted(set(actual) - set(expected)):
        return f'{os.path.join(folder, added[0])} was added after the state was written'
    return None
