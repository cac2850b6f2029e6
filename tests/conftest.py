"""What all tests share: eight fake devices, strict ranks, the tiny base, one small round of
training.
"""

import atexit
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
if (
    'JAX_COMPILATION_CACHE_DIR' not in os.environ
):  # what one worker compiles, the other finds, and what tests start
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='selfrew-programs-')
    os.environ['JAX_COMPILATION_CACHE_MAX_SIZE'] = str(
        8 << 30
    )  # with a limit, it is locked while it is written
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'
    atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'.strip()
)

sys.path.insert(
    0, str(pathlib.Path(__file__).parent.parent)
)  # for configs and experiments, as main does

import jax
import pytest

from selfrew.models import language_model

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def tiny():
    """(lm, params) of the base that ships, on one device."""
    return language_model.load(folder='tiny')


@pytest.fixture(autouse=True, scope='module')
def _forget_programs():
    """Linux maps at most 65,530 pieces of memory for a process, and each compiled program is some:
    forgotten in time.
    """
    yield
    if os.path.exists('/proc/self/maps'):
        with open('/proc/self/maps') as file:
            if sum(1 for _ in file) > 20_000:
                jax.clear_caches()
