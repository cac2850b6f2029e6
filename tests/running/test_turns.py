"""A config's rounds become turns, in order, or are refused with what is wrong."""

import math

import pytest

from selfrew.running import turns

ROUND = {
    'prompts': {'name': 'task', 'tasks': ('rising',), 'n': 4},
    'sampler': {'name': 'sample', 'n': 2},
    'scorer': {'name': 'exact_answer'},
    'pairs': {'name': 'extremes'},
    'loss': {'name': 'dpo'},
    'train': {'lr': 1e-3},
}
START = ROUND | {'sampler': {'name': 'given'}, 'scorer': {'name': 'given'}, 'loss': {'name': 'sft'}}


def _bind(rounds=3, round=ROUND, **fields) -> list[turns.Turn]:
    return turns.bind_turns(rounds=rounds, round=round, **fields)


def _names(bound) -> list:
    return [(turn.name, turn.round, turn.ends_round) for turn in bound]


def _losses(bound) -> list:
    return [turn.loss.func.__name__ for turn in bound]


def test_every_round_is_a_turn_and_the_start_is_the_first_round():
    assert _names(_bind()) == [('01', 1, True), ('02', 2, True), ('03', 3, True)]
    assert _losses(_bind(start=START)) == ['sft', 'dpo', 'dpo']
    assert _bind(rounds=0, start=START) == []


def test_turns_of_the_same_entry_share_their_parts():
    first, second, _ = _bind()
    assert all(getattr(first, word) is getattr(second, word) for word in ROUND)


def test_a_rehearsal_follows_its_round_and_ends_it():
    assert _names(_bind(rounds=2, round=ROUND | {'rehearsal': START})) == [
        ('01', 1, False),
        ('01-rehearsal', 1, True),
        ('02', 2, False),
        ('02-rehearsal', 2, True),
    ]
    bound = _bind(round=ROUND | {'rehearsal': START}, start=START)
    assert [t.name for t in bound] == ['01', '02', '02-rehearsal', '03', '03-rehearsal']
    assert _losses(bound) == ['sft', 'dpo', 'sft', 'dpo', 'sft']


@pytest.mark.parametrize(
    'every, wanted', [(0, []), (1, ['01', '02', '03', '04']), (2, ['02', '04']), (3, ['03'])]
)
def test_a_rehearsal_comes_after_every_so_many_rounds(every, wanted):
    bound = _bind(rounds=4, round=ROUND | {'rehearsal': START | {'every': every}})
    rehearsals = [t.name for t in bound if t.name.endswith('-rehearsal')]
    assert rehearsals == [f'{name}-rehearsal' for name in wanted]
    assert [t.round for t in bound if t.ends_round] == [1, 2, 3, 4]  # each round ends once


def test_a_field_changes_by_round_and_its_last_value_stays():
    by_round = {
        'sampler': {'temperature': (0.8, 1.3)},
        'max_examples': [5, None, 7],
        'prompts': {'n': (1, 2, 3)},
    }
    bound = _bind(rounds=4, by_round=by_round)
    assert [t.sampler.keywords['temperature'] for t in bound] == [0.8, 1.3, 1.3, 1.3]
    assert [t.max_examples for t in bound] == [5, None, 7, 7]
    assert [t.prompts.keywords['n'] for t in bound] == [1, 2, 3, 3]
    assert all(t.sampler.keywords['n'] == 2 for t in bound)
    assert ROUND['sampler'] == {'name': 'sample', 'n': 2}  # the config is left as it is


def test_each_round_has_a_portion_of_its_own(tmp_path):
    (tmp_path / 'rows.jsonl').write_text('{"prompt": "Q?"}')
    prompts = {'name': 'records', 'source': str(tmp_path / 'rows.jsonl'), 'portions': 3}
    by_round = {'prompts': {'portion': (1, 2, 3)}}
    bound = _bind(rounds=3, round=ROUND | {'prompts': prompts}, by_round=by_round)
    fields = [turn.prompts.keywords for turn in bound]
    assert [(each['portion'], each['portions']) for each in fields] == [(1, 3), (2, 3), (3, 3)]
    by_round['prompts']['portion'] = (1, 2, 4)
    with pytest.raises(ValueError, match='portion=4: want 1 to portions=3'):
        _bind(rounds=3, round=ROUND | {'prompts': prompts}, by_round=by_round)


def test_the_start_is_not_counted_by_round():
    bound = _bind(start=START, by_round={'loss': {'beta': (0.1, 0.2)}})
    assert [t.loss.keywords.get('beta') for t in bound] == [None, 0.1, 0.2]


def _round(**fields) -> dict:
    return {'round': ROUND | fields}


def _without(field: str) -> dict:
    return {'round': {name: entry for name, entry in ROUND.items() if name != field}}


PIPELINE = {word: START[word] for word in ('prompts', 'sampler', 'scorer', 'pairs')}


def _join(**entries) -> dict:
    return ROUND | {'join': entries}


def test_what_is_joined_to_a_turn_shares_its_loss_and_training_and_its_folder():
    (first,) = _bind(rounds=1, round=_join(verdicts=PIPELINE, more=PIPELINE | {'earlier': -1}))
    assert [p.name for p in first.pipelines] == ['01', '01/verdicts', '01/more']
    assert [p.earlier for p in first.pipelines] == [0, 0, -1]
    for joined in first.joined:
        assert joined.loss is first.loss and joined.train is first.train and not joined.joined
        assert joined.sampler.func.__name__ == 'given'


