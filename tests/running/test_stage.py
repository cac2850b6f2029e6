"""The files of a run are written once, survive a kill, and belong to one config."""

import datetime
import json
import os

import pytest
from nouns import NOUNS, as_text

from selfrew.running import stage
from selfrew.types import Prompt, user_prompt


def _folder(tmp_path) -> stage.Folder:
    return stage.Folder(str(tmp_path), '01')


def _never():
    pytest.fail('the stage was made again')


@pytest.mark.parametrize('noun', NOUNS, ids=lambda noun: type(noun).__name__)
def test_a_stage_is_made_once_and_read_afterwards(noun, tmp_path):
    first = _folder(tmp_path).make_once('it', type(noun), lambda: [noun, noun])
    again = _folder(tmp_path).make_once('it', type(noun), _never)
    assert [as_text(n) for n in first] == [as_text(n) for n in again] == [as_text(noun)] * 2
    # bytes.splitlines, like a person's tools, splits at newlines only
    assert len((tmp_path / 'rounds/01/it.jsonl').read_bytes().splitlines()) == 2


def test_an_empty_stage_is_finished_too(tmp_path):
    assert _folder(tmp_path).make_once('it', Prompt, list) == []
    assert _folder(tmp_path).make_once('it', Prompt, _never) == []


def test_a_stage_returns_what_a_resumed_run_would_read(tmp_path):
    made = user_prompt('p', 'Q?', (1, 2), pair=(1, 2), grade=float('nan'))
    (first,) = _folder(tmp_path).make_once('it', Prompt, lambda: [made])
    (again,) = _folder(tmp_path).make_once('it', Prompt, _never)
    assert first == again == user_prompt('p', 'Q?', [1, 2], pair=[1, 2], grade=None)


def _kill(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    'where', ['between file and manifest', 'within the file', 'within the manifest']
)
def test_a_stage_survives_a_kill(where, tmp_path, monkeypatch):
    folder = _folder(tmp_path)
    folder.make_once('before', Prompt, lambda: [user_prompt('b', 'Before?')])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if where == 'between file and manifest':
            patch.setattr(folder, 'mark_done', _kill)
        else:
            replace = os.replace
            file = 'it.jsonl' if where == 'within the file' else 'manifest.json'

            def dying_replace(source, target):
                return _kill() if target.endswith(file) else replace(source, target)

            patch.setattr(os, 'replace', dying_replace)
        folder.make_once('it', Prompt, lambda: [user_prompt('p', 'Of the killed run?')])
    resumed = _folder(tmp_path)
    assert resumed.has('before') and not resumed.has('it')
    path = tmp_path / 'rounds/01/it.jsonl'
    assert path.exists() == (where != 'within the file')
    (prompt,) = resumed.make_once('it', Prompt, lambda: [user_prompt('p', 'Made again?')])
    assert prompt.text == 'Made again?' and b'killed' not in path.read_bytes()
    assert _folder(tmp_path).make_once('it', Prompt, _never) == [prompt]
    assert not list(tmp_path.rglob('*.partial'))


def test_a_changed_file_is_refused(tmp_path):
    _folder(tmp_path).make_once('it', Prompt, lambda: [user_prompt('p', 'Right?')])
    path = tmp_path / 'rounds/01/it.jsonl'
    path.write_text(path.read_text().replace('Right', 'Wrong'))
    with pytest.raises(ValueError, match='it.jsonl was changed after it was written'):
        _folder(tmp_path).make_once('it', Prompt, list)


def test_a_name_dropped_from_the_manifest_is_no_longer_finished(tmp_path):
    _folder(tmp_path).mark_done('state', {})
    assert _folder(tmp_path).has('state')
    _folder(tmp_path).drop('state')
    assert not _folder(tmp_path).has('state')


def test_a_workdir_belongs_to_the_config_that_finished_a_stage_in_it(tmp_path):
    workdir = str(tmp_path / 'new')
    config = {'rounds': 2, 'seed': 0, 'round': {'loss': {'beta': 0.1, 'tasks': ('a',)}}}
    stage.claim_workdir(workdir, config, free=('rounds',))
    stage.Folder(workdir, '00').make_once('it', Prompt, list)
    stage.claim_workdir(workdir, config, free=('rounds',))
    stage.claim_workdir(workdir, config | {'rounds': 5}, free=('rounds',))
    other = config | {'seed': 1, 'round': {'loss': {'beta': 0.2, 'tasks': ['a']}}}
    with pytest.raises(ValueError, match='made by another config') as refusal:
        stage.claim_workdir(workdir, other, free=('rounds',))
    _, *differences = str(refusal.value).split('\n')
    assert [d.strip() for d in differences] == [
        'round.loss.beta: 0.1 in the workdir, 0.2 in the config',
        'seed: 0 in the workdir, 1 in the config',
    ]
    # the refused config left no trace
    assert json.loads((tmp_path / 'new/config.json').read_text())['seed'] == 0


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / 'thesis.tex').write_text('…')
    with pytest.raises(ValueError, match='not empty and no run made it'):
        stage.claim_workdir(str(tmp_path), {}, free=())
    assert os.listdir(tmp_path) == ['thesis.tex']
    (tmp_path / 'empty').mkdir()
    stage.claim_workdir(str(tmp_path / 'empty'), {}, free=())
    assert os.listdir(tmp_path / 'empty') == ['config.json']


def test_a_run_starts_once(tmp_path):
    first = stage.start_time(str(tmp_path))
    assert stage.start_time(str(tmp_path)) == first
    written = json.loads((tmp_path / 'started.json').read_text())
    assert datetime.datetime.fromisoformat(written['started']) == first
    assert abs(datetime.datetime.now() - first) < datetime.timedelta(minutes=10)


def test_a_run_from_before_started_with_its_oldest_file(tmp_path):
    path = tmp_path / 'rounds' / '01' / 'prompts.jsonl'
    path.parent.mkdir(parents=True)
    path.write_text('')
    begun = datetime.datetime(2024, 2, 29, 12)
    os.utime(path, (begun.timestamp(), begun.timestamp()))
    assert stage.start_time(str(tmp_path)) == begun


def test_a_field_that_an_older_version_did_not_have_may_have_its_default(tmp_path):
    old = {'model': {'folder': 'tiny'}}
    stage.claim_workdir(str(tmp_path), old, free=())
    stage.Folder(str(tmp_path), '01').mark_done('prompts', {})
    new = {'model': {'folder': 'tiny', 'fold_system': False, 'cache': None}}
    stage.claim_workdir(str(tmp_path), new, free=())
    with pytest.raises(ValueError, match='model.lora: None in the workdir, 8 in the config'):
        stage.claim_workdir(str(tmp_path), {'model': new['model'] | {'lora': 8}}, free=())
