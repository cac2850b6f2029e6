"""Two processes of four devices end as one of eight does; process 0 alone writes and prints."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from toys import assert_close
from xla_flags import FAST_COMPILATION

from selfrew.engine import train_state
from selfrew.mesh import processes, sharding
from selfrew.models import language_model
from selfrew.running import checkpoint, stage
from selfrew.shelves import optimizers

ROOT = pathlib.Path(__file__).parents[2]
LIMIT = 240  # seconds that a process may take
CONFIG = """
from configs import quickstart

def get_config():
    config = quickstart.get_config('smoke')
    config.mesh.fsdp = 8
    config.round.prompts.n = 8
    config.round.scorer = {'name': 'length'}
    config.evals.accuracy.prompts.n = 8
    config.evals.accuracy.sampler.max_tokens = 12
    config.evals.accuracy.sampler.slots = 4
    del config.evals['judge']
    return config
"""


class Command:
    """A process of `python -m selfrew.main`, with its output in files."""

    def __init__(self, folder, devices, arguments):
        environment = os.environ | {
            'PYTHONPATH': str(ROOT),
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} ' + FAST_COMPILATION,
            # A process finds all that an earlier one compiled.
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        }
        self._stdout, self._stderr = open(f'{folder}.out', 'w+'), open(f'{folder}.err', 'w+')
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'selfrew.main', *arguments],
            cwd=ROOT,
            env=environment,
            stdout=self._stdout,
            stderr=self._stderr,
        )

    def printed(self) -> str:
        self._stdout.seek(0)
        return self._stdout.read()

    def errors(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """start(devices, *arguments): a Command with CONFIG, killed at the end if it still runs."""
    folder, commands = tmp_path_factory.mktemp('commands'), []
    (folder / 'config.py').write_text(CONFIG)

    def start_one(devices, *arguments):
        arguments = f'--config={folder}/config.py', *arguments
        commands.append(Command(folder / str(len(commands)), devices, arguments))
        return commands[-1]

    yield start_one
    for command in commands:
        command.kill()


def _start_two(start, workdirs, *arguments):
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    joined = f'--coordinator=localhost:{port}', '--processes=2', *arguments
    return [
        start(4, f'--workdir={workdir}', f'--process={index}', *joined)
        for index, workdir in enumerate(workdirs)
    ]


def _wait(commands, status=0):
    for command in commands:
        assert command.process.wait(LIMIT) == status, command.errors()[-3000:]


@pytest.fixture(scope='module')
def single(tmp_path_factory, start):
    """The folder of a run of one process."""
    workdir = tmp_path_factory.mktemp('single') / 'w'
    _wait([start(8, f'--workdir={workdir}')])
    return workdir


LOGP = re.compile(r'"logp": (-?[\d.e-]+)')


def _assert_same_file(workdir, single, name):
    """The files are the same but for log-probs' last digits, which were summed over devices."""
    text = (workdir / 'rounds' / name).read_text()
    single_text = (single / 'rounds' / name).read_text()
    assert LOGP.sub('', text) == LOGP.sub('', single_text), name
    logps = np.array(LOGP.findall(text), float)
    single_logps = np.array(LOGP.findall(single_text), float)
    if len(single_logps):
        assert_close(logps, single_logps)


def _adamw():
    return optimizers.adamw()


def _restored_params(workdir):
    lm, params = language_model.load(folder='tiny', fsdp=8)
    optimizer = train_state.cached_optimizer(_adamw)
    return checkpoint.restore(lm, stage.Folder(str(workdir), '01'), optimizer, params).params


def _words(text):
    """The words, without those that the transport between processes prints in pieces."""
    transport = 'Gloo Rank is connected to peer ranks Expected number of'
    return set(re.findall('[A-Za-z]+', text)) - set(transport.split())


def _send_after(name, commands, workdir, number):
    """Sends process 1 a signal once round 01 has written `name`, and waits for process 0 to end."""
    manifest, deadline = workdir / 'rounds' / '01' / 'manifest.json', time.time() + LIMIT
    while not (manifest.exists() and name in json.loads(manifest.read_text())):
        errors = commands[0].errors()[-3000:]
        assert time.time() < deadline, errors
        assert all(command.process.poll() is None for command in commands), errors
        time.sleep(0.05)
    commands[1].process.send_signal(number)
    commands[0].process.wait(LIMIT)


