"""Every scorer keeps the shelf's contract; composite adds up the scores of others."""

import functools
import math

import jax
import numpy as np
import pytest

from selfrew.running import binding
from selfrew.shelves import scorers
from selfrew.types import Judgement, Response, Rollout, user_prompt

KEY = jax.random.key(0)
NAN = math.nan


def _rollout(*texts, answer=None, id='p') -> Rollout:
    return Rollout(user_prompt(id, 'What is 2 + 2?', answer), tuple(map(Response, texts)))


@pytest.mark.parametrize('name', binding.part_names('scorer', scorers))
def test_every_scorer_keeps_the_contract(name, tiny, reward_base):
    """A judgement for each rollout, in order, with a float for each response; the same for the same
    key.
    """
    options = {
        'judge': {'template': 'check', 'votes': 2, 'max_tokens': 16},
        'composite': {'scorers': (scorers.exact_answer, scorers.length), 'weights': (1.0, 0.5)},
        'reward_model': {'checkpoint': reward_base.folder},
    }
    scorer = functools.partial(getattr(scorers, name), **options.get(name, {}))
    rollouts = [
        _rollout('#### 4', 'five', answer=4, id='a'),
        _rollout('#### 4', id='b'),
        _rollout('', id='c'),
        _rollout(id='d'),
    ]
    judgements, again = scorer(*tiny, rollouts, KEY), scorer(*tiny, rollouts, KEY)
    assert [judgement.rollout for judgement in judgements] == rollouts
    for first, second in zip(judgements, again, strict=True):
        assert isinstance(first, Judgement) and len(first.scores) == len(first.rollout.responses)
        assert all(type(score) is float for score in first.scores)
        np.testing.assert_array_equal(first.scores, second.scores)
        assert first.verdicts == second.verdicts
    assert scorer(*tiny, [], KEY) == []


# --- composite ------------------------------------------------------------------------------------


def _fixed(*scores, verdicts=(), votes=()):
    """A scorer that gives each rollout these scores."""
    return lambda lm, params, rollouts, key: [
        Judgement(rollout, scores, verdicts, votes) for rollout in rollouts
    ]


def test_a_composite_is_the_weighted_sum_and_keeps_the_first_verdicts():
    first = _fixed(1.0, 2.0, verdicts=(('x',), ('y',)), votes=((1.0,), (2.0,)))
    parts, weights = (first, _fixed(10.0, 30.0)), (2.0, -0.1)
    rollouts = [_rollout('a', 'b')]
    (judgement,) = scorers.composite(None, None, rollouts, KEY, scorers=parts, weights=weights)
    assert judgement.scores == pytest.approx((1.0, 1.0))  # 2 - 1 and 4 - 3
    assert judgement.verdicts == (('x',), ('y',)) and judgement.votes == ((1.0,), (2.0,))


@pytest.mark.parametrize('weights', [(1.0, 1.0), (1.0, 0.0)])
def test_a_composite_has_no_verdict_where_one_of_its_scorers_has_none(weights):
    parts, rollouts = (_fixed(1.0, 2.0, NAN), _fixed(1.0, NAN, 3.0)), [_rollout('a', 'b', 'c')]
    (judgement,) = scorers.composite(None, None, rollouts, KEY, scorers=parts, weights=weights)
    np.testing.assert_array_equal(judgement.scores, [sum(weights), NAN, NAN])


def test_a_composite_wants_a_weight_for_each_scorer():
    for parts, weights in (((_fixed(1.0),), (1.0, 2.0)), ((_fixed(1.0),), ()), ((), ())):
        with pytest.raises(ValueError, match=f'{len(parts)} scorers and {len(weights)} weights'):
            scorers.composite(None, None, [_rollout('a')], KEY, scorers=parts, weights=weights)
