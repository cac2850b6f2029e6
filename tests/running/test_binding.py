"""A config entry is bound to the function it names, or refused with what is wrong."""

import inspect
import json
import math
import typing

import pytest

from selfrew import loop
from selfrew.models import language_model
from selfrew.running import binding, turns
from selfrew.shelves import evals, losses


def _refused(key, entry, match):
    with pytest.raises(ValueError, match=match):
        binding.bind(key, entry, 'round.it')


def test_an_entry_becomes_its_function_with_the_arguments_bound():
    bound = binding.bind('loss', {'name': 'dpo', 'beta': 0.3}, 'round.loss')
    assert bound.func is losses.dpo and bound.keywords == {'beta': 0.3}


def test_an_unknown_name_is_refused_with_the_choices():
    _refused('loss', {'name': 'dpoo'}, r"round\.it: no loss named 'dpoo'; there are: apo.*sum$")
    _refused('loss', {'beta': 0.1}, 'no loss named None; there are: apo.*sum$')
    _refused(
        'scorer',
        {'name': 'right'},
        "no scorer named 'right'; there are: chance, compare, composite, consist",
    )
    _refused('loss', {'name': 'jax'}, "no loss named 'jax'")
    _refused('pairs', {'name': '_scored'}, "no pairs named '_scored'")


def test_an_unknown_argument_is_refused_with_the_choices():
    _refused(
        'loss',
        {'name': 'dpo', 'bta': 0.1},
        r'\(dpo\): nothing reads bta=0.1; there are: beta, average',
    )
    _refused('scorer', {'name': 'given', 'n': 1}, 'nothing reads n=1; there are: none')
    # a positional parameter is data, which comes from the loop
    _refused('loss', {'name': 'dpo', 'batch': 1}, 'nothing reads batch=1')


def test_a_missing_argument_is_refused_with_the_fields():
    _refused(
        'prompts',
        {'name': 'task', 'tasks': ('rising',)},
        r'\(task\): n is missing; the fields are: tasks, n',
    )


@pytest.mark.parametrize(
    'key, entry, wanted',
    [
        ('sampler', {'name': 'sample', 'n': '4'}, 'want int, got str'),
        ('sampler', {'name': 'sample', 'n': True}, 'want int, got bool'),
        ('sampler', {'name': 'sample', 'n': 4.0}, 'want int, got float'),
        ('sampler', {'name': 'sample', 'n': None}, 'want int, got NoneType'),
        ('sampler', {'name': 'sample', 'temperature': '1'}, 'want float, got str'),
        ('sampler', {'name': 'sample', 'temperature': True}, 'want float, got bool'),
        ('pairs', {'name': 'extremes', 'keep_last': 1}, 'want bool, got int'),
        ('pairs', {'name': 'singles', 'at_least': '3'}, 'want float or None, got str'),
        ('prompts', {'name': 'task', 'tasks': 'rising', 'n': 1}, 'want tuple, got str'),
        ('loss', ['dpo'], 'want an entry with a name'),
        ('loss', 'dpo', 'want an entry with a name'),
    ],
)
def test_a_value_of_another_type_is_refused(key, entry, wanted):
    _refused(key, entry, wanted)


def test_a_whole_number_serves_as_a_float_and_a_list_as_a_tuple():
    assert binding.bind('loss', {'name': 'dpo', 'beta': 1}, '').keywords == {'beta': 1}
    options = {'at_least': 3, 'cap': None}
    assert binding.bind('pairs', {'name': 'singles'} | options, '').keywords == options
    task = binding.bind('prompts', {'name': 'task', 'tasks': ['rising'], 'n': 1}, '')
    assert task.keywords['tasks'] == ('rising',)


COMPOSITE = {
    'name': 'composite',
    'weights': (1.0, -0.1),
    'scorers': ({'name': 'exact_answer'}, {'name': 'length', 'target': 9}),
}


def test_entries_inside_entries_bind_alike():
    bound = binding.bind('scorer', COMPOSITE, 'round.scorer')
    assert [part.func.__name__ for part in bound.keywords['scorers']] == ['exact_answer', 'length']
    assert bound.keywords['scorers'][1].keywords == {'target': 9}
    entry = {'name': 'with_greedy', 'sampler': {'name': 'sample', 'n': 3}}
    greedy = binding.bind('sampler', entry, 'round.sampler')
    assert greedy.keywords['sampler'].keywords == {'n': 3}
    wrong = COMPOSITE | {'scorers': ({'name': 'exact_answer'}, {'name': 'length', 'goal': 9})}
    place = r'round\.it \(composite\)\.scorers\[1\] \(length\)'
    _refused('scorer', wrong, f'{place}: nothing reads goal=9')


