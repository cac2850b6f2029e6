"""Seed data of judging: verdicts are kept where they agree with people, scores are balanced, and
both work from a config's own parts.
"""

import jax
import pytest

from selfrew import loop
from selfrew.running import turns
from selfrew.shelves import pairs, prompts, scorers
from selfrew.types import Judgement, Response, Rollout, user_prompt

KEY = jax.random.key(0)
NAN = float('nan')


def _judged(grades, *votes) -> Judgement:
    """A judgement whose votes are rankings: each has a score for every response."""
    prompt = user_prompt('p', 'Q?', grades=list(grades))
    responses, verdicts = [], []
    for i in range(len(grades)):
        responses.append(Response(f'answer {i}'))
        verdicts.append(tuple(f'Because. Score: {vote[i]}' for vote in votes))
    rollout = Rollout(prompt, tuple(responses))
    return Judgement(rollout, tuple(grades), tuple(verdicts), tuple(zip(*votes)))


@pytest.mark.parametrize(
    'grades, votes, kept',
    [
        ((0.0, -1.0), [(5.0, 3.0)], [5.0, 3.0]),
        ((0.0, -1.0), [(3.0, 3.0)], []),
        ((0.0, -1.0), [(3.0, 4.0)], []),
        ((0.0, -1.0), [(NAN, 3.0)], []),
        # the first ranking that agrees
        ((0.0, -1.0), [(3.0, 4.0), (4.0, 1.0), (5.0, 0.0)], [4.0, 1.0]),
        # people did not tell the last two apart
        ((0.0, -1.0, -1.0), [(5.0, 2.0, 3.0)], [5.0, 2.0, 3.0]),
        ((0.0, -1.0, -2.0), [(5.0, 2.0, 3.0)], []),
    ],
)
def test_verdicts_are_kept_where_their_ranking_is_that_of_people(grades, votes, kept):
    examples = list(pairs.agreeing(_judged(grades, *votes), None, template='check'))
    assert [example.scores[0] for example in examples] == kept
    for i, example in enumerate(examples):
        text = example.prompt.text
        assert f'Answer: answer {i}' in text and 'Question: Q?' in text
        assert example.responses[0].text == f'Because. Score: {kept[i]}'


def test_several_rankings_of_a_prompt_can_be_kept():
    judgement = _judged((0.0, -1.0), (5.0, 3.0), (4.0, 4.0), (4.0, 1.0))
    examples = list(pairs.agreeing(judgement, None, template='check', count=2))
    assert [example.scores[0] for example in examples] == [5.0, 3.0, 4.0, 1.0]
    assert len({example.prompt.id for example in examples}) == 4


def _turn(**fields):
    entry = {
        'prompts': {'name': 'task', 'tasks': ('rising',), 'n': 1},
        'sampler': {'name': 'given'},
        'scorer': {'name': 'given'},
        'pairs': {'name': 'singles'},
        'loss': {'name': 'sft'},
        'train': {'lr': 1e-3},
    }
    (turn,) = turns.bind_turns(rounds=1, round=entry | fields)
    return turn


def _scored(*scores) -> list[Judgement]:
    """Judgements of one response each, with ids in order."""
    judgements = []
    for i, score in enumerate(scores):
        rollout = Rollout(user_prompt(str(i), 'Q?'), (Response('a'),))
        judgements.append(Judgement(rollout, (score,)))
    return judgements


@pytest.mark.parametrize('balance, fours', [(None, 12), (0.5, 6), (0.25, 2), (0.9, 12)])
def test_the_most_common_score_is_thinned_out(balance, fours):
    """Twelve 4s, four 3s, two 5s: the 4s may be the share `balance`, so 6 · balance / (1 − balance)
    of them.
    """
    judged = _scored(*[4.0] * 12, *[3.0] * 4, *[5.0] * 2)
    examples = loop.make_examples(_turn(balance=balance), judged, KEY)
    assert [example.scores[0] for example in examples].count(4.0) == fours
    assert len(examples) == fours + 6
    ids = [int(example.prompt.id) for example in examples]
    assert ids == sorted(ids)
    assert examples == loop.make_examples(_turn(balance=balance), judged, KEY)


def test_a_balance_is_a_share_and_leaves_a_single_score_alone():
    assert len(loop.make_examples(_turn(balance=0.5), _scored(4.0), KEY)) == 1
    with pytest.raises(ValueError, match='balance: 1.0: want more than 0 and less than 1'):
        _turn(balance=1.0)


def test_seed_data_of_judging_come_out_of_the_loops_own_parts(tiny):
    """Ranked answers, judged by the model, kept where the ranking agrees, by the scorer and pairs
    of a config.
    """
    lm, params = tiny
    ranked = prompts.ranked(lm, params, KEY, tasks=('rising',), n=12, responses=2)
    rollouts = [Rollout(p, tuple(map(Response, p.meta['responses']))) for p in ranked]
    options = {'template': 'check', 'votes': 2, 'max_tokens': 56, 'top_p': 1.0}
    judged = scorers.judge(lm, params, rollouts, KEY, **options)
    examples = []
    for judgement in judged:
        examples += pairs.agreeing(judgement, None, template='check')
    assert 4 < len(examples) <= 24 and len(examples) % 2 == 0
    for example in examples:
        assert example.responses[0].text.endswith(f'Score: {example.scores[0]:.0f}')
