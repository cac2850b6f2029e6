"""Under what each start of a run ran: starts.jsonl, which a resumed run is compared with."""

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib import metadata

import jax

from selfrew.engine.run_files import naming
from selfrew.mesh import processes
from selfrew.running.status import now

PACKAGES = 'selfrew', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'numpy'
# What the last bits of a run's numbers hang on.
MATTERS = 'versions', 'device', 'devices', 'processes', 'cores', 'commit'


def record(workdir: str, seed: int, changes: list[str]) -> list[str]:
    """Appends this start to starts.jsonl, and returns what of MATTERS differs from the last one, in
    words. Every process calls this.

    changes: of the config since the last start, in words.
    Raises OSError, with the path, where the file cannot be written.
    """
    return processes.on_main(lambda: _record(workdir, seed, changes))


def _record(workdir: str, seed: int, changes: list[str]) -> list[str]:
    path, this = os.path.join(workdir, 'starts.jsonl'), surroundings()
    before = read(path)
    row = {'time': now(), 'seed': seed, **this, 'changes': changes}
    with naming(path), open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps(row, ensure_ascii=False) + '\n')
    if not before:
        return []
    return [
        f'{name} {_shown(before[-1].get(name))} → {_shown(this[name])}'
        for name in MATTERS
        if before[-1].get(name) != this[name]
    ]


def read(path: str) -> list[dict]:
    """The starts so far; a line that cannot be read is left out."""
    rows = []
    if os.path.exists(path):
        with open(path, encoding='utf-8', errors='replace') as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                rows += [row] if isinstance(row, dict) else []
    return rows


def surroundings() -> dict:
    """What a start ran with and on."""
    return {
        'command': shlex.join(sys.orig_argv),
        'host': socket.gethostname(),
        'versions': {'python': platform.python_version()} | _versions(),
        'commit': _commit(),
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        'processes': jax.process_count(),
        'cores': _cores(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # such as a checkout that is not installed
            continue
    return versions


def _cores() -> int:
    """Cores that this process may use, by which a CPU splits its sums."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _commit() -> str | None:
    """The git commit of the checkout that selfrew runs from, with '+' if files differ from it; None
    outside of one.
    """
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if not os.path.exists(os.path.join(folder, '.git')):
        return None

    def git(*arguments: str) -> str:
        command = ['git', '-C', folder, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        changed = git('status', '--porcelain', '--untracked-files=no')
        return git('rev-parse', 'HEAD') + ('+' if changed else '') or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def _shown(value) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{name} {version}' for name, version in value.items())
    return str(value)