def test_an_update_is_train_with_adamw_by_default():
    update = binding.bind('train', {'lr': 1e-3}, 'round.train')
    assert (update.func.__name__, update.keywords['optimizer'].func.__name__) == ('train', 'adamw')
    entry = {'lr': 1e-3, 'optimizer': {'name': 'rmsprop', 'decay': 0.5}}
    other = binding.bind('train', entry, 'round.train')
    assert other.keywords['optimizer'].keywords == {'decay': 0.5}
    shelf = 'there are: adafactor, adamw, lion, rmsprop, sgd'
    _refused('train', {'lr': 1e-3, 'optimizer': {'name': 'learning_rate'}}, shelf)


SAME = [
    ('loss', {'name': 'dpo', 'beta': 0.123}),
    ('scorer', COMPOSITE),
    ('train', {'lr': 0.123}),
]


@pytest.mark.parametrize('key, entry', SAME)
def test_equal_entries_give_the_same_object(key, entry):
    """So that programs compiled for it are reused."""
    copied = json.loads(json.dumps(entry))
    assert binding.bind(key, entry, 'here') is binding.bind(key, copied, 'there')


def test_different_entries_give_different_objects():
    first = binding.bind('loss', {'name': 'dpo', 'beta': 0.123}, '')
    assert first is not binding.bind('loss', {'name': 'dpo', 'beta': 0.124}, '')


def test_binding_leaves_the_config_as_it_is():
    entry = {'name': 'with_greedy', 'sampler': {'name': 'sample', 'n': 3}}
    before = json.dumps(entry)
    binding.bind('sampler', entry, '')
    assert json.dumps(entry) == before


# Numbers that any value suits, or that are checked where they are used before any work: the sizes
# of the mesh, and how many earlier rounds there are (-1: all).
ANY_NUMBER = {'data', 'fsdp', 'tensor', 'earlier'}


def _number_parameters():
    """(part, name) of each parameter of each part that is a number."""
    shelves = [*binding.SHELVES.items(), ('evals', evals)]
    parts = [getattr(s, n) for key, s in shelves for n in binding.part_names(key, s)]
    for part in (*parts, language_model.describe, turns.turn, turns.pipeline):
        hints = typing.get_type_hints(part)
        for name, parameter in inspect.signature(part).parameters.items():
            kinds = typing.get_args(hints.get(name)) or (hints.get(name),)
            if parameter.kind is parameter.KEYWORD_ONLY and {int, float} & set(kinds):
                yield part.__name__, name


def test_each_number_of_each_part_has_a_range():
    unchecked = {
        f'{part}.{name}'
        for part, name in _number_parameters()
        if name not in {*binding.FIELD_RANGES, *binding.FIELD_CHECKS, *ANY_NUMBER}
    }
    assert not unchecked


@pytest.mark.parametrize(
    ('key', 'entry'),
    [
        ('sampler', {'name': 'sample', 'temperature': -1.0}),
        ('sampler', {'name': 'sample', 'temperature': math.nan}),
        ('sampler', {'name': 'sample', 'n': 10**30}),
        ('train', {'lr': math.nan}),
        ('train', {'lr': -1e-5}),
        ('train', {'lr': math.inf}),
        ('train', {'lr': 1e-5, 'epochs': 10**30}),
        ('train', {'lr': 1e-5, 'save_every': 0}),
        ('train', {'lr': 1e-5, 'save_minutes': 0.0}),
        ('train', {'lr': 1e-5, 'optimizer': {'name': 'rmsprop', 'decay': 1.0}}),
        ('scorer', {'name': 'judge', 'low': math.nan}),
        ('scorer', {'name': 'reward_model', 'checkpoint': 'tiny', 'dtype': 'int4'}),
        ('scorer', {'name': 'chance', 'levels': 1}),
        ('scorer', {'name': 'length', 'target': 0}),
        ('scorer', {'name': 'composite', 'scorers': [{'name': 'length'}], 'weights': (math.nan,)}),
        ('scorer', {'name': 'composite', 'scorers': [{'name': 'length'}], 'weights': (1.0, 2.0)}),
        ('pairs', {'name': 'singles', 'cap': 0}),
        ('pairs', {'name': 'extremes', 'at_least': math.inf}),
        ('loss', {'name': 'pairwise_cringe', 'margin': math.nan}),
    ],
    ids=str,
)
def test_a_number_out_of_range_is_refused_at_start(key, entry):
    _refused(key, entry, 'want|no dtype')


@pytest.mark.parametrize('rounds', [-1, 10**9])
def test_a_number_of_rounds_out_of_range_is_refused(rounds):
    with pytest.raises(ValueError, match=f'rounds={rounds}: want 0'):
        turns.bind_turns(rounds=rounds, round={})


def test_rounds_as_a_float_are_refused():
    with pytest.raises(ValueError, match='config.rounds=1000000000.0: want int, got float'):
        config = {'seed': 0, 'model': {}, 'mesh': {}, 'rounds': 1e9, 'round': {}}
        binding.bind_arguments(loop.run, config, 'config')
