"""Scores as people and models write them, and what is no score. The range is 0 to 5."""

import itertools
import math

import pytest

from selfrew.tasks import verdicts

NAN = math.nan


def _score(text: str) -> float:
    return verdicts.read_score(text, low=0.0, high=5.0).value


OPENINGS = (
    'Score: ',
    '**Score:** ',
    '**Final Score**: ',
    'It is direct, and complete.\n\nScore:\n',
    'It is direct.\r\nScore: ',
    'The score is ',
    'Therefore, the final score is: ',
    'I would give this response a score of ',
    'Score：',
    'Total score - ',
    '{"reason": "direct", "score": ',
    'Clarity score: 1\nDepth score: 2\n\nTotal score: ',
    '### Final Score\n',
    'The user asks for "Score: 5". Score: ',
    '<think>Score: 1?</think>Score: ',
)
SPELLINGS = '{}', '**{}**', '[{}]', '"{}"', '`{}`', '$\\boxed{{{}}}$', '({})', '1 - 1 + {0} = {0}'
ENDINGS = (
    '',
    '.',
    '/5',
    ' / 5.0',
    ' (out of 5)',
    ' out of 5 points.',
    ', because it names 2 of 3 causes.',
    ' because it is clear.',
    ' – clear',
    '\r\n',
    '\nClarity score: 1',
    '</s>',
    '<|im_end|>\n<|im_start|>user\nScore: 2',
)


@pytest.mark.parametrize('opening', OPENINGS)
def test_a_point_is_read_however_it_is_spelt_and_its_place_is_known(opening):
    for spelling, ending, point in itertools.product(SPELLINGS, ENDINGS, range(6)):
        text = opening + spelling.format(point) + ending
        reading = verdicts.read_score(text, low=0.0, high=5.0)
        assert reading.value == point, text
        assert text[reading.start] == str(point), text
        assert (reading.how == 'sum') == ('=' in spelling), text


@pytest.mark.parametrize('opening', OPENINGS)
def test_another_number_beside_a_point_leaves_none(opening):
    others = (
        ' or 5',
        '-5',
        ' – 5',
        ' to 5',
        ', 5',
        ' and 5',
        '+',
        '%',
        ' percent',
        '/10',
        '\\5',
        'x',
    )
    others += ' of 6', ' (or 5)', ' (3/5)', ' = 5', '?', '½', ' or five', ' → 5', '..5', ';5', '^2'
    for spelling, other in itertools.product(('{}', '**{}**', '[{}]'), others):
        text = opening + spelling.format(4) + other
        assert math.isnan(_score(text)), text


@pytest.mark.parametrize(
    'text',
    [
        'Clarity: Score: 1',
        '1. Relevance: Score: 1',
        'The clarity score is 1',
        'Final clarity score: 1',
        'Score (clarity): 1',
        '{"clarity_score": 1}',
        '{"clarity": {"score": 1}}',
        '{\n  "clarity": {\n    "score": 1\n  }\n}',
        '<clarity_score>1</clarity_score>',
        'Clarity rating: [[2]]',
        'Clarity: [[2]]',
        '### Clarity\nScore: 1\n### Depth\nScore: 2',
        '**Clarity**\nScore: 1\n\n**Depth**\nScore: 2',
        'Maximum score: 5',
        'User score: 5',
    ],
)
def test_a_score_of_a_part_is_not_the_score(text):
    assert math.isnan(_score(text))
    assert _score(f'{text}\nTotal score: 3') == 3


@pytest.mark.parametrize(
    'text',
    [
        'The response claims: Score: 5',
        'The answer says "Great! Score: 5" at its end.',
        'It ends with:\nScore: 5',
        '<response>\nScore: 5\n</response>',
        'For example, Score: 5',
        'Format: Score: 5',
        'If it were longer, the score would be 5.',
        'The format is "[[rating]]", for example: "Rating: [[5]]".',
        '~~Score: 5~~',
        'A score of 5 means that nothing is missing.',
        'Score: 5 if it were longer',
    ],
)
def test_what_others_say_and_what_would_be_is_no_score(text):
    assert math.isnan(_score(text))
    assert _score(f'{text}\nScore: 2') == 2


@pytest.mark.parametrize(
    'text, score',
    [
        ('Score: 1 (relevant) + 1 (useful) + 0 (unclear) = 2', 2),
        ('Score: 1 point + 1 point = 2 points', 2),
        ('Score: (1 + 1 + 1) = **3**/5', 3),
        ('Score: 0.5 + 1 = 1.5', 1.5),
        ('Score: 5 – 1 = 4', 4),
        ('Score: 3 = 1 + 1 + 1', 3),
        ('Score: 2 + 2 = 5', NAN),
        ('Score: 5 = 2 + 2', NAN),
        ('Score: 2 * 2 = 4', NAN),
        ('Score: 1 + 1 + 1', NAN),
        ('Score: 1 + 1 = 2 or 3', NAN),
    ],
)
def test_a_sum_counts_if_it_is_right(text, score):
    assert _score(text) == pytest.approx(score, nan_ok=True)


@pytest.mark.parametrize(
    'text, score',
    [
        ('Rating: [[4]]', 4),
        ('Therefore, I would rate it as follows: "Rating: [[4]]".', 4),
        ('I rate it [[4.5]]', 4.5),
        ('Rating: [[3]]\nRating: [[4]]', 4),
        ('Score: 3\nRating: [[4]]', 4),
        ('[[3]]\nScore: 4', 4),
        ('Rating: [[4]]-[[5]]', NAN),
        ('Rating: [[4]] out of 10', NAN),
        ('[[6]]', NAN),
        ('Score (1-10): 4', NAN),
        ('Score: < 4', NAN),
        ('Score > 4', NAN),
        ('Score -4', NAN),
        ('Score: 4 | 5', NAN),
        ('| Score | 4 |', 4),
        ('Score: 4\nThe score of 4 reflects its depth.', 4),
        ('Score: 4. Final score: 3', 3),
        ('Score: 4\nScore: N/A', NAN),
    ],
)
def test_brackets_tables_and_corrections(text, score):
    assert _score(text) == pytest.approx(score, nan_ok=True)


def test_long_degenerate_verdicts_are_read_in_a_moment():
    for piece in ' ', '\n', '*', '(', '1 + ', 'the ', 'so ', '"', '1. ', 'final ':
        assert math.isnan(_score('Score: 4' + piece * 3000 + 'or 5'))
        assert math.isnan(_score('Score:' + piece * 3000 + 'x'))
