"""A run that names no evaluation measures wins on held-out prompts of its own source."""

import json

import pytest

from selfrew.running import binding, default_evals
from selfrew.running.config import turns_of
from selfrew.shelves import evals

JUDGE = {'name': 'judge', 'template': 'check', 'votes': 1}
VERBS = 'buys finds wins drops sells makes takes gives keeps lends'.split()
THINGS = 'apples stones books coins pens cups keys hats maps nuts'.split()


@pytest.fixture
def source(tmp_path):
    """A hundred prompts, each of a topic of its own."""
    path = tmp_path / 'my.jsonl'
    rows = [{'prompt': f'Who {verb} {thing}?'} for verb in VERBS for thing in THINGS]
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


def _config(source, **changes):
    turn = {
        'prompts': {'name': 'records', 'source': source, 'n': 10},
        'sampler': {'name': 'sample', 'n': 4, 'max_tokens': 8},
        'scorer': JUDGE,
        'pairs': {'name': 'extremes'},
        'loss': {'name': 'dpo'},
        'train': {'lr': 1e-5, 'optimizer': {'name': 'adamw'}},
    }
    return {'rounds': 2, 'round': turn | changes, 'evals': None}


def _texts(prompts, key=None):
    part = binding.bind('prompts', prompts, 'prompts')
    import jax  # noqa: PLC0415 (of this helper alone)

    return {prompt.text for prompt in part(None, None, key or jax.random.key(0))}


def test_wins_are_measured_on_prompts_that_training_does_not_see(tmp_path, source):
    config, said = default_evals.with_default(_config(source), str(tmp_path / 'w'))
    ((name, evaluation),) = config['evals'].items()
    assert name == 'self_judged_win_rate' and 'judged by the base itself' in str(said)
    assert evaluation['judged_by'] == 'base' and evaluation['sampler']['n'] == 1
    heldout = _texts(evaluation['prompts'])
    training = _texts(config['round']['prompts'] | {'n': None})
    assert heldout and not heldout & training and len(heldout | training) == 100
    binding.bind('evals', evaluation, 'evals', evals)
    turns_of(config)


def test_a_fixed_scorer_is_not_marked_as_the_model(tmp_path, source):
    config = _config(source, scorer={'name': 'length', 'target': 5})
    config, said = default_evals.with_default(config, str(tmp_path / 'w'))
    assert list(config['evals']) == ['win_rate'] and 'judged' not in str(said)


@pytest.mark.parametrize(
    'changes',
    [
        {'sampler': {'name': 'given'}},
        {'scorer': {'name': 'consistency'}},
        {'prompts': {'name': 'demonstrations', 'tasks': ('rising',), 'n': 3}},
    ],
    ids=['given', 'scorer', 'prompts'],
)
def test_where_there_is_no_measure_that_is_said(tmp_path, source, changes):
    config, said = default_evals.with_default(_config(source, **changes), str(tmp_path))
    assert config['evals'] == {} and str(said).startswith('no evaluation: ')


def test_a_config_with_evaluations_or_without_any_stays_as_it_is(tmp_path, source):
    for value in ({}, {'a': {'name': 'accuracy'}}):
        config = _config(source) | {'evals': value}
        assert default_evals.with_default(config, str(tmp_path)) == (config, None)


def test_too_few_prompts_hold_none_out(tmp_path):
    path = tmp_path / 'one.jsonl'
    path.write_text('{"prompt": "Why?"}\n')
    config, said = default_evals.with_default(_config(str(path)), str(tmp_path / 'w'))
    assert config['evals'] == {} and 'held out' in str(said)


def test_seeds_and_mixtures_are_split_where_their_prompts_are(tmp_path, source):
    records = {'name': 'records', 'source': source}
    for prompts in (
        {'name': 'self_instruct', 'prompts': records, 'n': 5},
        {'name': 'mixture', 'prompts': [{'name': 'task', 'tasks': ('rising',), 'n': 2}, records]},
    ):
        config = _config(source, prompts=prompts)
        config, _ = default_evals.with_default(config, str(tmp_path / 'w'))
        nested = config['round']['prompts']['prompts']
        nested = nested[1] if isinstance(nested, list) else nested
        assert nested['split'] == 'train' and config['evals']
        turns_of(config)


def test_a_resumed_run_has_the_evaluation_of_its_start(tmp_path, source):
    """Although its file has changed in between."""
    config, _ = default_evals.with_default(_config(source), str(tmp_path))
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with open(source, 'a') as file:
        file.write('{"prompt": "Who sings songs?"}\n' * 50)
    again, said = default_evals.with_default(_config(source), str(tmp_path))
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(config)) and said is None
