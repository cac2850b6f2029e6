"""A config entry is bound to the function it names, or refused with what is wrong."""

import json

import pytest

from selfrew.running import binding
from selfrew.shelves import losses


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
