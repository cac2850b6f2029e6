"""SELM's protocol on preference data, end to end on a small file, and its numbers at scale."""

import json

import pytest

from configs import base, selm
from selfrew import loop
from selfrew.running import binding
from selfrew.running.turns import bind_turns
from selfrew.types import Example, Judgement, from_json


def _rows(folder, *names, kind):
    return [
        from_json(kind, json.loads(line))
        for line in folder.joinpath(*names).read_text().splitlines()
    ]


@pytest.fixture
def preferences(tmp_path):
    """Ten rows with two responses each, of different lengths."""
    path = tmp_path / 'preferences.jsonl'
    rows = [
        {
            'id': str(i),
            'prompt': f'Sam has {i + 2} pens and buys 3 more. How many pens does Sam have?',
            'chosen': f'{i + 2} + 3 = {i + 5}. '
            + 'So it is. ' * (i % 3)
            + f'Final answer: {i + 5}',
            'rejected': f'Final answer: {i}',
        }
        for i in range(10)
    ]
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


@pytest.mark.slow
@pytest.mark.usefixtures('describe_once')
def test_a_round_ranks_the_greedy_response_with_the_two_of_its_own_portion(preferences, tmp_path):
    """The recipe of the paper's runs on the tiny base, with a rule in the reward model's place."""
    config = selm.get_config('llama3_8b').to_dict()
    turn = config['round']
    turn['prompts'] |= {'source': str(preferences), 'n': None}
    turn['sampler'] |= {'max_tokens': 40, 'slots': 8}
    turn['scorer'] = {'name': 'length', 'target': 18}
    turn['train'] |= {'batch': 2, 'row_length': 256}
    tiny = base.get().to_dict()
    config |= {'evals': {}, 'model': tiny['model'], 'mesh': tiny['mesh']}
    binding.bind_arguments(loop.run, config, 'config')(str(tmp_path / 'run'))
    asked = []
    for number in (1, 2, 3):
        place = tmp_path / 'run' / 'rounds', f'{number:02d}'
        judgements = _rows(*place, 'judgements.jsonl', kind=Judgement)
        examples = _rows(*place, 'examples.jsonl', kind=Example)
        asked += [judgement.rollout.prompt.id for judgement in judgements]
        best_and_worst = {}
        for judgement in judgements:
            data, greedy = judgement.rollout.responses[:2], judgement.rollout.responses[2]
            assert [r.text for r in data] == judgement.rollout.prompt.meta['responses']
            assert not data[0].tokens and greedy.tokens and len(judgement.scores) == 3
            best_and_worst[judgement.rollout.prompt.id] = (
                max(judgement.scores),
                min(judgement.scores),
                greedy,
            )
        assert examples
        for example in examples:
            best, worst, greedy = best_and_worst[example.prompt.id]
            assert example.scores[:2] == (best, worst)
            assert example.responses[2] == greedy
        stats = json.loads(place[0].joinpath(place[1], 'turn.json').read_text())
        # the responses of the data have no log-probability, and the greedy one is no sample
        assert stats['distinct_1'] > 0 and 'entropy' not in stats
    assert asked == list('012345678')  # three rows a round; the last row is in no portion
    steps = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    assert sum('logps/explored' in step for step in steps) == 6


def _turns(name, tmp_path, monkeypatch):
    """The turns of a run at scale, where its files are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'ultrafeedback.jsonl').write_text('{}')
    config = selm.get_config(name).to_dict()
    config['round']['scorer'] = {'name': 'length'}
    fields = {key: config[key] for key in ('rounds', 'round', 'start', 'by_round')}
    return bind_turns(**{key: value for key, value in fields.items() if value is not None})


def _numbers(turn) -> tuple:
    prompts, loss = turn.prompts.keywords, turn.loss.keywords
    place = prompts['portion'], prompts['portions'], prompts['n']
    return *place, turn.train.keywords['lr'], loss['beta'], loss.get('explore', 0.0)


def test_every_round_has_its_portion_and_its_learning_rate(tmp_path, monkeypatch):
    """The paper's numbers, §4: portion, portions, rows, learning rate, β and α."""
    turns = _turns('llama3_8b', tmp_path, monkeypatch)
    assert [_numbers(turn) for turn in turns] == [
        (1, 3, 20_378, 5e-7, 0.01, 0.0001),
        (2, 3, 20_378, 3e-7, 0.01, 0.0001),
        (3, 3, 20_378, 1e-7, 0.01, 0.0001),
    ]
    assert {turn.train.keywords['batch'] for turn in turns} == {128}


def test_zephyr_starts_with_a_round_of_plain_dpo(tmp_path, monkeypatch):
    turns = _turns('zephyr', tmp_path, monkeypatch)
    assert [_numbers(turn) for turn in turns] == [
        (1, 4, 15_283, 5e-7, 0.01, 0.0),
        (2, 4, 15_283, 5e-7, 0.01, 0.001),
        (3, 4, 15_283, 5e-7, 0.01, 0.001),
        (4, 4, 15_283, 1e-7, 0.01, 0.001),
    ]
    assert [turn.sampler.func.__name__ for turn in turns] == ['given'] + ['with_greedy'] * 3
    assert turns[0].pairs.keywords == {'count': 1} and turns[1].pairs.keywords['keep_last']
