"""Verdicts: which score or winner is read from a judge's text, and what is no verdict."""

import json
import math

import data_sets
import numpy as np
import pytest

from selfrew.tasks import templates, verdicts
from selfrew.types import Response

NAN = math.nan
CASES = data_sets.FOLDER.parent / 'cases' / 'verdicts.jsonl'


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


SCORES = {
    'Score: 4, because it is good': 4,
    'Score: 4 — good': 4,
    'I give this response a score of 4.': 4,
    'The score is 4': 4,
    'My score: 4': 4,
    'Overall, the score is 4.': 4,
    '{"reason": "good", "score": 4}': 4,
    '{"score": "4"}': 4,
    'Score (0-5): 4': 4,
    'Score (out of 5): 4': 4,
    'Clarity score: 1\nScore: 4': 4,
    'Score: 4\nClarity score: 1': 4,
    '**Score**: **4** / **5**': 4,
    'Score: 4\r\n': 4,
    'Score:\r\n4\r\n': 4,
    'Score: 3\n\nExplanation: 2 of 3 points.': 3,
    'Score: 4 (good)': 4,
    'Score: 3 = 1 + 1 + 1': 3,
    'Score: 4\nThe score is based on the rubric.': 4,
    'Score: 4 (4/5)': 4,
    'Score: 4 points out of 5': 4,
    'Score: 4 out of a possible 5 points': 4,
    'Score: 4 stars': 4,
    'Rating: [[4]]': 4,
    '[[4]]': 4,
    'Rating: 4': 4,
    'Score: 4/5 points': 4,
    'Score: 4; maybe more': 4,
    'Final score: **4/5**': 4,
    'Final Score - 4': 4,
    '# Score\n4': 4,
    '## Score: 4/5': 4,
    'Score = 4': 4,
    'Total score = 4': 4,
    'Therefore, the final score is **4**.': 4,
    'So the score is 4/5.': 4,
    'Score: $4$': 4,
    'Score: \\(4\\)': 4,
    'Score: (4)': 4,
    'Score: {4}': 4,
    'Score: <4>': 4,
    'Score: 4.': 4,
    'Score: 4,': 4,
    'Score:4/5': 4,
    'SCORE: 4 / 5!': 4,
    'Score: 04': 4,
    'Score: +4': 4,
    'Score: 4 Excellent.': 4,
    'Score: 2 points, Score: 4': 4,
    'Score: 4 👍': 4,
    '*Score: 4*': 4,
    'Score – 4': 4,
    'Total points: 1 + 1 + 1 + 1 = 4': 4,
    'Score: 4 points.': 4,
    'Score: N=4': 4,
    'The final score for this response is 4.': 4,
    'Score: 4*': 4,
    'A score of 5 means perfect. Score: 3': 3,
    'score 4': 4,
    'Score 4/5': 4,
    'Step 3: Score: 4': 4,
    'Score: 4 out of 5 (good)': 4,
    'Score: 4<br>': 4,
    'Score: 4\n\n---': 4,
    '"score": 4': 4,
    'Score: 1\n2': 1,
}
NO_SCORES = (
    'Clarity score: 1',
    'Score for clarity: 1',
    'Score: 4 (or 5)',
    'Score: 4 or five',
    'Score: 4?',
    'Score: 4 to 5',
    'Score: between 3 and 4',
    'Score: 4 and a half',
    'Score: 3½',
    'Score: four',
    'Score: 4 of ten',
    'Score: 1 + 1 = 3',
    'Score: 1 + 1 + 1',
    'Score: 4. Score: unknown',
    '> Score: 5',
    'The response says Score: 5',
    'I was told to write "Score: 5".',
    'Score: 4 (4/10)',
    'Score: 4e0',
    'Score: 4x',
    'Score: 4th',
    '[[4]] or [[5]]',
    '[[9]]',
    'Score: about 4',
    'Score: not 4',
    'Score: 5 is too high, so 4',
    'Score: 4 but maybe 5',
    'Score: 4, maybe 5',
    'Scores: 4',
    'Sub-score: 4',
    'Score: 4 for clarity, 3 for depth',
    'Score: 4/5/5',
    'Score: 4 / 5 / 5',
    'Score: 4 -- good',
    'Score: 4:',
    'Score: 4%',
    'Score: 4 percent',
    'Score: 4,5',
    'Score: 4.5.1',
    'Score: minus 1',
    'Score: 3-4',
    'Score: 3 - 4',
    'Score: 3~4',
    'Score: 3 ~ 4',
    'Score: >= 4',
    'Score: ~4',
    'Score: 4+',
    'Score: 4-',
    'Score: \\frac{4}{5}',
    'The highest score is 5',
    'The maximum score is 5',
    'Score: 4 (2 + 2)',
)
WINNERS = {
    'Winner: A': 1.0,
    'Winner: A/B': 0.5,
    'Winner: Answer a': 1.0,
    'Winner: (b)': 0.0,
    'Winner: [B]': 0.0,
    'Winner: **B**': 0.0,
    'The winner is B.': 0.0,
    'Winner: A because it is better': 1.0,
    'Winner: A is better': 1.0,
    'Winner: A wins': 1.0,
    'Winner: equal': 0.5,
    'Winner: It is a tie': 0.5,
    "Winner: it's a draw": 0.5,
    'Winner: tied': 0.5,
    '[[A]]': 1.0,
    '[[C]]': 0.5,
    'Winner: B\n[[A]]': 1.0,
    'Final verdict: [[B]]': 0.0,
    '"winner": "A"': 1.0,
    '{"winner": "B"}': 0.0,
    'Winner:\nB': 0.0,
    '**Winner**: B.': 0.0,
    'Winner: Assistant B': 0.0,
    'Winner: model_a': 1.0,
    'Winner: Option B (the second)': 0.0,
    'Winner: A. B was shorter.': 1.0,
    'Winner: A!': 1.0,
    'Winner: I think B': 0.0,
    'Winner: I would say A': 1.0,
    'Winner: a': 1.0,
    'Winner: a tie, although A is longer': 0.5,
    'Winner: the answer A': 1.0,
    'Winner: Answer B, a clear case': 0.0,
    'Winner – B': 0.0,
    'winner = a': 1.0,
    'Winner: "Answer A"': 1.0,
    '<winner>A</winner>': 1.0,
    'Winner: A</s>': 1.0,
    'Winner: A<|im_end|>': 1.0,
    'Winner：B': 0.0,
    'Winner: draw': 0.5,
    'Winner: Tie between A and B': 0.5,
    'Winner: A and B are tied': 0.5,
    'Winner: both A and B are equally good': 0.5,
    'Winner: both are equal': 0.5,
    'Winner: A A': 1.0,
    'Winner: Output A.\n\nBecause it is good': 1.0,
}
NO_WINNERS = (
    'Winner: A and B',
    'Winner: A or B',
    'Winner: N/A',
    'Winner: none',
    'Winner: both',
    'Winner: a better answer',
    'The winner is not clear.',
    'Winner: not A',
    'Winner: A, because B is shorter',
    '[[A]] or [[B]]',
    'Winner: A tie-break gives B',
    'Winner: A+',
    'Winner: C',
    'Winner: AB',
    'I was told to write "Winner: A".',
    'Winner: Judgement B is better than Judgement A',
    'Winner: neither A nor B',
    'Winner: A & B',
    'Winner: Bob',
    'Winner: B (not A)',
    'Winner: A equals B',
)


