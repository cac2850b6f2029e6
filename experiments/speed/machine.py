"""The machine that is measured: its name, and the peaks it reaches."""

import functools
import os
import platform
import time

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s by the data sheets, for MFU.
NOMINAL = {'A100': 312e12, 'H100': 989.4e12, 'H200': 989.4e12}


def nominal_peak(device_kind: str) -> float | None:
    """The data sheet's FLOP/s of a device, or None where it is not listed."""
    return next((peak for name, peak in NOMINAL.items() if name in device_kind), None)


def best_seconds(call, repeats: int) -> float:
    """The shortest of `repeats` timed calls, after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def gemm_peak(dtype: str, sides: list[int], repeats: int = 5) -> float:
    """FLOP/s of the fastest product of two square matrices of any of these sides."""
    multiply, rates = jax.jit(jnp.matmul), []
    for side in sides:
        left, right = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
        seconds = best_seconds(functools.partial(multiply, left, right), repeats)
        rates.append(2 * side**3 / seconds)
    return max(rates)


def copy_bandwidth(numbers: int, repeats: int = 10) -> float:
    """Bytes/s, read and written, of adding 1 to an array of float32."""
    array = jnp.zeros(numbers)
    add_one = functools.partial(jax.jit(lambda x: x + 1), array)
    return 8 * numbers / best_seconds(add_one, repeats)


def device_name() -> str:
    """The name of the device; of a CPU, its model and the cores that this process may use."""
    device = jax.devices()[0]
    if device.platform != 'cpu':
        return device.device_kind
    try:
        with open('/proc/cpuinfo') as file:
            models = [line.split(':')[1].strip() for line in file if line.startswith('model name')]
        model = models[0]
    except (OSError, IndexError):
        model = platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{model}, {cores} cores'
