"""The files of a run. Each is written once, by an atomic rename, and listed in a manifest.

While a stage is being made, the samples for it are recorded in NAME.partial.jsonl. With several
processes, process 0 reads and writes the files, and sends the others what it read.
"""

import datetime
import errno
import glob
import hashlib
import json
import os
import re
import time

from selfrew.engine.generate import journal
from selfrew.engine.run_files import PUT_BACK, read_json, read_manifest, write_atomic
from selfrew.mesh import processes
from selfrew.types import from_json, to_json

# What a folder holds before its first config.json.
FIRST_FILES = {'config.json.partial', 'lock.json', 'lock.json.partial'}


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
        self.manifest = processes.on_main(lambda: read_manifest(path))

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

    def write_json(self, name: str, value) -> str:
        """Writes a JSON file that the manifest does not list; returns its SHA-256."""
        data = json_bytes(value)
        self._write(name, data)
        return hashlib.sha256(data).hexdigest()

    def has_json(self, name: str) -> bool:
        """Whether `name`.json is finished, and as it was written."""
        path = os.path.join(self.path, f'{name}.json')
        sha256 = self.manifest.get(name, {}).get('sha256')  # older manifests have none
        is_same = processes.on_main(lambda: hashlib.sha256(_read(path)).hexdigest() == sha256)
        return self.has(name) and (sha256 is None or is_same)

    def write_lines(self, name: str, nouns) -> str:
        """Writes nouns as JSON lines that the manifest does not list; returns the file's path."""
        self._write(name, _json_lines(nouns))
        return os.path.join(self.path, name)

    def _write(self, name: str, data: bytes) -> None:
        def write():
            if not os.path.isdir(self.workdir):
                raise FileNotFoundError(errno.ENOENT, "the run's folder is gone", self.workdir)
            write_atomic(os.path.join(self.path, name), data)

        processes.on_main(write)

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
        return self.read_nouns(name, kind)

    def read_nouns(self, name: str, kind: type) -> list:
        """The nouns of a finished `name`.jsonl, each of type `kind`.

        Raises ValueError if the file was changed after it was written.
        """
        text = processes.on_main(lambda: self.read_stage(name)).decode()
        return [from_json(kind, json.loads(line)) for line in text.split('\n') if line]

    def copy_stage(self, name: str, other: 'Folder') -> None:
        """Takes a finished stage of another turn's folder, and records where it came from.

        Raises ValueError if its file was changed after it was written.
        """
        data = processes.on_main(lambda: other.read_stage(name))
        self._write(f'{name}.jsonl', data)
        self.mark_done(name, other.manifest[name] | {'from': os.path.abspath(other.path)})

    def recording(self, name: str):
        """A context that records samples as they are made; a resumed run does not repeat them."""
        return journal.recording(self._partial_path(name))

    def _partial_path(self, name: str) -> str:
        return os.path.join(self.path, f'{name}.partial.jsonl')

    def read_stage(self, name: str) -> bytes:
        """The bytes of `name`.jsonl. Raises ValueError if they are not those that were written."""
        path = os.path.join(self.path, f'{name}.jsonl')
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != self.manifest[name].get('sha256'):
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


def claim_workdir(workdir: str, config: dict, free: tuple) -> list[str]:
    """Writes config.json into a workdir, if it belongs to this config or to none; returns what
    changes of it, in words.

    A workdir belongs to a config once something has been sampled in it. Fields of the config whose
    name, without that of their entry, is in `free` may differ, and all fields of an entry that is.
    Every process calls this, with the same config.
    Raises ValueError if another config made the workdir, with the differences; if it holds
    something else; or if this process and process 0 have different configs.
    """
    if processes.on_main(lambda: config) != config:
        raise ValueError(
            'this process and process 0 have different configs; start all with the same command'
        )
    return processes.on_main(lambda: _claim(workdir, json.loads(json.dumps(config)), free))


def has_config(workdir: str, config: dict) -> bool:
    """Whether a workdir was made by this config. Every process calls this."""

    def has() -> bool:
        path = os.path.join(workdir, 'config.json')
        if not os.path.exists(path):
            return False
        return not list(differences(read_json(path, PUT_BACK), json.loads(json.dumps(config)), ''))

    return processes.on_main(has)


def check_local(workdir: str) -> None:
    """Raises ValueError for a workdir by URL: a run needs appending, renaming and locks."""
    if re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', workdir):
        raise ValueError(
            f'--workdir={workdir}: want a folder; a bucket can be mounted as one '
            f'(gcsfuse, mountpoint-s3), or the run copied there afterwards'
        )


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
    return read_json(path, 'delete it: the start is then taken from the oldest file')['started']


def _claim(workdir: str, config: dict, free: tuple) -> list[str]:
    path, changes = os.path.join(workdir, 'config.json'), []
    if not os.path.exists(path):
        if os.path.isdir(workdir) and set(os.listdir(workdir)) - FIRST_FILES:
            raise ValueError(
                f'{workdir} is not empty and no run made it (there is no config.json); '
                'choose another workdir'
            )
    elif _has_samples(workdir):
        changes = list(differences(read_json(path, PUT_BACK), config, ''))
        forbidden = [
            f'{name}: {old!r} in the workdir, {new!r} in the config'
            for name, old, new in changes
            if name.rpartition('.')[2] not in free and name.split('.')[0] not in free
        ]
        if forbidden:
            listed = '\n  '.join(forbidden)
            raise ValueError(
                f'{workdir} was made by another config; choose another workdir, or undo:\n'
                f'  {listed}'
            )
        if not changes:
            return []
    write_atomic(path, json_bytes(config))
    return [f'{name}: {old!r} → {new!r}' for name, old, new in changes]


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
