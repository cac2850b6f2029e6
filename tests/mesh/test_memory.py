"""A device's memory is all of what it has, whatever is free, and a container's limit counts."""

import builtins
import io
import subprocess
import sys

import jax
import pytest

from selfrew.mesh import memory


class _Accelerator:
    platform = 'gpu'

    def __init__(self, stats):
        self._stats = stats

    def memory_stats(self):
        return self._stats


def test_an_accelerators_memory_is_what_its_client_may_take():
    stats = {'bytes_limit': 7 << 30, 'peak_bytes_in_use': 3 << 30}
    assert memory.device_bytes(_Accelerator(stats)) == 7 << 30
    assert memory.peak_bytes(_Accelerator(stats)) == 3 << 30
    assert memory.device_bytes(_Accelerator(None)) == 4 << 30


@pytest.mark.parametrize(
    ('files', 'expected'),
    [
        ({}, 64 << 30),
        ({'/sys/fs/cgroup/memory.max': 'max\n'}, 64 << 30),
        ({'/sys/fs/cgroup/memory.max': f'{16 << 30}\n'}, 16 << 30),
        ({'/sys/fs/cgroup/memory/memory.limit_in_bytes': f'{8 << 30}'}, 8 << 30),
        ({'/sys/fs/cgroup/memory.max': f'{1 << 60}'}, 64 << 30),
    ],
)
def test_devices_of_a_cpu_share_the_machines_memory_or_the_containers(monkeypatch, files, expected):
    pages = {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': (64 << 30) // 4096}
    monkeypatch.setattr(memory.os, 'sysconf', pages.__getitem__)

    def open_file(path, *args, **kwargs):
        if str(path).startswith('/sys/fs/cgroup'):
            if path not in files:
                raise FileNotFoundError(path)
            return io.StringIO(files[path])
        return real_open(path, *args, **kwargs)

    real_open = builtins.open
    monkeypatch.setattr(builtins, 'open', open_file)
    (device, *_) = jax.devices('cpu')
    assert memory.device_bytes(device) == expected // jax.local_device_count('cpu')


PEAKS = """
import jax
import numpy as np

from selfrew.mesh import memory

device = jax.devices('cpu')[0]
before = memory.peak_bytes(device)
block = np.ones(before // 8 + (64 << 20) // 8)  # more than the process has taken at most
assert memory.peak_bytes(device) >= block.nbytes > before
"""


@pytest.mark.slow
def test_the_peak_of_a_cpu_is_that_of_the_process_and_grows_with_it():
    """In a process of its own, whose peak is small."""
    subprocess.run([sys.executable, '-c', PEAKS], check=True, timeout=120)
