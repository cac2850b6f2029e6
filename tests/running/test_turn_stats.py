"""A turn's statistics: how scores are distributed and how far votes agree, by hand."""

import math

import pytest

from selfrew.running import turn_stats
from selfrew.types import Judgement, Response, Rollout, user_prompt

NAN = math.nan


def _rollout(prompt, *texts) -> Rollout:
    return Rollout(prompt, tuple(map(Response, texts)))


def test_statistics_say_how_scores_lie_and_how_far_votes_agree():
    """Scores 5, 1, 4; of the pairs of valid votes, 1 of 1, 0 of 1 and 0 of 0 agree; longer
    responses score less.
    """
    prompt = user_prompt('p', 'Q?')
    votes = (5.0, 5.0, NAN), (0.0, 2.0)
    first = Judgement(_rollout(prompt, 'ab', 'abcd'), (5.0, 1.0), (), votes)
    second = Judgement(_rollout(prompt, 'abc', 'a' * 99), (4.0, NAN), (), ((4.0,), (NAN,)))
    summary = turn_stats.summarize([prompt] * 2, [first, second], [])
    histogram = [summary[f'scores/{score}'] for score in range(6)]
    assert histogram == pytest.approx([0, 1 / 3, 0, 0, 1 / 3, 1 / 3])
    assert summary['agreement'] == 0.5 and summary['full_scores'] == pytest.approx(1 / 3)
    assert summary['length_score'] == pytest.approx(-1.0)
    assert summary['parse_failures'] == pytest.approx(2 / 7) and summary['no_verdict'] == 0.5


def test_half_a_win_is_no_score_of_0():
    prompt = user_prompt('p', 'Q?')
    votes = (0.5,), (0.5,), (1.0,), (0.0,)
    wins = Judgement(_rollout(prompt, *'abcd'), (0.5, 0.5, 1.0, 0.0), (), votes)
    summary = turn_stats.summarize([prompt], [wins], [])
    shares = {
        name: share for name, share in summary.items() if name.startswith('scores/') and share
    }
    assert shares == {'scores/0': 0.25, 'scores/0.5': 0.5, 'scores/1': 0.25}


def test_scores_without_votes_have_no_histogram():
    judgement = Judgement(_rollout(user_prompt('p', 'Q?'), 'a', 'b'), (1.0, 0.0))
    summary = turn_stats.summarize([judgement.rollout.prompt], [judgement], [])
    assert not {'agreement', 'scores/1', 'length_score', 'full_scores'} & set(summary)


def test_statistics_say_how_verdicts_were_read_and_show_those_that_were_not():
    prompt = user_prompt('p', 'Q?')
    texts = ('Score: 4', '[[2]]'), ('Well.', 'Score: 9')
    votes = (4.0, 2.0), (NAN, NAN)
    readings = ('mark', 'brackets'), ('no mark', 'out of range')
    judgement = Judgement(_rollout(prompt, 'a', 'b'), (3.0, NAN), texts, votes, readings)
    summary = turn_stats.summarize([prompt], [judgement], [])
    read = {name: value for name, value in summary.items() if 'read/' in name}
    assert read == {
        'read/mark': 0.25,
        'read/brackets': 0.25,
        'unread/no mark': 0.25,
        'unread/out of range': 0.25,
    }
    assert turn_stats.unread_verdicts([judgement]) == [
        '(no mark) Well.',
        '(out of range) Score: 9',
    ]


def test_the_sample_of_unread_verdicts_is_short_and_shows_how_they_end():
    text = 'It is ' + 'very ' * 200 + 'good.'
    judgement = Judgement(
        _rollout(user_prompt('p', 'Q?'), 'a'), (NAN,), ((text,) * 9,), (), (('no mark',) * 9,)
    )
    sample = turn_stats.unread_verdicts([judgement])
    assert len(sample) == 3
    assert all(s.startswith('(no mark) It is very') and s.endswith('very good.') for s in sample)
    assert all(len(s) < 430 < len(text) for s in sample)
