"""A run says how far it is and how it ended, in files that a person reads."""

import json
import os

import pytest

from selfrew.engine import progress
from selfrew.mesh import stopping
from selfrew.running import console, status


def _json(path):
    with open(path) as file:
        return json.load(file)


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / 'rounds').mkdir()
    return str(tmp_path)


def test_progress_is_shown_with_rate_and_time_left(workdir, monkeypatch):
    monkeypatch.setattr(status, 'WRITE_SECONDS', 0.0)
    with status.reporting(workdir) as run_status:
        run_status.begin('02', 'update')
        with progress.StepBar(4, 'update', 'step', done=1) as bar:
            for _ in range(2):
                bar.step()
        about = _json(f'{workdir}/status.json')
        assert about['state'] == 'running' and about['pid'] == os.getpid()
        assert (about['turn'], about['stage'], about['unit']) == ('02', 'update', 'step')
        assert (about['done'], about['total']) == (3, 4)
        assert about['rate'] > 0 and about['seconds_left'] == pytest.approx(1 / about['rate'])
        with progress.SamplingBar(10, 2, 'sample') as bar:
            bar.sampling(50, 5, 100)
        about = _json(f'{workdir}/status.json')
        assert (about['done'], about['total'], about['unit']) == (7, 10, 'sample')
    about = _json(f'{workdir}/status.json')
    assert about['state'] == 'finished' and 'error' not in about


@pytest.mark.parametrize(
    ('problem', 'state', 'error'),
    [
        (ValueError('lr is too large'), 'failed', 'lr is too large'),
        (
            OSError(28, 'No space left on device', '/x/y'),
            'failed',
            "No space left on device: '/x/y'",
        ),
        (RuntimeError('bug'), 'failed', 'RuntimeError: bug'),
        (KeyboardInterrupt(), 'stopped', 'SIGINT'),
        (stopping.Stopped('SIGTERM', 143), 'stopped', 'SIGTERM'),
    ],
    ids=['mistake', 'disk', 'bug', 'interrupt', 'stop'],
)
def test_a_run_that_ends_early_says_why_in_each_file(workdir, problem, state, error):
    with pytest.raises(type(problem)), status.reporting(workdir):
        console.say('a line that was said')
        raise problem
    about = _json(f'{workdir}/status.json')
    assert about['state'] == state and error in about['error']
    end = _json(f'{workdir}/summary.json')['end']
    assert end['state'] == state and error in end['reason'] and end['time']
    with open(f'{workdir}/log.txt') as file:
        log = file.read()
    assert 'a line that was said' in log and f'--- {state}: ' in log and error in log


def test_nothing_of_it_can_hurt_a_run(workdir, monkeypatch):
    def full(path, _):
        raise OSError(28, 'No space left on device', path)

    monkeypatch.setattr(status, 'write_atomic', full)
    monkeypatch.setattr('selfrew.running.report.write_atomic', full)
    os.mkdir(f'{workdir}/log.txt')
    with status.reporting(workdir) as run_status:
        run_status.begin('01', 'rollouts')
        console.say('text')
    assert not os.path.exists(f'{workdir}/status.json')