@pytest.mark.parametrize('text', SCORES)
def test_the_conclusion_of_a_judge_is_read(text):
    assert verdicts.score(Response(text), low=0.0, high=5.0) == SCORES[text]


@pytest.mark.parametrize('text', NO_SCORES)
def test_sub_scores_ranges_and_quotations_are_no_score(text):
    assert math.isnan(verdicts.score(Response(text), low=0.0, high=5.0))


@pytest.mark.parametrize('text', WINNERS)
def test_the_better_answer_is_read(text):
    assert verdicts.winner(Response(text)) == WINNERS[text]


@pytest.mark.parametrize('text', NO_WINNERS)
def test_two_names_articles_and_denials_name_no_winner(text):
    assert math.isnan(verdicts.winner(Response(text)))


@pytest.mark.parametrize(
    'text, how',
    [
        ('Score: 4', 'mark'),
        ('Score: 1 + 1 = 2', 'sum'),
        ('[[4]]', 'brackets'),
        ('It is good.', 'no mark'),
        ('Score: 4 or 5', 'unclear'),
        ('Score: 6', 'out of range'),
    ],
)
def test_a_reading_says_how_it_came_about(text, how):
    reading = verdicts.read_score(text, low=0.0, high=5.0)
    assert reading.how == how and (how in verdicts.READ) == (not math.isnan(reading.value))


@pytest.mark.parametrize(
    'text', ['Good.\nScore: 4', '**Score:** **4**/5', 'Score：4', 'Score: 1 + 3 = 4', '[[4]]']
)
def test_a_reading_says_where_the_number_begins(text):
    start = verdicts.read_score(text, low=0.0, high=5.0).start
    assert text[start] == '4'


@pytest.mark.skipif(not CASES.is_file(), reason='the cases are not here')
def test_endings_of_verdicts_as_judges_write_them_are_read_right():
    wrong = []
    for row in map(json.loads, CASES.read_text().splitlines()):
        verdict = Response(row['verdict'])
        if row['kind'] == 'score':
            value = verdicts.score(verdict, low=row['low'], high=row['high'])
        else:
            value = verdicts.winner(verdict)
        expected = math.nan if row['value'] is None else row['value']
        if not np.array_equal(value, expected, equal_nan=True):
            wrong.append((row, value))
    assert not wrong


@pytest.mark.skipif(not data_sets.FOLDER.is_dir(), reason='the data sets are not here')
def test_gpt4s_ratings_of_mt_bench_are_read_as_published():
    path = data_sets.FOLDER / 'mt_bench' / 'judgments_gpt4_single_sample.jsonl'
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    read = [verdicts.score(Response(row['judgment']), low=1.0, high=10.0) for row in rows]
    assert len(rows) == 320 and read == [row['score'] for row in rows]


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
