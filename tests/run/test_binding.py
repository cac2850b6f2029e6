"""Parts and stages: a config is bound or refused, and a file is written once."""

import dataclasses
import json
import math
import os

import pytest

from selfrew.run import binding, stage, turns
from selfrew.shelves import losses
from selfrew.types import Example, Judgement, Prompt, Response, Rollout, ask, from_json, to_json

NAN = math.nan


def _refused(key, entry, match):
    with pytest.raises(ValueError, match=match):
        binding.bind(key, entry, 'round.it')


# --- binding ----------------------------------------------------------------------------------------------------------


def test_an_entry_becomes_its_function_with_the_arguments_bound():
    bound = binding.bind('loss', {'name': 'dpo', 'beta': 0.3}, 'round.loss')
    assert bound.func is losses.dpo and bound.keywords == {'beta': 0.3}


def test_an_unknown_name_is_refused_with_the_choices():
    _refused('loss', {'name': 'dpoo'}, r"round\.it: no loss named 'dpoo'; there are: dpo, sft$")
    _refused('loss', {'beta': 0.1}, 'no loss named None; there are: dpo, sft$')
    _refused(
        'scorer',
        {'name': 'right'},
        "no scorer named 'right'; there are: chance, compare, composite, consist",
    )
    _refused('loss', {'name': 'jax'}, "no loss named 'jax'")
    _refused('pairs', {'name': '_valid'}, "no pairs named '_valid'")


def test_an_unknown_argument_is_refused_with_the_choices():
    _refused(
        'loss',
        {'name': 'dpo', 'bta': 0.1},
        r'\(dpo\): nothing reads bta=0.1; there are: beta, smoothing',
    )
    _refused('scorer', {'name': 'given', 'n': 1}, 'nothing reads n=1; there are: none')
    _refused(
        'loss', {'name': 'dpo', 'batch': 1}, 'nothing reads batch=1'
    )  # data come from the loop


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
    assert binding.bind('prompts', {'name': 'task', 'tasks': ['rising'], 'n': 1}, '').keywords[
        'tasks'
    ] == ('rising',)


COMPOSITE = {
    'name': 'composite',
    'weights': (1.0, -0.1),
    'scorers': ({'name': 'exact_answer'}, {'name': 'length', 'target': 9}),
}


def test_entries_inside_entries_bind_alike():
    bound = binding.bind('scorer', COMPOSITE, 'round.scorer')
    assert [part.func.__name__ for part in bound.keywords['scorers']] == ['exact_answer', 'length']
    assert bound.keywords['scorers'][1].keywords == {'target': 9}
    greedy = binding.bind(
        'sampler', {'name': 'with_greedy', 'sampler': {'name': 'sample', 'n': 3}}, 'round.sampler'
    )
    assert greedy.keywords['sampler'].keywords == {'n': 3}
    wrong = COMPOSITE | {'scorers': ({'name': 'exact_answer'}, {'name': 'length', 'goal': 9})}
    _refused(
        'scorer', wrong, r'round\.it \(composite\)\.scorers\[1\] \(length\): nothing reads goal=9'
    )


def test_an_update_is_train_and_its_optimiser_adamw_where_nothing_else_is_said():
    update = binding.bind('train', {'lr': 1e-3}, 'round.train')
    assert (update.func.__name__, update.keywords['optimizer'].func.__name__) == ('train', 'adamw')
    other = binding.bind(
        'train', {'lr': 1e-3, 'optimizer': {'name': 'rmsprop', 'decay': 0.5}}, 'round.train'
    )
    assert other.keywords['optimizer'].keywords == {'decay': 0.5}
    shelf = 'there are: adafactor, adamw, lion, rmsprop, sgd'
    _refused('train', {'lr': 1e-3, 'optimizer': {'name': 'learning_rate'}}, shelf)


def test_the_same_entry_gives_the_same_object():
    """So that what is compiled for it is found again."""
    for key, entry in (
        ('loss', {'name': 'dpo', 'beta': 0.123}),
        ('scorer', COMPOSITE),
        ('train', {'lr': 0.123}),
    ):
        assert binding.bind(key, entry, 'here') is binding.bind(
            key, json.loads(json.dumps(entry)), 'there'
        )
    one, other = (
        binding.bind('loss', {'name': 'dpo', 'beta': beta}, '') for beta in (0.123, 0.124)
    )
    assert one is not other


def test_binding_leaves_the_config_as_it_is():
    entry = {'name': 'with_greedy', 'sampler': {'name': 'sample', 'n': 3}}
    before = json.dumps(entry)
    binding.bind('sampler', entry, '')
    assert json.dumps(entry) == before


