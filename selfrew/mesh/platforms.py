"""Which platform jax is to look for. Imports no jax: it must be said before jax is used."""

import glob
import importlib.util
import os

TPU_FILES = '/dev/accel*', '/dev/vfio/[0-9]*'
GPU_FILES = '/dev/nvidia[0-9]*', '/dev/kfd'


def skip_absent_tpu() -> None:
    """Keeps jax from looking for a TPU where its compiler is installed and the machine has none.

    The search fails, which is harmless and prints errors. A user's JAX_PLATFORMS is left alone.
    """
    is_installed = importlib.util.find_spec('libtpu') is not None
    has_device = any(glob.glob(files) for files in (*TPU_FILES, *GPU_FILES))
    if is_installed and not has_device and not os.environ.get('JAX_PLATFORMS'):
        os.environ['JAX_PLATFORMS'] = 'cpu'
