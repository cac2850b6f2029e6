"""How much memory a device has, and how much this process took at most."""

import os
import resource
import sys

import jax

# Files with the limit of a container, of cgroups version 2 and 1.
CGROUP_LIMITS = '/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'


def device_bytes(device) -> int:
    """Bytes of memory that a device of this process has: all of it, whatever is free now.

    An accelerator's is what its client may take. CPU devices share the machine's memory, or what
    the container may take of it, evenly. 4 GiB where neither is known.
    """
    limit = (device.memory_stats() or {}).get('bytes_limit')
    if limit:
        return int(limit)
    if device.platform != 'cpu':
        return 4 * 2**30
    return _machine_bytes() // max(jax.local_device_count('cpu'), 1)


def _machine_bytes() -> int:
    """The machine's memory, or what its container may take."""
    try:
        total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30
    for path in CGROUP_LIMITS:
        try:
            with open(path) as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):  # no container, or 'max'
            continue
    return total


def peak_bytes(device) -> int:
    """The most bytes in use so far: of an accelerator, or else of this process."""
    peak = (device.memory_stats() or {}).get('peak_bytes_in_use')
    if peak:
        return int(peak)
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
