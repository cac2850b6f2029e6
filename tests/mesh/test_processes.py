"""Two processes of four devices end as one process of eight does; only process 0 writes and speaks."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from selfrew.engine import train_state
from selfrew.mesh import processes, sharding
from selfrew.models import language_model
from selfrew.run import checkpoint, stage
from selfrew.shelves import optimizers

ROOT = pathlib.Path(__file__).parents[2]
LIMIT = 240  # seconds; a hang fails
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


@pytest.fixture(scope='module')
def begin(tmp_path_factory):
    """begin(devices, *arguments): a process of the command, its output in files; killed at the end
    if it still runs.
    """
    folder, running = tmp_path_factory.mktemp('said'), []
    (folder / 'config.py').write_text(CONFIG)

    def one(devices, *arguments):
        environment = (
            os.environ
            | {
                'PYTHONPATH': str(ROOT),
                'JAX_PLATFORMS': 'cpu',
                'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
                'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',  # what one process has compiled, the next finds
            }
        )
        out, err = (open(folder / f'{len(running)}.{kind}', 'w+') for kind in ('out', 'err'))
        command = [sys.executable, '-m', 'selfrew.main', f'--config={folder}/config.py', *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)
        process.said, process.erred = lambda: _read(out), lambda: _read(err)
        running.append(process)
        return process

    yield one
    for process in running:
        process.kill()
        process.wait()


def _read(file):
    file.seek(0)
    return file.read()


def _two(begin, workdirs, *arguments):
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    ours = f'--coordinator=localhost:{port}', '--processes=2'
    return [
        begin(4, f'--workdir={w}', *ours, f'--process={i}', *arguments)
        for i, w in enumerate(workdirs)
    ]


def _ended(processes, status=0):
    for process in processes:
        assert process.wait(LIMIT) == status, process.erred()[-3000:]


@pytest.fixture(scope='module')
def single(tmp_path_factory, begin):
    """The folder of a run of one process."""
    workdir = tmp_path_factory.mktemp('single') / 'w'
    _ended([begin(8, f'--workdir={workdir}')])
    return workdir


LOGP = re.compile(r'"logp": (-?[\d.e-]+)')


def _assert_like(workdir, single, name):
    """The same file but for the last digits of what was summed over devices."""
    one, other = ((folder / 'rounds' / name).read_text() for folder in (workdir, single))
    assert LOGP.sub('', one) == LOGP.sub('', other), name
    mine, theirs = (np.array(LOGP.findall(text), float) for text in (one, other))
    np.testing.assert_allclose(mine, theirs, atol=1e-5, rtol=1e-6)


@pytest.mark.slow
def test_two_processes_killed_and_started_again_end_as_one_process_does(tmp_path, begin, single):
    workdir = tmp_path / 'w'
    manifest, last = workdir / 'rounds' / '01' / 'manifest.json', time.time() + LIMIT
    both = _two(begin, [workdir] * 2)
    while not (manifest.exists() and 'state' in json.loads(manifest.read_text())):
        assert time.time() < last and all(p.poll() is None for p in both), both[0].erred()[-3000:]
        time.sleep(0.05)
    for process in both:
        process.kill()
    again = _two(begin, [workdir] * 2)
    _ended(again)
    assert (
        'update' in both[0].erred() and 'update' not in again[0].erred()
    )  # it went on from the state
    for (one, two), speaks in zip(zip(both, again), (True, False)):
        assert ('accuracy' in _words(two.said())) == speaks == bool(_words(one.said()))

    for path in sorted((single / 'rounds').glob('*/*.jsonl')):
        _assert_like(workdir, single, path.relative_to(single / 'rounds'))
    lm, params = language_model.load(folder='tiny', fsdp=8)
    states = [
        checkpoint.restore(
            lm, stage.Folder(str(w), '01'), train_state.cached_optimizer(_adamw), params
        ).params
        for w in (workdir, single)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *states)

    other = _two(begin, [workdir] * 2, '--config.seed=5')
    _ended(other, status=1)
    assert all('seed: there 0, here 5' in p.erred() for p in other)


def _adamw():
    return optimizers.adamw()


def _words(text):
    """Without those that the transport between the processes says, in pieces and out of order."""
    theirs = 'Gloo Rank is connected to peer ranks Expected number of'
    return set(re.findall('[A-Za-z]+', text)) - set(theirs.split())


@pytest.mark.slow
def test_process_0_alone_writes_and_rows_held_twice_come_once(tmp_path, begin, single):
    """With tensor=8 each process holds every row; process 1 has a workdir of its own, and leaves it
    alone.
    """
    both = _two(
        begin,
        [tmp_path / '0', tmp_path / '1'],
        '--config.rounds=0',
        '--config.mesh.fsdp=1',
        '--config.mesh.tensor=8',
    )
    _ended(both)
    assert os.listdir(tmp_path) == ['0'] and not _words(both[1].said())
    _assert_like(tmp_path / '0', single, '00/eval_accuracy.jsonl')


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (
            ('there:1', 2, None),
            "want all of --coordinator, --processes and --process, or none; got coordinator='there:1'",
        ),
        ((None, None, 0), 'want all of'),
        (('there:1', 2, 2), '--process=2: want 0 to 1 of --processes=2'),
        (('there:1', 2, -1), '--process=-1: want 0 to 1'),
        (('there', 2, 0), '--coordinator=there: want host:port'),
    ],
    ids=['two', 'one', 'high', 'low', 'port'],
)
def test_flags_that_say_too_little_or_too_much_are_refused(given, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        processes.initialize(*given)


def test_the_command_refuses_an_incomplete_set_of_flags(tmp_path, begin):
    process = begin(1, f'--workdir={tmp_path}/w', '--processes=2')
    _ended([process], status=1)
    assert 'selfrew: want all of' in process.erred() and 'Traceback' not in process.erred()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ('environment', 'several'),
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
def test_several_processes_are_known_from_the_environment(monkeypatch, environment, several):
    for name in list(os.environ):
        if name.startswith(('TPU_', 'MEGASCALE_', 'SLURM_', 'OMPI_')):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.is_multi_process_launch() == several


def test_a_mesh_that_leaves_a_process_without_devices_is_refused(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    with pytest.raises(
        ValueError, match='fsdp=4, tensor=1 leaves out devices; 2 processes want one of all 8'
    ):
        sharding.make_mesh(fsdp=4)


def test_alone_nothing_is_sent_and_process_0_answers():
    assert (
        processes.is_alone()
        and processes.is_main()
        and processes.broadcast(b'it') == b'it'
        and processes.on_main(lambda: 5) == 5
    )
    with pytest.raises(OSError, match='full'):
        processes.on_main(lambda: (_ for _ in ()).throw(OSError('full')))
