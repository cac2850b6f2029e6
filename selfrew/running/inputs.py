"""The files that a run reads: inputs.json has their sizes and hashes, as they were at its start."""

import os

from selfrew.engine.run_files import PUT_BACK, read_json, sha256_of, write_atomic
from selfrew.mesh import processes
from selfrew.running.stage import json_bytes

NAME = 'inputs.json'
# Fields of a config that name a file that is read.
FIELDS = 'source', 'shots', 'template', 'chat_template'


def check(workdir: str, config: dict, allow_changed: bool) -> list[str]:
    """Records the files that the config names, or compares them with what was recorded; returns
    what differs, in words. Every process calls this.

    Raises ValueError if a file is not the one that the run began with, unless that is allowed;
    OSError, with the path, where inputs.json cannot be written.
    """
    return processes.on_main(lambda: _check(workdir, config, allow_changed))


def _check(workdir: str, config: dict, allow_changed: bool) -> list[str]:
    found = changes(workdir, config)
    if found and not allow_changed:
        raise ValueError(
            '\n'.join(found) + '\nput it back, choose another workdir, or go on with it by '
            '--allow_changed_inputs; finished stages stay as they are'
        )
    known, files = _known(workdir), files_of(config)
    if known | files != known:
        write_atomic(os.path.join(workdir, NAME), json_bytes(known | files))
    return found


def changes(workdir: str, config: dict) -> list[str]:
    """The files that the config names and that are not as the run recorded them, in words."""
    known = _known(workdir)
    return [
        f'{file} is not the file that this run began with: it had {known[file]["bytes"]:,} bytes '
        f'(sha256 {known[file]["sha256"][:12]}…), now {now["bytes"]:,} ({now["sha256"][:12]}…)'
        for file, now in files_of(config).items()
        if file in known and known[file] != now
    ]


def _known(workdir: str) -> dict[str, dict]:
    path = os.path.join(workdir, NAME)
    return read_json(path, PUT_BACK) if os.path.exists(path) else {}


def files_of(config) -> dict[str, dict]:
    """Path -> bytes and sha256 of each file that a config, or a part of it, names."""
    found = {}
    if isinstance(config, dict):
        for name, value in config.items():
            if name in FIELDS and isinstance(value, str) and os.path.isfile(value):
                found[value] = {'bytes': os.path.getsize(value), 'sha256': sha256_of(value)}
            else:
                found |= files_of(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            found |= files_of(value)
    return found