@pytest.mark.slow
def test_two_processes_killed_and_started_again_end_as_one_process_does(tmp_path, start, single):
    """Process 1 is asked to stop, and then killed; process 0 ends each time, in a sentence."""
    workdir = tmp_path / 'w'
    asked = _start_two(start, [workdir] * 2)
    _send_after('prompts', asked, workdir, signal.SIGTERM)  # it samples, without a long compilation
    _wait(asked, status=143)
    assert all('SIGTERM: stopped; the same command goes on' in c.errors() for c in asked)
    killed = _start_two(start, [workdir] * 2)
    _send_after('state', killed, workdir, signal.SIGKILL)
    errors = killed[0].errors()
    assert killed[0].process.returncode == 1 and 'Traceback' not in errors, errors
    assert 'another process of the run has ended, or cannot be reached' in errors
    resumed = _start_two(start, [workdir] * 2)
    _wait(resumed)
    # it resumed from the state
    assert 'update' in killed[0].errors() and 'update' not in resumed[0].errors()
    assert 'accuracy' in _words(resumed[0].printed()) and _words(killed[0].printed())
    assert 'accuracy' not in _words(resumed[1].printed()) and not _words(killed[1].printed())

    for path in sorted((single / 'rounds').glob('*/*.jsonl')):
        _assert_same_file(workdir, single, path.relative_to(single / 'rounds'))
    assert_close(_restored_params(workdir), _restored_params(single))

    other_seed = _start_two(start, [workdir] * 2, '--config.seed=5')
    _wait(other_seed, status=1)
    message = 'seed: 0 in the workdir, 5 in the config'
    assert all(message in command.errors() for command in other_seed)


@pytest.mark.slow
def test_process_0_alone_writes_and_rows_held_twice_come_once(tmp_path, start, single):
    """With tensor=8 each process holds every row. Process 1 has a workdir of its own, and leaves it
    alone.
    """
    overrides = '--config.rounds=0', '--config.mesh.fsdp=1', '--config.mesh.tensor=8'
    commands = _start_two(start, [tmp_path / '0', tmp_path / '1'], *overrides)
    _wait(commands)
    assert os.listdir(tmp_path) == ['0'] and not _words(commands[1].printed())
    _assert_same_file(tmp_path / '0', single, '00/eval_accuracy.jsonl')


ALL_OR_NONE = 'want all of --coordinator, --processes and --process, or none; got '


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (('host:1', 2, None), f"{ALL_OR_NONE}coordinator='host:1'"),
        ((None, None, 0), 'want all of'),
        (('host:1', 2, 2), '--process=2: want 0 to 1 of --processes=2'),
        (('host:1', 2, -1), '--process=-1: want 0 to 1'),
        (('host', 2, 0), '--coordinator=host: want host:port'),
    ],
    ids=['two', 'one', 'high', 'low', 'port'],
)
def test_flags_that_say_too_little_or_too_much_are_refused(flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        processes.initialize(*flags)


def test_the_command_refuses_an_incomplete_set_of_flags(tmp_path, start):
    command = start(1, f'--workdir={tmp_path}/w', '--processes=2')
    _wait([command], status=1)
    assert 'selfrew: want all of' in command.errors() and 'Traceback' not in command.errors()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ('environment', 'is_multi_process'),
    [
        ({}, False),
        ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
        ({'TPU_PROCESS_ADDRESSES': 'a:1,b:1'}, True),
        ({'MEGASCALE_COORDINATOR_ADDRESS': 'a'}, True),
        ({'SLURM_NTASKS': '1', 'SLURM_STEP_NODELIST': 'a'}, False),
        ({'SLURM_NTASKS': '4'}, False),
        ({'SLURM_NTASKS': '4', 'SLURM_STEP_NODELIST': 'a[1-4]'}, True),
        ({'OMPI_COMM_WORLD_SIZE': '1'}, False),
        ({'OMPI_COMM_WORLD_SIZE': '2'}, True),
    ],
)
def test_several_processes_are_known_from_the_environment(
    monkeypatch, environment, is_multi_process
):
    for name in list(os.environ):
        if name.startswith(('TPU_', 'MEGASCALE_', 'SLURM_', 'OMPI_')):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.is_multi_process_launch() == is_multi_process


def test_a_mesh_that_leaves_a_process_without_devices_is_refused(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    message = 'fsdp=4, tensor=1 leaves out devices; 2 processes want one of all 8'
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(fsdp=4)


def test_alone_nothing_is_sent_and_process_0_answers():
    assert processes.is_alone() and processes.is_main()
    assert processes.broadcast(b'data') == b'data'
    assert processes.on_main(lambda: 5) == 5

    def fail():
        raise OSError('full')

    with pytest.raises(OSError, match='full'):
        processes.on_main(fail)
