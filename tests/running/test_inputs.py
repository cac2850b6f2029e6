"""A file that a run read is the same when it is resumed, or that is said."""

import pytest

from selfrew.running import inputs


@pytest.fixture
def config(tmp_path):
    for name in ('prompts.jsonl', 'judge.jinja', 'shots.jsonl'):
        (tmp_path / name).write_text(name)
    prompts = {'name': 'records', 'source': str(tmp_path / 'prompts.jsonl')}
    return {
        'round': {
            'prompts': {'name': 'mixture', 'prompts': [prompts, {'source': 'tfds:set/train'}]},
            'scorer': {'name': 'judge', 'template': str(tmp_path / 'judge.jinja')},
        },
        'evals': {'one': {'prompts': {'shots': str(tmp_path / 'shots.jsonl')}}},
        'model': {'chat_template': 'plain', 'folder': 'tiny'},
    }


def test_all_files_of_a_config_are_recorded(tmp_path, config):
    workdir = str(tmp_path)
    assert inputs.check(workdir, config, False) == []
    assert {path.rpartition('/')[2] for path in inputs.files_of(config)} == {
        'prompts.jsonl',
        'judge.jinja',
        'shots.jsonl',
    }
    assert inputs.check(workdir, config, False) == []


@pytest.mark.parametrize('name', ['prompts.jsonl', 'judge.jinja', 'shots.jsonl'])
def test_a_changed_file_is_refused_unless_it_is_allowed(tmp_path, config, name):
    workdir = str(tmp_path)
    inputs.check(workdir, config, False)
    (tmp_path / name).write_text(name.upper())  # of the same size
    with pytest.raises(ValueError, match=f'{name} is not the file that this run began with'):
        inputs.check(workdir, config, False)
    (change,) = inputs.check(workdir, config, True)
    assert name in change
    assert inputs.check(workdir, config, False) == []  # it is now the one that the run goes on with
