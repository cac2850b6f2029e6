"""Several processes as one: how they join, and how data passes between them.

Every process runs all of the host side, which is deterministic, and holds its own shards of each
device array. With a single process these functions cost nothing.
"""

import functools
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfrew.mesh import stopping

SHUTDOWN_SECONDS = 30  # a process that exits waits this long for the others, then all are ended
HEARTBEAT_SECONDS = 30  # a process that is silent for so long is dead, and then all are ended


def is_multi_process_launch() -> bool:
    """Whether a TPU pod, Slurm or Open MPI started this process as one of several (see
    jax.distributed).
    """
    tpu_workers = os.environ.get('TPU_PROCESS_ADDRESSES') or os.environ.get(
        'TPU_WORKER_HOSTNAMES', ''
    )
    is_tpu_pod = ',' in tpu_workers or 'MEGASCALE_COORDINATOR_ADDRESS' in os.environ
    is_slurm_step = 'SLURM_STEP_NODELIST' in os.environ  # a batch script sets SLURM_NTASKS too
    is_slurm = is_slurm_step and _count_in_environment('SLURM_NTASKS') > 1
    return is_tpu_pod or is_slurm or _count_in_environment('OMPI_COMM_WORLD_SIZE') > 1


def _count_in_environment(name: str) -> int:
    return int(os.environ.get(name) or 1)


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the other processes, if there are any. Call it before the first use of a device.

    Args: the coordinator's host:port, the number of processes, and the index of this one. If all
      are None, the environment decides (see `is_multi_process_launch`).
    Raises ValueError if only some are set, if one is out of range, or if the environment names no
    coordinator.
    """
    if coordinator is None and processes is None and process is None:
        if is_multi_process_launch():
            _initialize_from_environment()
        return
    if coordinator is None or processes is None or process is None:
        raise ValueError(
            f'want all of --coordinator, --processes and --process, or none; got {coordinator=}, '
            f'{processes=}, {process=}'
        )
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdecimal():
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
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    stopping.agree_by(multihost_utils.reached_preemption_sync_point)


def _initialize_from_environment() -> None:
    try:
        jax.distributed.initialize(
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as problem:
        raise ValueError(
            'the environment names several processes, but jax cannot find their coordinator '
            f'({problem}); set --coordinator, --processes and --process'
        ) from problem
    stopping.agree_by(multihost_utils.reached_preemption_sync_point)


def is_alone() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def is_main() -> bool:
    """Whether this is process 0, the only one that writes files and prints."""
    return jax.process_index() == 0


def is_loss(problem: BaseException) -> bool:
    """Whether an exception says that another process cannot be reached any more.

    Where a program is started, jax raises it as a ValueError.
    """
    is_of_transport = any(name in str(problem) for name in ('Gloo', 'UNAVAILABLE:'))
    is_of_jax = isinstance(problem, jax.errors.JaxRuntimeError)
    return not is_alone() and (is_of_jax or is_of_transport)


def place(tree, sharding):
    """Host arrays, complete in every process, as device arrays.

    Each process places its own shards.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place_leaf(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = leaf if is_key else np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place_leaf, tree)


def local_part(tree):
    """Device arrays as host arrays of the same shape; elements that another process holds are 0.

    `merge` completes them.
    """
    if is_alone():
        return jax.device_get(tree)

    def local_leaf(array):
        local = np.zeros(array.shape, array.dtype)
        for shard in array.addressable_shards:
            if shard.replica_id == 0:  # each element counts once, whatever the number of replicas
                local[shard.index] = shard.data
        return local

    return jax.tree.map(local_leaf, tree)


def merge(tree):
    """Complete host arrays, in every process, from the local parts of all processes.

    The arrays have the same shapes everywhere, and each element is 0 in all processes but one.
    """
    if is_alone():
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    merged = _sum_over_processes(b''.join(leaf.tobytes() for leaf in leaves))
    complete, start = [], 0
    for leaf in leaves:
        stop = start + leaf.nbytes
        complete.append(merged[start:stop].view(leaf.dtype).reshape(leaf.shape))
        start = stop
    return structure.unflatten(complete)


def _sum_over_processes(data: bytes) -> np.ndarray:
    """uint8 array, at least as long as `data`: the sum of every process's bytes as int32 words."""
    # A power of two of words: few sizes, so few programs are compiled.
    words = np.zeros(1 << (len(data) // 4).bit_length(), np.int32)
    words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    first_device = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh([first_device[process] for process in range(jax.process_count())], 'process')
    words_PW = jax.make_array_from_callback(
        (len(first_device), len(words)),
        NamedSharding(mesh, PartitionSpec('process')),
        lambda _: words[None],
    )
    return np.asarray(_sum(NamedSharding(mesh, PartitionSpec()), words_PW)).view(np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def _sum(replicated, words_PW):
    return jax.lax.with_sharding_constraint(words_PW.sum(0), replicated)


def broadcast(data: bytes) -> bytes:
    """Process 0's bytes, in every process."""
    if is_alone():
        return data
    data = data if is_main() else b''
    size = int(merge(np.int32(len(data))))
    return merge(np.frombuffer(data.ljust(size, b'\0'), np.uint8)).tobytes()


def on_main(make):
    """What make() returns or raises in process 0, in every process. The others do not call it."""
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