# --- turns ------------------------------------------------------------------------------------------------------------

ROUND = {
    'prompts': {'name': 'task', 'tasks': ('rising',), 'n': 4},
    'sampler': {'name': 'sample', 'n': 2},
    'scorer': {'name': 'exact_answer'},
    'pairs': {'name': 'extremes'},
    'loss': {'name': 'dpo'},
    'train': {'lr': 1e-3},
}
START = ROUND | {'sampler': {'name': 'given'}, 'scorer': {'name': 'given'}, 'loss': {'name': 'sft'}}


def _turns(rounds=3, round=ROUND, **fields):
    return turns.bind_turns(rounds=rounds, round=round, **fields)


def _names(turns) -> list:
    return [(turn.name, turn.round, turn.ends_round) for turn in turns]


def test_every_round_is_a_turn_and_the_start_is_the_first_round():
    assert _names(_turns()) == [('01', 1, True), ('02', 2, True), ('03', 3, True)]
    with_start = _turns(start=START)
    assert [t.loss.func.__name__ for t in with_start] == ['sft', 'dpo', 'dpo'] and len(
        with_start
    ) == 3
    assert _turns(rounds=0, start=START) == []


def test_turns_of_the_same_entry_share_their_parts():
    one, two, _ = _turns()
    assert all(getattr(one, word) is getattr(two, word) for word in ROUND)


def test_a_rehearsal_follows_its_round_and_ends_it():
    names = _names(_turns(rounds=2, round=ROUND | {'rehearsal': START}))
    assert names == [
        ('01', 1, False),
        ('01-rehearsal', 1, True),
        ('02', 2, False),
        ('02-rehearsal', 2, True),
    ]
    found = _turns(round=ROUND | {'rehearsal': START}, start=START)
    assert [t.name for t in found] == ['01', '02', '02-rehearsal', '03', '03-rehearsal']
    assert [t.loss.func.__name__ for t in found] == ['sft', 'dpo', 'sft', 'dpo', 'sft']


@pytest.mark.parametrize(
    'every, wanted', [(0, []), (1, ['01', '02', '03', '04']), (2, ['02', '04']), (3, ['03'])]
)
def test_a_rehearsal_comes_after_every_so_many_rounds(every, wanted):
    turns = _turns(rounds=4, round=ROUND | {'rehearsal': START | {'every': every}})
    assert [t.name for t in turns if t.name.endswith('-rehearsal')] == [
        f'{name}-rehearsal' for name in wanted
    ]
    assert [t.round for t in turns if t.ends_round] == [1, 2, 3, 4]  # each round ends once


def test_a_field_changes_by_round_and_its_last_value_stays():
    by_round = {
        'sampler': {'temperature': (0.8, 1.3)},
        'max_examples': [5, None, 7],
        'prompts': {'n': (1, 2, 3)},
    }
    turns = _turns(rounds=4, by_round=by_round)
    assert [t.sampler.keywords['temperature'] for t in turns] == [0.8, 1.3, 1.3, 1.3]
    assert [t.max_examples for t in turns] == [5, None, 7, 7]
    assert [t.prompts.keywords['n'] for t in turns] == [1, 2, 3, 3]
    assert all(t.sampler.keywords['n'] == 2 for t in turns) and ROUND['sampler'] == {
        'name': 'sample',
        'n': 2,
    }


def test_the_start_is_not_counted_by_round():
    turns = _turns(start=START, by_round={'loss': {'beta': (0.1, 0.2)}})
    assert [t.loss.keywords.get('beta') for t in turns] == [None, 0.1, 0.2]


