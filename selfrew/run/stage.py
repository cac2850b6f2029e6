"""The files of a run: each is written once, by an atomic rename, under its folder's manifest. Layer
6.

Beside a stage that is being made lies what has been sampled for it, NAME.partial.jsonl, until the
stage is written.

Of several processes, process 0 reads and writes them, and tells the others what it found.
"""

import glob
import hashlib
import json
import os

from selfrew.engine.generate import journal
from selfrew.mesh import processes
from selfrew.types import from_json, to_json


def write_atomic(path: str, data: bytes) -> None:
    """The whole file, or none of it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f'{path}.partial', 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f'{path}.partial', path)


def dump(value) -> bytes:
    """Readable JSON, the same bytes for the same value; nan becomes null."""
    return (json.dumps(to_json(value), indent=2) + '\n').encode()


class Folder:
    """A turn's folder. What its manifest lists is finished; anything else there is a killed run's,
    to be made again.
    """

    def __init__(self, workdir: str, name: str):
        self.path = os.path.join(workdir, 'rounds', name)
        self.manifest = json.loads(
            processes.on_main(lambda: _read(os.path.join(self.path, 'manifest.json'))) or '{}'
        )

    def has(self, name: str) -> bool:
        return name in self.manifest

    def mark_done(self, name: str, entry: dict) -> None:
        """Says that `name` is finished."""
        self.manifest[name] = entry
        self._write('manifest.json', dump(self.manifest))

    def drop(self, name: str) -> None:
        """Takes `name` off the manifest."""
        del self.manifest[name]
        self._write('manifest.json', dump(self.manifest))

    def write_json(self, name: str, value) -> None:
        """Writes a file beside the stages, as JSON."""
        self._write(name, dump(value))

    def _write(self, name: str, data: bytes) -> None:
        processes.on_main(lambda: write_atomic(os.path.join(self.path, name), data))

    def make_once(self, name: str, kind: type, make) -> list:
        """The nouns of `name`.jsonl; made by `make()` and written the first time; always read, as a
        resumed run would.

        Raises ValueError where the file is not the one that was written.
        """
        if not self.has(name):
            with self.recording(name):
                nouns = list(make())
            data = ''.join(
                json.dumps(to_json(noun), ensure_ascii=False) + '\n' for noun in nouns
            ).encode()
            self._write(f'{name}.jsonl', data)
            self.mark_done(name, {'lines': len(nouns), 'sha256': hashlib.sha256(data).hexdigest()})
        processes.on_main(lambda: _remove(self._partial(name)))
        lines = processes.on_main(lambda: self._checked(name)).decode().split('\n')
        return [from_json(kind, json.loads(line)) for line in lines if line]

    def recording(self, name: str):
        """What is sampled inside is written down as it comes, and not sampled again by a run that
        comes after.
        """
        return journal.recording(self._partial(name))

    def _partial(self, name: str) -> str:
        return os.path.join(self.path, f'{name}.partial.jsonl')

    def _checked(self, name: str) -> bytes:
        path = os.path.join(self.path, f'{name}.jsonl')
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != self.manifest[name]['sha256']:
            raise ValueError(
                f'{path} was changed after it was written; delete the folder {self.path} to make it again'
            )
        return data


def _read(path: str) -> bytes:
    try:
        with open(path, 'rb') as file:
            return file.read()
    except FileNotFoundError:
        return b''


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)


def claim_workdir(workdir: str, config: dict, free: tuple) -> None:
    """Makes a workdir this config's own, or checks that it already is; fields named in `free` may
    differ.

    A workdir in which nothing has been sampled yet belongs to nobody. Raises ValueError with the
    differences where another config made it.
    """
    path = os.path.join(workdir, 'config.json')
    config = json.loads(json.dumps(config))
    made = [
        glob.glob(os.path.join(workdir, 'rounds', '*', name))
        for name in ('manifest.json', '*.partial.jsonl')
    ]
    if os.path.exists(path) and any(made):
        with open(path) as file:
            theirs = json.load(file)
        found = [d for d in _differences(theirs, config, '') if d.split(':')[0] not in free]
        if found:
            shown = '\n  '.join(found)
            raise ValueError(
                f'{workdir} was made by another config; choose another workdir, or undo:\n  {shown}'
            )
    elif (
        not os.path.exists(path)
        and os.path.isdir(workdir)
        and set(os.listdir(workdir)) - {'config.json.partial'}
    ):
        raise ValueError(
            f'{workdir} is not empty and no run made it (there is no config.json); choose another workdir'
        )
    write_atomic(path, dump(config))


def _differences(old, new, where: str):
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(set(old) | set(new)):
            yield from _differences(
                old.get(name), new.get(name), f'{where}.{name}' if where else name
            )
    elif old != new:
        yield f'{where}: there {old!r}, here {new!r}'
