"""Verdicts: which score or winner is read from a judge's text, and what is no verdict."""

import math

import numpy as np
import pytest

from selfrew.tasks import templates, verdicts
from selfrew.types import Response

NAN = math.nan


@pytest.mark.parametrize(
    'text, score',
    [
        ('Score: 4', 4),
        ('It is direct and complete.\nScore: 4', 4),
        ('score:4', 4),
        ('SCORE : 0', 0),
        ('Total score: 3.', 3),
        ('Score: 4.5', 4.5),
        ('Score: 5.0', 5),
        ('**Score:** 4', 4),
        ('**Score: 4**', 4),
        ('*Score*: _4_', 4),
        ('Score: 2. On reflection, Score: 4', 4),  # the last one counts
        ('Score: 4/5', 4),
        ('Score: 4 / 5', 4),
        ('Score: 4 out of 5', 4),
        ('Score: 4 of 5', 4),
        ('Score: 4 points', 4),
    ],
)
def test_the_score_that_a_verdict_concludes_with_is_read(text, score):
    assert verdicts.score(Response(text), low=0.0, high=5.0) == score


@pytest.mark.parametrize(
    'text',
    [
        '',
        'It is good.',
        'Four points.',
        '4',
        'It earns 4 points of 5.',  # nothing marks this as the score
        'Score: N',
        'Score: five',
        'Score:',
        'Score: six of 5',
        'Score: 6',  # out of range
        'Score: 55',  # not a 5 followed by a 5
        'Score: 5.1',
        'Score: -1',
        'Score: 6 of 5',
        'Score: 4/10',  # of another range
        'Score: 4 out of 10',
        'Score: 8/10',
        'Score: 4/50',
        'Score: 4/5/5',
        'Score: 4. No, Score: 6',  # the last one counts, even where it cannot be read
        'Score: 4. Score: unknown',
        'Score: 0 to 5',  # the instruction, repeated
        'Score: 4-5',
        'Score: 4,5',
        'Score: 4 out of ten',
        'Score: 4%',
        'Score: 3e9',
        'Score: 4/5.5',
        'Score:\n1. good',
        'Underscore: 3',
    ],
)
def test_text_without_a_score_of_the_range_is_no_verdict(text):
    assert math.isnan(verdicts.score(Response(text), low=0.0, high=5.0))


def test_a_verdict_cut_by_the_limit_has_not_concluded():
    assert math.isnan(verdicts.score(Response('Score: 4', finish='length'), low=0.0, high=5.0))


def test_the_caller_sets_the_range_of_scores():
    def read(text):
        return verdicts.score(Response(text), low=-1.0, high=10.0)

    assert (read('Score: 8/10'), read('Score: 10'), read('Score: -1')) == (8.0, 10.0, -1.0)
    assert math.isnan(read('Score: 4/5')) and math.isnan(read('Score: 11'))


@pytest.mark.parametrize(
    'text, winner',
    [
        ('A is right. Winner: A', 1.0),
        ('Winner: B', 0.0),
        ('**Winner:** tie', 0.5),
        ('[[B]]', 0.0),
        ('[[C]]', 0.5),
        ('winner: [Judgement A]', 1.0),
        ('Winner: A? No. Winner: Answer B.', 0.0),
        ('A wins', NAN),
        ('Winner: Bob', NAN),
        ('', NAN),
    ],
)
def test_the_last_winner_that_a_verdict_names_is_read(text, winner):
    np.testing.assert_array_equal(verdicts.winner(Response(text)), winner)
    assert math.isnan(verdicts.winner(Response(text, finish='length')))


def test_the_shipped_pairwise_template_shows_both_answers_and_says_how_to_conclude():
    text = templates.render('pairwise', prompt='Q?', first='one', second='two')
    assert '<answer A>one</answer A>\n<answer B>two</answer B>' in text and 'User: Q?' in text
    assert text.endswith('"Winner: A", "Winner: B" or "Winner: tie".')
    read = [verdicts.winner(Response(f'Winner: {name}')) for name in ('A', 'B', 'tie')]
    assert read == [1.0, 0.0, 0.5]


def test_the_shipped_meta_template_shows_the_task_and_both_judgements():
    text = templates.render('meta', prompt='Grade it.', first='Score: 1', second='Score: 5')
    both = '<judgement A>Score: 1</judgement A>\n<judgement B>Score: 5</judgement B>'
    assert both in text and 'Grade it.' in text
    assert text.endswith('"Winner: A", "Winner: B" or "Winner: tie".')