@pytest.mark.parametrize(
    'fields, match',
    [
        ({'rounds': -1}, 'rounds=-1: want 0'),
        ({'round': ROUND | {'scorer': None}}, r'round\.scorer is None; .* there is: given'),
        ({'start': START | {'scorer': None}}, r'start\.scorer is None'),
        (
            {'round': ROUND | {'rehearsal': START | {'scorer': None}}},
            r'round\.rehearsal\.scorer is None',
        ),
        (
            {'round': ROUND | {'rehearsal': START | {'every': 0, 'judge': {}}}},
            r'round\.rehearsal: nothing reads judge',
        ),
        (
            {'round': ROUND | {'rehearsal': START | {'every': 'no'}}},
            r"round\.rehearsal\.every='no': want int",
        ),
        (
            {'round': {k: v for k, v in ROUND.items() if k != 'pairs'}},
            'round: pairs is missing; the fields are: pr',
        ),
        (
            {'round': {k: v for k, v in ROUND.items() if k != 'train'}},
            r'round\.train \(train\): lr is missing',
        ),
        (
            {'round': ROUND | {'judge': {}}},
            'round: nothing reads judge={}; there are: prompts, sampler, scorer',
        ),
        ({'round': ROUND | {'max_examples': 1.5}}, 'max_examples=1.5: want int or None, got float'),
        (
            {'by_round': {'smapler': {'n': (1, 2)}}},
            "by_round: round has no 'smapler'; there are: prompts, sampler",
        ),
        ({'by_round': {'sampler': {'m': (1, 2)}}}, 'nothing reads m=1'),
        (
            {'round': ROUND | {'train': {'lr': 1e-3, 'batch': 0}}},
            r'train\.batch=0|\.batch=0: want at least 1',
        ),
        (
            {'round': ROUND | {'train': {'lr': 1e-3, 'schedule': 'step'}}},
            "no schedule 'step'; there are: constant",
        ),
        (
            {'round': ROUND | {'loss': {'name': 'sft', 'mean': 'all'}}},
            "no mean 'all'; there are: token",
        ),
        (
            {'round': ROUND | {'scorer': {'name': 'judge', 'template': 'x'}}},
            "no template 'x': not a file",
        ),
        (
            {'round': ROUND | {'prompts': {'name': 'records', 'source': 'x.jsonl'}}},
            "no prompt file 'x.jsonl'",
        ),
        (
            {'round': ROUND | {'prompts': {'name': 'task', 'tasks': ('x',), 'n': 1}}},
            "no task named 'x'; there are",
        ),
        (
            {'by_round': {'sampler': {'n': 3}}},
            r'by_round\.sampler\.n=3: want a value for each round, in a tuple',
        ),
        (
            {'by_round': {'sampler': {'n': ()}}},
            r'by_round\.sampler\.n=\(\): want a value for each round',
        ),
    ],
)
def test_turns_that_make_no_sense_are_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        _turns(**fields)


# --- files that are written once --------------------------------------------------------------------------------------

TURNS = (
    {'role': 'system', 'content': 'é'},
    {'role': 'user', 'content': 'line\u2028sep\x85\n"日本" 🙂'},
)
PROMPT = Prompt('p', TURNS, 7, {'k': [1, 2]})
RESPONSES = Response('ünï\u2029', (1, 2), 'length', -3.25), Response('')
ROLLOUT = Rollout(PROMPT, RESPONSES)
JUDGEMENT = Judgement(ROLLOUT, (1.5, NAN), (('Score: 1', '…'), ()), ((1.5, NAN), ()))
EXAMPLE = Example(PROMPT, RESPONSES, (5.0, NAN), 0.75)
NOUNS = [PROMPT, ROLLOUT, JUDGEMENT, EXAMPLE]


def _plain(noun) -> str:
    return repr(dataclasses.asdict(noun))  # nan, which equals nothing, reads like itself


@pytest.mark.parametrize('noun', NOUNS, ids=lambda noun: type(noun).__name__)
def test_a_noun_is_a_json_line_and_comes_back_the_same(noun):
    line = json.dumps(to_json(noun), allow_nan=False)
    assert '\n' not in line and _plain(from_json(type(noun), json.loads(line))) == _plain(noun)


def test_there_is_no_line_for_what_is_no_noun():
    with pytest.raises(TypeError, match='there are: Prompt, Rollout, Judgement, Example'):
        from_json(dict, {})


@pytest.mark.parametrize('noun', NOUNS, ids=lambda noun: type(noun).__name__)
def test_a_stage_is_made_once_and_read_afterwards(noun, tmp_path):
    first = stage.Folder(str(tmp_path), '01').make_once('it', type(noun), lambda: [noun, noun])
    again = stage.Folder(str(tmp_path), '01').make_once(
        'it', type(noun), lambda: pytest.fail('it was made again')
    )
    assert [_plain(n) for n in first] == [_plain(n) for n in again] == [_plain(noun)] * 2
    assert (
        len((tmp_path / 'rounds/01/it.jsonl').read_bytes().splitlines()) == 2
    )  # a person's tools see two lines


def test_an_empty_stage_is_finished_too(tmp_path):
    assert stage.Folder(str(tmp_path), '01').make_once('it', Prompt, lambda: []) == []
    assert (
        stage.Folder(str(tmp_path), '01').make_once(
            'it', Prompt, lambda: pytest.fail('it was made again')
        )
        == []
    )


