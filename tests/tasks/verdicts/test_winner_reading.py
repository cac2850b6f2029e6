"""Winners as people and models write them, and what names none."""

import itertools
import math

import pytest

from selfrew.tasks import verdicts

NAN = math.nan


def _winner(text: str) -> float:
    return verdicts.read_winner(text).value


OPENINGS = (
    'Winner: ',
    '**Winner:** ',
    'Both do well.\r\n\r\nWinner: ',
    'Winner：',
    'The winner is ',
    'Therefore, the winner is: ',
    'Overall winner - ',
    'Clarity winner: A\nWinner: ',
    'Winner: A? No. Winner: ',
    'The user wrote "Winner: A". Winner: ',
    '## Winner\n',
)
SIDES = '{}', '**{}**', '[{}]', '"{}"', '({})', 'Answer {}', 'Judgement {}', 'assistant ({})'
ENDINGS = '', '.', '!', ', a clear case', ' because it is right', ' (slightly)', '</s>', '\r\n'


@pytest.mark.parametrize('opening', OPENINGS)
def test_a_named_side_is_read_however_it_is_spelt(opening):
    for side, ending, (name, value) in itertools.product(SIDES, ENDINGS, (('A', 1), ('b', 0))):
        text = opening + side.format(name) + ending
        assert _winner(text) == value, text


@pytest.mark.parametrize('opening', OPENINGS)
def test_a_tie_is_read_before_any_name(opening):
    ties = 'a tie', 'A tie', 'TIE.', '**tie**', '"a tie"', 'a draw', 'tied', 'A and B tie', 'equal'
    ties += (
        'A tie between A and B',
        'both are equal',
        'Answer A and Answer B are tied',
        "it's a tie",
    )
    for tie in ties:
        assert _winner(opening + tie) == 0.5, opening + tie


@pytest.mark.parametrize('opening', OPENINGS[:4])
@pytest.mark.parametrize(
    'text',
    [
        'A and B',
        'A or B',
        'A, B',
        'A | B',
        'A+B',
        '"A" or "B"',
        'Answer A / Answer B',
        'A, B or tie',
        'tie or A',
        'tie, but A slightly',
        'a tie, with a slight edge to B',
        'tie? No, A',
        'A tie-break gives B',
        'not A',
        'neither',
        'A?',
        'maybe A',
        'A loses',
        'A does not win',
        'a good answer',
        'the answer a user wants',
        'Plan B',
        'C',
        'A-',
        'A.I.',
        '',
    ],
)
def test_two_names_doubts_and_other_letters_are_no_verdict(opening, text):
    assert math.isnan(_winner(opening + text))


@pytest.mark.parametrize(
    'text, value',
    [
        ('Winner: a little unclear, but B', 0),
        ('Winner: A close call, but B', 0),
        ('{"winner": "A", "reason": "B is short"}', 1),
        ('Winner: A\nLoser: B', 1),
        ('Winner: A. B is shorter.', 1),
        ('Winner: A\nThe winner is not A.', NAN),
        ('Winner: A\nWinner: neither', NAN),
        ('Clarity winner: A', NAN),
        ('Winner (clarity): A', NAN),
        ('The answer says "Winner: A".', NAN),
        ('[[a]]', 1),
        ('[[A]]\n[[B]]', 0),
        ('[[A]] is better than [[B]]', NAN),
        ('The better answer is [[A]].', 1),
        ('Clarity: [[A]]', NAN),
        ('[[A]] if A is better,\n[[B]] if B is,\n[[C]] for a tie', NAN),
    ],
)
def test_conclusions_in_context(text, value):
    assert _winner(text) == pytest.approx(value, nan_ok=True)
