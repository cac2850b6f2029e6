"""`selfrew check` finds what is damaged in a run; nothing that it reads is changed."""

import json
import os
import pathlib
import shutil

import pytest

from configs import quickstart
from selfrew import check, loop
from selfrew.engine import run_files
from selfrew.running import binding

pytestmark = pytest.mark.usefixtures('describe_once')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of a finished run, and its config."""
    workdir = tmp_path_factory.mktemp('runs') / 'w'
    config = quickstart.get_config('smoke').to_dict()
    config['round']['prompts']['n'] = 8
    config['round']['scorer'] = {'name': 'length'}
    config['round']['sampler'] |= {'n': 3, 'max_tokens': 12}
    config['round']['train'] |= {'batch': 8, 'row_length': 128}
    del config['evals']['judge']
    config['evals']['accuracy']['prompts']['n'] = 8
    binding.bind_arguments(loop.run, config, 'config')(str(workdir))
    return workdir, config


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run[0], tmp_path / 'w')
    return tmp_path / 'w'


def _bytes(workdir):
    return {path: path.read_bytes() for path in pathlib.Path(workdir).rglob('*') if path.is_file()}


@pytest.mark.slow
def test_a_whole_run_has_no_damage(run, monkeypatch, capsys):
    before = _bytes(run[0])
    lines, problems = check.verify(str(run[0]))
    assert problems == [] and _bytes(run[0]) == before
    assert lines == [
        '00: eval_accuracy, evals',
        '01: prompts, rollouts, judgements, examples, state, eval_accuracy, evals (step 1)',
    ]
    monkeypatch.setattr('sys.argv', ['selfrew check', str(run[0])])
    with pytest.raises(SystemExit) as ended:
        check.main()
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and 'all files are as they were written' in printed
    assert 'it is finished' in printed
    monkeypatch.setattr('sys.argv', ['selfrew report', str(run[0])])
    check.report_main()
    assert 'accuracy' in capsys.readouterr().out


@pytest.mark.slow
def test_each_file_of_a_run_is_checked(copy, capsys, monkeypatch):
    """A byte of each file is changed in turn: what is not logged for people only is found."""
    for_people = {'log.txt', 'curve.png', 'summary.json', 'status.json', 'starts.jsonl'}
    for_people |= {'started.json', 'metrics.jsonl', 'turn.json', 'config.json', 'manifest.json'}
    for path, data in _bytes(copy).items():
        if not data or 'tensorboard' in str(path):
            continue
        changed = bytearray(data)
        changed[len(data) // 2] ^= 0x80  # no ASCII any more, so no JSON either
        path.write_bytes(changed)
        _, problems = check.verify(str(copy))
        if path.name in for_people and path.name not in ('config.json', 'manifest.json'):
            assert len(problems) <= 1
        else:
            assert problems and str(path.parent) in ' '.join(problems), path
        path.write_bytes(data)
    assert check.verify(str(copy))[1] == []


@pytest.mark.slow
def test_a_damaged_state_is_made_again_and_ends_alike(run, copy, capsys):
    """The finished run is started again: it says which file, and the state is as it was."""
    state = copy / 'rounds' / '01' / 'state'
    path = sorted(state.rglob('manifest.ocdbt'))[0]
    path.write_bytes(path.read_bytes()[:-1] + b'\x01')
    _, (problem,) = check.verify(str(copy))
    assert f'{path} was changed' in problem and run_files.MAKE_AGAIN in problem
    binding.bind_arguments(loop.run, run[1], 'config')(str(copy))
    assert 'this state is not used' in capsys.readouterr().out
    assert check.verify(str(copy))[1] == []
    evals = [json.loads((w / 'rounds/01/evals.json').read_text()) for w in (run[0], copy)]
    assert evals[0] == evals[1]


@pytest.mark.slow
def test_damaged_evaluations_are_made_again(run, copy):
    path = copy / 'rounds' / '01' / 'evals.json'
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"value": 0', b'"value": 1', 1))
    assert 'evals.json was changed' in check.verify(str(copy))[1][0]
    binding.bind_arguments(loop.run, run[1], 'config')(str(copy))
    assert path.read_bytes() == data


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(ValueError, match='is not a run: it has no config.json'):
        check.verify(str(tmp_path))


@pytest.mark.slow
def test_a_run_on_a_disk_that_cannot_be_written_shows_its_table(run, monkeypatch):
    def read_only(path, _):
        raise OSError(30, 'Read-only file system', path)

    for module in ('selfrew.running.report', 'selfrew.running.stage', 'selfrew.running.status'):
        monkeypatch.setattr(f'{module}.write_atomic', read_only)
    monkeypatch.setattr(os, 'open', lambda *_: read_only('lock.json', 0))
    table = binding.bind_arguments(loop.run, run[1], 'config')(str(run[0]))
    assert table.splitlines()[0].split()[:2] == ['round', 'accuracy']
