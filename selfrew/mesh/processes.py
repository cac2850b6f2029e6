"""Several processes as one: who they are, and what passes between them. Layer 0.

Every process runs the whole host side, which is deterministic, and holds its own part of each
device array. With one process nothing here costs anything.
"""

import contextlib
import ctypes
import functools
import os
import pickle

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SHUTDOWN_SECONDS = (
    30  # seconds that a process which ends waits for the others; then all of them are ended
)


def is_multi_process_launch() -> bool:
    """Whether a TPU pod, Slurm or Open MPI started this process as one of several (see
    jax.distributed).
    """
    count = lambda name: int(os.environ.get(name) or 1)
    workers = os.environ.get('TPU_PROCESS_ADDRESSES') or os.environ.get('TPU_WORKER_HOSTNAMES', '')
    slurm = (
        count('SLURM_NTASKS') > 1 and 'SLURM_STEP_NODELIST' in os.environ
    )  # in a step, not in its batch script
    tpu = ',' in workers or 'MEGASCALE_COORDINATOR_ADDRESS' in os.environ
    return tpu or slurm or count('OMPI_COMM_WORLD_SIZE') > 1


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the other processes, if there are any; before the first use of a device.

    Args: the coordinator's host:port, how many, and which; all None where the environment says it
      (see `detected`).
    Raises ValueError where some are missing or out of range, or the environment names no
    coordinator.
    """
    given = coordinator, processes, process
    if all(value is None for value in given):
        if is_multi_process_launch():
            try:
                jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN_SECONDS)
            except ValueError as problem:
                raise ValueError(
                    'the environment speaks of several processes, but jax cannot find their coordinator '
                    f'({problem}); give --coordinator, --processes, --process'
                ) from problem
        return
    if any(value is None for value in given):
        raise ValueError(
            f'want all of --coordinator, --processes and --process, or none; got {coordinator=}, '
            f'{processes=}, {process=}'
        )
    if not coordinator.rpartition(':')[0] or not coordinator.rpartition(':')[2].isdecimal():
        raise ValueError(f'--coordinator={coordinator}: want host:port of process 0')
    if not 0 <= process < processes:
        raise ValueError(
            f'--process={process}: want 0 to {processes - 1} of --processes={processes}'
        )
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        cluster_detection_method='deactivate',
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )


def is_alone() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def is_main() -> bool:
    """Whether this is process 0: the one that writes and speaks."""
    return jax.process_index() == 0


def place(tree, sharding):
    """Host arrays, which every process has in full, as device arrays; each process places its own
    parts.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(x):
        x = x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(one, tree)


def local_part(tree):
    """Device arrays as host arrays of the same shape, 0 where another process has the element: see
    `merge`.
    """
    if is_alone():
        return jax.device_get(tree)

    def one(x):
        out = np.zeros(x.shape, x.dtype)
        for shard in x.addressable_shards:
            if shard.replica_id == 0:  # of all copies in all processes, this one
                out[shard.index] = shard.data
        return out

    return jax.tree.map(one, tree)


@functools.partial(jax.jit, static_argnums=0)
def _sum(whole, words_PW):
    return jax.lax.with_sharding_constraint(words_PW.sum(0), whole)


def merge(tree):
    """Host arrays, of the same shapes everywhere, an element being 0 in all but one -> the complete
    ones.
    """
    if is_alone():
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    data = b''.join(x.tobytes() for x in leaves)
    words = np.zeros(
        1 << (len(data) // 4).bit_length(), np.int32
    )  # few sizes, so that few programs are compiled
    words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    firsts = {d.process_index: d for d in reversed(jax.devices())}
    mesh = Mesh([firsts[i] for i in range(jax.process_count())], 'process')
    words_PW = jax.make_array_from_callback(
        (len(firsts), len(words)),
        NamedSharding(mesh, PartitionSpec('process')),
        lambda _: words[None],
    )
    data, at, out = (
        np.asarray(_sum(NamedSharding(mesh, PartitionSpec()), words_PW)).view(np.uint8),
        0,
        [],
    )
    for x in leaves:
        out.append(data[at : at + x.nbytes].view(x.dtype).reshape(x.shape))
        at += x.nbytes
    return structure.unflatten(out)


def broadcast(data: bytes) -> bytes:
    """Process 0's bytes, in every process."""
    if is_alone():
        return data
    data = data if is_main() else b''
    size = int(merge(np.int32(len(data))))
    return merge(np.frombuffer(data.ljust(size, b'\0'), np.uint8)).tobytes()


def on_main(make):
    """What process 0's make() returns, or raises, in every process; the others do not call it."""
    if is_alone():
        return make()
    value = problem = None
    if is_main():
        try:
            value = make()
        except Exception as caught:
            problem = caught
    value, problem = pickle.loads(broadcast(pickle.dumps((value, problem)) if is_main() else b''))
    if problem is not None:
        raise problem
    return value


def release_freed_memory() -> None:
    """Gives memory that was freed back to the system: glibc keeps it after arrays of many sizes,
    200 MB and more.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