def test_what_is_joined_changes_by_round_and_is_due_every_so_many_rounds():
    by_round = {'join': {'verdicts': {'every': (1, 1, 0), 'pairs': {'count': (2, 3)}}}}
    bound = _bind(rounds=4, start=START, round=_join(verdicts=PIPELINE), by_round=by_round)
    assert [[j.name for j in turn.joined] for turn in bound] == [
        [],
        ['02/verdicts'],
        ['03/verdicts'],
        [],
    ]
    assert [turn.joined[0].pairs.keywords['count'] for turn in bound[1:3]] == [2, 3]
    assert [turn.first_round for turn in bound] == [1, 2, 2, 2]


REFUSED = [
    (
        {'round': _join(verdicts=PIPELINE | {'loss': {'name': 'sft'}})},
        r'round\.join\.verdicts: nothing reads loss=',
    ),
    (
        {'round': _join(verdicts=PIPELINE | {'sampler': {'name': 'smaple'}})},
        r"round\.join\.verdicts\.sampler: no sampler named 'smaple'",
    ),
    ({'round': _join(verdicts={'scorer': None})}, r'round\.join\.verdicts\.scorer is None'),
    ({'round': _join(state=PIPELINE)}, r'round\.join\.state: want a name of small letters'),
    ({'round': _join(**{'a/b': PIPELINE})}, r'round\.join\.a/b: want a name of small letters'),
    ({'round': _join(verdicts=[PIPELINE])}, r'round\.join\.verdicts: want a pipeline, got \['),
    ({'round': ROUND | {'join': [PIPELINE]}}, r'round\.join=\[.*: want pipelines by name'),
    ({'round': ROUND | {'earlier': -2}}, r'round\.earlier=-2: want a number of rounds, or -1'),
    ({'rounds': -1}, 'rounds=-1: want 0'),
    (_round(scorer=None), r"round\.scorer is None; .* use scorer={'name': 'given'}"),
    ({'start': START | {'scorer': None}}, r'start\.scorer is None'),
    (_round(rehearsal=START | {'scorer': None}), r'round\.rehearsal\.scorer is None'),
    (
        _round(rehearsal=START | {'every': 0, 'judge': {}}),
        r'round\.rehearsal: nothing reads judge',
    ),
    (_round(rehearsal=START | {'every': 'no'}), r"round\.rehearsal\.every='no': want int"),
    (_without('pairs'), 'round: pairs is missing; the fields are: pr'),
    (_without('train'), r'round\.train \(train\): lr is missing'),
    (_round(judge={}), 'round: nothing reads judge={}; there are: prompts, sampler, scorer'),
    (_round(max_examples=1.5), 'max_examples=1.5: want int or None, got float'),
    (_round(train={'lr': 1e-3, 'batch': 0}), r'train\.batch=0|\.batch=0: want at least 1'),
    (_round(train={'lr': -1e-3}), r'lr=-0\.001: want more than 0, finite'),
    (_round(train={'lr': math.nan}), 'lr=nan: want more than 0'),
    (_round(train={'lr': math.inf}), 'lr=inf: want more than 0, finite'),
    (_round(train={'lr': 1e-3, 'warmup': 1.0}), r'warmup=1\.0: want at least 0 and less than 1'),
    (_round(train={'lr': 1e-3, 'max_gap': 0.0}), r'max_gap=0\.0: want more than 0'),
    (
        _round(train={'lr': 1e-3, 'optimizer': {'name': 'adamw', 'clip': 0.0}}),
        r'clip=0\.0: want more than 0',
    ),
    (_round(loss={'name': 'dpo', 'beta': 0.0}), r'beta=0\.0: want more than 0'),
    (
        _round(loss={'name': 'dpo', 'smoothing': 0.7}),
        'smoothing=0.7: want at least 0 and at most 0.5',
    ),
    (
        _round(sampler={'name': 'sample', 'temperature': -1.0}),
        r'temperature=-1\.0: want at least 0',
    ),
    (
        _round(sampler={'name': 'sample', 'top_p': 0.0}),
        r'top_p=0\.0: want more than 0 and at most 1',
    ),
    (
        _round(sampler={'name': 'sample', 'min_p': 2.0}),
        r'min_p=2\.0: want at least 0 and at most 1',
    ),
    (_round(sampler={'name': 'sample', 'top_k': -1}), 'top_k=-1: want at least 0'),
    (_round(sampler={'name': 'sample', 'stop': ('',)}), 'want strings that are not empty'),
    (_round(train={'lr': 1e-3, 'schedule': 'step'}), "no schedule 'step'; there are: constant"),
    (_round(loss={'name': 'sft', 'mean': 'all'}), "no mean 'all'; there are: token"),
    (_round(scorer={'name': 'judge', 'template': 'x'}), "no template 'x': not a file"),
    (_round(prompts={'name': 'records', 'source': 'x.jsonl'}), "no prompt file 'x.jsonl'"),
    (_round(prompts={'name': 'task', 'tasks': ('x',), 'n': 1}), "no task named 'x'; there are"),
    (
        {'by_round': {'smapler': {'n': (1, 2)}}},
        "by_round: round has no 'smapler'; there are: prompts, sampler",
    ),
    ({'by_round': {'sampler': {'m': (1, 2)}}}, 'nothing reads m=1'),
    (
        {'by_round': {'sampler': {'n': 3}}},
        r'by_round\.sampler\.n=3: want a value for each round, in a tuple',
    ),
    ({'by_round': {'sampler': {'n': ()}}}, r'by_round\.sampler\.n=\(\): want a value for each'),
]


@pytest.mark.parametrize('fields, match', REFUSED)
def test_turns_that_make_no_sense_are_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        _bind(**fields)
