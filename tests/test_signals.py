"""A run that is asked to stop saves, says so, and ends as one that was not stopped."""

import collections
import glob
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from xla_flags import FAST_COMPILATION

from configs import quickstart
from selfrew.engine import train_state
from selfrew.mesh import stopping
from selfrew.models import language_model
from selfrew.running import checkpoint, metrics_log, stage
from selfrew.running.config import turns_of

ROOT = pathlib.Path(__file__).parent.parent
CODES = {'SIGINT': 130, 'SIGTERM': 143, 'SIGHUP': 129}
TIMES = {'time', 'evals/seconds', 'turn/seconds', 'turn/compiled', 'turn/compile_seconds'}
TIMES |= {'turn/tokens_per_s', 'turn/read_tokens', 'turn/sampled_tokens', 'turn/peak_gib'}


@pytest.fixture(autouse=True)
def _signals_are_not_ignored():
    """A process ignores what its parent ignores: ctrl-C where the tests run in the background, and
    SIGHUP once libtpu is loaded, which Python does not hear of: so each is set, and none asked.
    """
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler if callable(handler) else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _environment():
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    fast = {'XLA_FLAGS': FAST_COMPILATION}
    return os.environ | {'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'} | fast


def _stages(workdir):
    paths = glob.glob(f'{workdir}/rounds/*/*.jsonl')
    return {os.path.relpath(path, workdir): pathlib.Path(path).read_bytes() for path in paths}


def _metrics(workdir):
    rows = metrics_log.read_rows(f'{workdir}/metrics.jsonl')
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def _states(workdir, lm, params):
    config = quickstart.get_config('smoke').to_dict() | {'rounds': 2}
    states = []
    for turn in turns_of(config):
        optimizer = train_state.cached_optimizer(turn.train.keywords['optimizer'])
        states.append(checkpoint.restore(lm, stage.Folder(workdir, turn.name), optimizer, params))
    return states


@pytest.mark.slow
def test_a_run_stopped_at_seeded_moments_ends_as_one_that_was_not(tmp_path):
    """Twenty moments for each signal, each at a random time of a run."""
    command = [sys.executable, str(ROOT / 'tests' / 'stopped_runs.py'), str(tmp_path), '60']
    result = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=1200
    )
    assert result.returncode == 0, result.stderr[-3000:]
    told = json.loads(result.stdout.splitlines()[-1])
    assert collections.Counter(stop['signal'] for stop in told['stops']) == dict.fromkeys(CODES, 20)
    for stop in told['stops']:
        assert stop['code'] == CODES[stop['signal']] and stop['reason'] == stop['signal']
        assert stop['state'] == 'stopped' and stop['error'] == stop['signal']
    assert any(stop['saves'] for stop in told['stops'])  # amid an update
    lm, params = language_model.load(folder='tiny')
    whole = f'{tmp_path}/whole'
    for number in range(told['runs']):
        stopped = f'{tmp_path}/stopped{number}'
        assert _stages(stopped) == _stages(whole) and _metrics(stopped) == _metrics(whole)
        jax.tree.map(
            np.testing.assert_array_equal, _states(stopped, lm, params), _states(whole, lm, params)
        )
        assert not glob.glob(f'{stopped}/rounds/*/update*') and not os.path.exists(
            f'{stopped}/lock.json'
        )


def _command(workdir, before=()):
    run = sys.executable, '-m', 'selfrew', 'run', 'quickstart:smoke', f'--workdir={workdir}'
    return subprocess.Popen(
        [*before, *run],
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'seconds'), [('SIGINT', 0.0), ('SIGTERM', 0.6), ('SIGHUP', 1.6), ('SIGINT', 3.6)]
)
def test_a_command_that_is_still_starting_stops_at_once(tmp_path, name, seconds):
    process = _command(tmp_path / 'w')
    _wait_until_it_listens(process)
    time.sleep(seconds)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == CODES[name], errors
    assert f'selfrew: {name}: ' in errors and 'Traceback' not in errors


def _wait_until_it_listens(process):
    """Until a process catches SIGTERM, which Python by itself does not: stopping.listen is its
    first act, but on a busy machine Python itself may take a second.
    """
    status = pathlib.Path(f'/proc/{process.pid}/status')
    if not status.exists():
        time.sleep(0.4)
        return

    def catches_sigterm():
        caught = next(line for line in status.read_text().splitlines() if 'SigCgt' in line)
        return int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1

    _wait_until(catches_sigterm, process, seconds=30)


def _wait_until(is_true, process, seconds):
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_and_nohup_is_respected(tmp_path):
    process = _command(tmp_path / 'w', before=('nohup',))
    _wait_until((tmp_path / 'w' / 'started.json').exists, process, seconds=120)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - begun < stopping.GRACE_SECONDS, errors
    assert 'SIGHUP' not in errors and 'once more stops at once' in errors
    assert not os.path.exists(tmp_path / 'w' / 'lock.json')
