"""The files of a run. Each is written once, by an atomic rename, and listed in a manifest.

While a stage is being made, the samples for it are recorded in NAME.partial.jsonl. With several
processes, process 0 reads and writes the files, and sends the others what it read.
"""

import datetime
import glob
import hashlib
import json
import os
import time

from selfrew.engine.generate import journal
from selfrew.mesh import processes
from selfrew.types import from_json, to_json


def write_atomic(path: str, data: bytes) -> None:
    """Writes the whole file or none of it; makes its folder if needed."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f'{path}.partial', 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f'{path}.partial', path)


def json_bytes(value) -> bytes:
    """Readable JSON, the same bytes for the same value; nan becomes null."""
    return (json.dumps(to_json(value), indent=2) + '\n').encode()


class Folder:
    """A turn's folder.

    What its manifest lists is finished. Anything else in it is from a killed run and is made again.
    """

    def __init__(self, workdir: str, name: str):
        self.workdir, self.path = workdir, os.path.join(workdir, 'rounds', name)
        path = os.path.join(self.path, 'manifest.json')
        self.manifest = json.loads(processes.on_main(lambda: _read(path)) or '{}')

    def has(self, name: str) -> bool:
        """Whether `name` is finished."""
        return name in self.manifest

    def mark_done(self, name: str, entry: dict) -> None:
        """Lists `name` in the manifest as finished."""
        self.manifest[name] = entry
        self._write('manifest.json', json_bytes(self.manifest))

    def drop(self, name: str) -> None:
        """Removes `name` from the manifest."""
        del self.manifest[name]
        self._write('manifest.json', json_bytes(self.manifest))

    def write_json(self, name: str, value) -> None:
        """Writes a JSON file that the manifest does not list."""
        self._write(name, json_bytes(value))

    def write_lines(self, name: str, nouns) -> str:
        """Writes nouns as JSON lines that the manifest does not list; returns the file's path."""
        self._write(name, _json_lines(nouns))
        return os.path.join(self.path, name)

    def _write(self, name: str, data: bytes) -> None:
        processes.on_main(lambda: write_atomic(os.path.join(self.path, name), data))

    def make_once(self, name: str, kind: type, make) -> list:
        """The nouns of `name`.jsonl, each of type `kind`.

        The first time, `make()` makes them and they are written. They are always read back from
        the file, so that a resumed run continues from the same values.
        Raises ValueError if the file was changed after it was written.
        """
        if not self.has(name):
            with self.recording(name):
                nouns = list(make())
            data = _json_lines(nouns)
            self._write(f'{name}.jsonl', data)
            self.mark_done(name, {'lines': len(nouns), 'sha256': hashlib.sha256(data).hexdigest()})
        processes.on_main(lambda: _remove(self._partial_path(name)))
        text = processes.on_main(lambda: self._read_checked(name)).decode()
        return [from_json(kind, json.loads(line)) for line in text.split('\n') if line]

    def copy_stage(self, name: str, other: 'Folder') -> None:
        """Takes a finished stage of another turn's folder, and records where it came from.

        Raises ValueError if its file was changed after it was written.
        """
        data = processes.on_main(lambda: other._read_checked(name))
        self._write(f'{name}.jsonl', data)
        self.mark_done(name, other.manifest[name] | {'from': os.path.abspath(other.path)})

    def recording(self, name: str):
        """A context that records samples as they are made; a resumed run does not repeat them."""
        return journal.recording(self._partial_path(name))

    def _partial_path(self, name: str) -> str:
        return os.path.join(self.path, f'{name}.partial.jsonl')

    def _read_checked(self, name: str) -> bytes:
        path = os.path.join(self.path, f'{name}.jsonl')
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != self.manifest[name]['sha256']:
            raise ValueError(
                f'{path} was changed after it was written; '
                f'delete the folder {self.path} to make it again'
            )
        return data


def _json_lines(nouns) -> bytes:
    return ''.join(json.dumps(to_json(n), ensure_ascii=False) + '\n' for n in nouns).encode()


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
    """Writes config.json into a workdir, if it belongs to this config or to none.

    A workdir belongs to a config once something has been sampled in it. Fields of the config whose
    name, without that of their entry, is in `free` may differ. Every process calls this, with the
    same config.
    Raises ValueError if another config made the workdir, with the differences; if it holds
    something else; or if this process and process 0 have different configs.
    """
    if processes.on_main(lambda: config) != config:
        raise ValueError(
            'this process and process 0 have different configs; start all with the same command'
        )
    processes.on_main(lambda: _claim(workdir, json.loads(json.dumps(config)), free))


def start_time(workdir: str) -> datetime.datetime:
    """When the run was first started, to the second; kept in started.json, so that a resumed run
    gives chat templates the same date. Every process gets the same.
    """
    text = processes.on_main(lambda: _start_time(os.path.join(workdir, 'started.json'), workdir))
    return datetime.datetime.fromisoformat(text)


def _start_time(path: str, workdir: str) -> str:
    if not os.path.exists(path):
        # A run from before there was this file started with its oldest file.
        files = glob.glob(os.path.join(workdir, 'rounds', '*', '*'))
        begun = min(map(os.path.getmtime, files), default=time.time())
        now = datetime.datetime.fromtimestamp(begun).isoformat(timespec='seconds')
        write_atomic(path, json_bytes({'started': now}))
    with open(path) as file:
        return json.load(file)['started']


def _claim(workdir: str, config: dict, free: tuple) -> None:
    path = os.path.join(workdir, 'config.json')
    if not os.path.exists(path):
        if os.path.isdir(workdir) and set(os.listdir(workdir)) - {'config.json.partial'}:
            raise ValueError(
                f'{workdir} is not empty and no run made it (there is no config.json); '
                'choose another workdir'
            )
    elif _has_samples(workdir):
        with open(path) as file:
            old_config = json.load(file)
        changes = [
            f'{name}: {old!r} in the workdir, {new!r} in the config'
            for name, old, new in differences(old_config, config, '')
            if name.rpartition('.')[2] not in free
        ]
        if changes:
            listed = '\n  '.join(changes)
            raise ValueError(
                f'{workdir} was made by another config; choose another workdir, or undo:\n'
                f'  {listed}'
            )
    write_atomic(path, json_bytes(config))


def _has_samples(workdir: str) -> bool:
    patterns = 'manifest.json', '*.partial.jsonl'
    return any(glob.glob(os.path.join(workdir, 'rounds', '*', p)) for p in patterns)


def differences(old, new, name: str):
    """Yields (dotted name, old value, new value) of each field that differs between two configs, or
    between parts of them called `name`.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            field = f'{name}.{key}' if name else key
            is_new = key not in old and not new[key]  # a field of a later version, at its default
            if not is_new:
                yield from differences(old.get(key), new.get(key), field)
    elif old != new:
        yield name, old, new