def test_what_goes_on_is_what_a_resumed_run_would_read(tmp_path):
    made = ask('p', 'Q?', (1, 2), pair=(1, 2), grade=NAN)
    (first,) = stage.Folder(str(tmp_path), '01').make_once('it', Prompt, lambda: [made])
    (again,) = stage.Folder(str(tmp_path), '01').make_once(
        'it', Prompt, lambda: pytest.fail('it was made again')
    )
    assert first == again == ask('p', 'Q?', [1, 2], pair=[1, 2], grade=None)


def _killed(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    'where', ['between file and manifest', 'within the file', 'within the manifest']
)
def test_a_stage_survives_a_kill(where, tmp_path, monkeypatch):
    folder = stage.Folder(str(tmp_path), '01')
    folder.make_once('before', Prompt, lambda: [ask('b', 'Before?')])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if where == 'between file and manifest':
            patch.setattr(folder, 'enlist', _killed)
        else:
            replace, at = os.replace, 'it.jsonl' if where == 'within the file' else 'manifest.json'
            patch.setattr(
                os, 'replace', lambda a, b: _killed() if b.endswith(at) else replace(a, b)
            )
        folder.make_once('it', Prompt, lambda: [ask('p', 'Of the killed run?')])
    resumed = stage.Folder(str(tmp_path), '01')
    assert resumed.has('before') and not resumed.has('it')
    assert (tmp_path / 'rounds/01/it.jsonl').exists() == (where != 'within the file')
    (prompt,) = resumed.make_once('it', Prompt, lambda: [ask('p', 'Made again?')])
    assert (
        prompt.text == 'Made again?'
        and b'killed' not in (tmp_path / 'rounds/01/it.jsonl').read_bytes()
    )
    assert stage.Folder(str(tmp_path), '01').make_once(
        'it', Prompt, lambda: pytest.fail('it was made twice')
    ) == [prompt]
    assert not list(tmp_path.rglob('*.partial'))


def test_a_changed_file_is_refused(tmp_path):
    stage.Folder(str(tmp_path), '01').make_once('it', Prompt, lambda: [ask('p', 'Right?')])
    path = tmp_path / 'rounds/01/it.jsonl'
    path.write_text(path.read_text().replace('Right', 'Wrong'))
    with pytest.raises(ValueError, match='it.jsonl was changed after it was written'):
        stage.Folder(str(tmp_path), '01').make_once('it', Prompt, lambda: [])


def test_what_is_taken_off_the_manifest_is_made_again(tmp_path):
    stage.Folder(str(tmp_path), '01').mark_done('state', {})
    assert stage.Folder(str(tmp_path), '01').has('state')
    stage.Folder(str(tmp_path), '01').drop('state')
    assert not stage.Folder(str(tmp_path), '01').has('state')


def test_a_workdir_belongs_to_the_config_that_finished_a_stage_in_it(tmp_path):
    workdir, config = (
        str(tmp_path / 'new'),
        {'rounds': 2, 'seed': 0, 'round': {'loss': {'beta': 0.1, 'tasks': ('a',)}}},
    )
    stage.claim_workdir(workdir, config, free=('rounds',))
    stage.Folder(workdir, '00').make_once('it', Prompt, lambda: [])
    stage.claim_workdir(workdir, config, free=('rounds',))
    stage.claim_workdir(workdir, config | {'rounds': 5}, free=('rounds',))
    other = config | {'seed': 1, 'round': {'loss': {'beta': 0.2, 'tasks': ['a']}}}
    with pytest.raises(ValueError, match='made by another config') as refusal:
        stage.claim_workdir(workdir, other, free=('rounds',))
    _, *differences = str(refusal.value).split('\n')
    assert [d.strip() for d in differences] == [
        'round.loss.beta: there 0.1, here 0.2',
        'seed: there 0, here 1',
    ]
    assert (
        json.loads((tmp_path / 'new/config.json').read_text())['seed'] == 0
    )  # the refused one left no trace


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / 'thesis.tex').write_text('…')
    with pytest.raises(ValueError, match='not empty and no run made it'):
        stage.claim_workdir(str(tmp_path), {}, free=())
    assert os.listdir(tmp_path) == ['thesis.tex']
    (tmp_path / 'empty').mkdir()
    stage.claim_workdir(str(tmp_path / 'empty'), {}, free=())
    assert os.listdir(tmp_path / 'empty') == ['config.json']
