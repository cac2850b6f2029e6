"""Any field of any part can be set from the command line, stated or not; a wrong one is told."""

import pytest
from absl import flags

from configs import quickstart
from selfrew.running import command_line, overrides


@pytest.fixture
def parse(monkeypatch):
    """parse(*arguments): the config of the command line with these overrides."""
    monkeypatch.setattr(command_line, '_config', None)

    def parsed(*arguments, name='quickstart:smoke'):
        for flag in [f for f in flags.FLAGS if f == 'config' or f.startswith('config.')]:
            delattr(flags.FLAGS, flag)
        argv = ['selfrew', f'--config={name}', *(f'--config.{a}' for a in arguments)]
        command_line.parse_flags(argv)
        config = command_line.config()
        assert config is not None
        return config

    yield parsed
    for flag in [f for f in flags.FLAGS if f == 'config' or f.startswith('config.')]:
        delattr(flags.FLAGS, flag)


def _at(config, name):
    for step in name.split('.'):
        config = config[step]
    return config


@pytest.mark.parametrize(
    ('name', 'text', 'value'),
    [
        ('seed', '7', 7),
        ('keep_states', '2', 2),
        ('rounds', '5', 5),
        ('round.train.lr', '1e-3', 1e-3),
        ('round.train.epochs', '3', 3),
        ('round.train.schedule', 'cosine', 'cosine'),
        ('round.train.save_every', '10', 10),
        ('round.train.save_minutes', '5', 5.0),
        ('round.train.optimizer.b1', '0.8', 0.8),
        ('round.pairs.rho', '0.2', 0.2),
        ('round.max_examples', '100', 100),
        ('round.earlier', '-1', -1),
        ('round.loss.smoothing', '0.1', 0.1),
        ('round.scorer.expected', 'true', True),
        ('round.prompts.split', 'train', 'train'),
        ('round.rehearsal.max_examples', '9', 9),
        ('round.rehearsal.train.schedule', 'linear', 'linear'),
        ('evals.accuracy.sampler.top_k', '5', 5),
        ('evals.judge.scorer.low', '1', 1.0),
        ('model.max_length', '256', 256),
        ('mesh.fsdp', '-1', -1),
    ],
)
def test_a_field_is_set_and_nothing_else_changes(parse, name, text, value):
    config, stated = parse(f'{name}={text}'), quickstart.get_config('smoke').to_dict()
    assert _at(config, name) == value and type(_at(config, name)) is type(value)
    *path, last = name.split('.')
    parent = stated
    for step in path:
        parent = parent.setdefault(step, {})
    parent[last] = value
    assert config == stated


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('round.train.lrr', ("no field 'lrr' in config.round.train", 'epochs', 'save_every')),
        ('round.pears.rho', ("no field 'pears' in config.round", 'pairs')),
        ('rond', ("no field 'rond' in config", 'round', 'keep_states')),
        ('evals.acuracy.name', ("no field 'acuracy' in config.evals", 'accuracy')),
        ('seed.x', ("no field 'x' in config.seed", 'it is no entry')),
        ('round.loss.tau', ("no field 'tau' in config.round.loss", 'beta', 'smoothing')),
    ],
)
def test_a_wrong_field_is_told_with_the_choices(parse, capsys, name, words):
    with pytest.raises(SystemExit):
        parse(f'{name}=1')
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_another_part_takes_the_place_of_one_without_the_fields_that_it_has_not(parse, capsys):
    config = parse('round.loss.name=ipo', 'round.loss.tau=0.2')
    assert config['round']['loss'] == {'name': 'ipo', 'tau': 0.2}
    printed = capsys.readouterr().out
    assert 'round.loss is now ipo: without beta=0.1' in printed and 'nll=5.0' in printed
    assert parse('round.loss.name=dpo')['round']['loss'] == {'name': 'dpo', 'beta': 0.1, 'nll': 5.0}


def test_an_unknown_part_is_left_to_the_binding(parse):
    assert parse('round.loss.name=dpoo')['round']['loss']['name'] == 'dpoo'


def test_a_config_is_a_name_a_file_or_a_mistake(parse, tmp_path, capsys):
    path = tmp_path / 'mine.py'
    path.write_text(
        'def get_config():\n    return {"seed": 3, "round": {"loss": {"name": "dpo"}}}\n'
    )
    assert parse('seed=4', 'round.loss.beta=0.3', name=str(path)) == {
        'seed': 4,
        'round': {'loss': {'name': 'dpo', 'beta': 0.3}},
    }
    for name, words in {
        'quickstrat': 'did you mean quickstart?',
        str(tmp_path / 'none.py'): 'neither a file nor one that ships',
    }.items():
        with pytest.raises(SystemExit):
            parse(name=name)
        assert words in capsys.readouterr().err
    for text, words in {'x = (': 'was never closed', 'x = 1': 'no function get_config'}.items():
        path.write_text(text)
        with pytest.raises(SystemExit):
            parse(name=str(path))
        assert words in capsys.readouterr().err


def test_all_fields_of_all_parts_of_every_config_can_be_set():
    """What `complete` adds is what the parts have: binding reads each of them."""
    completed, left_out = overrides.complete(quickstart.get_config('smoke'), {'seed': '1'})
    assert left_out == []
    train = completed.round.train
    assert {'epochs', 'schedule', 'max_steps', 'keep_saves', 'only'} <= set(train)
    assert {'balance', 'earlier', 'max_examples'} <= set(completed.round)
