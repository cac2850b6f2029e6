"""Measures of exploration have the values of their definitions."""

import math

import pytest

from selfrew.tasks import exploration
from selfrew.types import Judgement, Response, Rollout, user_prompt


def _judgement(texts, scores, logps=None, name='a'):
    logps = logps or [None] * len(texts)
    responses = tuple(
        Response(text, (5,) * len(text.split()), 'stop', logp) for text, logp in zip(texts, logps)
    )
    return Judgement(Rollout(user_prompt(name, 'Q', '3'), responses), tuple(scores))


FIRST = _judgement(
    ['So 1. Final answer: 3', 'Final answer: 3.0', 'Final answer: 4', 'none here'],
    [1.0, 1.0, 0.0, 0.0],
    [-2.0, -3.0, -1.0, -4.0],
)
SECOND = _judgement(['Final answer: 5', 'Final answer: 6'], [0.0, math.nan], name='b')
SINGLE = _judgement(['Final answer: 3'], [1.0], name='c')


def test_measures_are_means_over_prompts_with_several_responses():
    found = exploration.measures([FIRST, SECOND, SINGLE])
    assert found['distinct_answers'] == pytest.approx((2 / 3 + 1) / 2)  # 3 and 3.0 are the same
    assert found['best_score'] == 0.5 and found['coverage'] == 0.5
    # 10 nats over 5 + 3 + 3 + 2 sampled tokens; SECOND was not sampled
    assert found['entropy'] == pytest.approx(10 / 13)


def test_distinct_ngrams_are_those_of_all_of_a_prompts_responses():
    found = exploration.measures([_judgement(['a b a b', 'A b c'], [0.0, 1.0])])
    assert found['distinct_1'] == pytest.approx(3 / 7)
    assert found['distinct_2'] == pytest.approx(3 / 5)  # ab ba ab ab bc
    assert found['distinct_3'] == pytest.approx(3 / 3)  # aba bab abc


def test_coverage_is_of_scores_from_0_to_1_alone_and_nothing_is_made_up():
    assert 'coverage' not in exploration.measures([_judgement(['a', 'b'], [5.0, 2.0])])
    assert exploration.measures([_judgement(['a', 'b'], [5.0, 2.0])])['best_score'] == 5.0
    assert exploration.measures([SINGLE]) == {} == exploration.measures([])
    silent = exploration.measures([_judgement(['a', 'b'], [math.nan] * 2)])
    assert set(silent) == {'distinct_1'}


def test_a_greedy_response_is_no_sample_of_the_entropy():
    # of FIRST, 2 + 3 + 1 nats over 5 + 3 + 3 tokens
    found = exploration.measures([FIRST], greedy_last=True)
    assert found['entropy'] == pytest.approx(6 / 11)
    assert found['distinct_1'] == exploration.measures([FIRST])['distinct_1']
