"""For all tests: eight fake devices, a cache of compiled programs, strict ranks, the tiny base."""

import atexit
import functools
import os
import pathlib
import shutil
import sys
import tempfile

from xla_flags import FAST_COMPILATION

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Test workers, and the processes that tests start, share what they compile.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='selfrew-programs-')
    # A cache with a size limit is locked while it is written.
    os.environ['JAX_COMPILATION_CACHE_MAX_SIZE'] = str(8 << 30)
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'
    atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
os.environ['XLA_FLAGS'] = ' '.join(
    [
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=8',
        FAST_COMPILATION,
    ]
).strip()

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs and experiments

import jax
import pytest
from jax._src import literals
from jax.experimental import pallas

from selfrew.models import language_model, paged_attention

jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_configure(config):
    """A worker that dies ends the run: under loadfile, a run with one in its place never ends."""
    if getattr(config.option, 'numprocesses', None) and config.option.maxworkerrestart is None:
        config.option.maxworkerrestart = '0'


@pytest.fixture(scope='session')
def tiny():
    """(lm, params) of the tiny base that ships with the package, on one device."""
    return language_model.load(folder='tiny')


@pytest.fixture(scope='module')
def describe_once():
    """Runs share a model, so that its programs are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_model, 'describe', functools.cache(language_model.describe))
        yield


@pytest.fixture(autouse=True, scope='module')
def _clear_programs():
    """Drops compiled programs before the process has too many memory maps.

    Linux allows 65,530 per process, and each compiled program takes some.
    """
    yield
    if os.path.exists('/proc/self/maps'):
        with open('/proc/self/maps') as file:
            if sum(1 for _ in file) > 20_000:
                jax.clear_caches()


@pytest.fixture
def interpreted_kernel(monkeypatch):
    """The kernels of paged attention run on a CPU, interpreted."""
    interpreted = functools.partial(pallas.pallas_call, interpret=True)
    monkeypatch.setattr(pallas, 'pallas_call', interpreted)
    triton = paged_attention.triton
    of_gpu = functools.partial(triton.paged_attention, interpret=True)
    monkeypatch.setattr(triton, 'paged_attention', of_gpu)
    # What interprets it asks an index for its shape, which jax's own int has not (jax 0.10.2).
    monkeypatch.setattr(literals.TypedInt, 'shape', (), raising=False)
