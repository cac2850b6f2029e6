"""Scores by rule: exact answers, consistency, length and grades from the data, by hand."""

import math

import jax
import numpy as np
import pytest

from selfrew.shelves import prompts, scorers
from selfrew.types import Prompt, Response, Rollout, user_prompt

KEY = jax.random.key(0)
NAN = math.nan


def _rollout(*texts, answer=None, **meta) -> Rollout:
    return Rollout(user_prompt('p', 'What is 2 + 2?', answer, **meta), tuple(map(Response, texts)))


# --- exact answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'answer, response, score',
    [
        ('18', 'Final answer: 18', 1),
        (18, '9 * 2 = 18.\n#### 18', 1),
        (18, 'Final answer: 18.', 1),
        (18, 'Final answer: 18.00', 1),
        (18, 'Final answer: $18', 1),
        ('9 * 2 = <<9*2=18>>18\n#### 18', '#### 18', 1),  # the reference as GSM8K has it
        ('1,250', 'So there are 1250. #### 1250', 1),
        (1250, 'Final answer: $1,250.00', 1),
        (-3, 'Final answer: -3', 1),
        (18, 'So it is \\boxed{18}.', 1),
        ('\\frac{1}{2}', 'Thus $\\boxed{\\frac{1}{2}}$.', 1),
        (18, 'Final answer: $\\boxed{18}$', 1),
        (18, '#### 17\nNo, that is wrong.\n#### 18', 1),  # the last one counts
        (18, '#### 18\n#### 17', 0),
        (18, '\\boxed{18} or rather \\boxed{81}', 0),
        ('B', 'Final answer: (B)', 1),
        ('(b)', 'Final answer: B', 1),
        ('B', 'Final answer: (C)', 0),
        (18, '**Final answer:** 18', 1),
        (18, '**Final answer: 18**', 1),
        (18, 'Final Answer:\n18', 1),
        (18, '#### 18 eggs', 1),
        (18, '\\boxed{18\\%}', 1),
        (18, 'So \\boxed{\\$18}', 1),
        ('B', '\\boxed{\\text{B}}', 1),
        (5, 'Final answer: (5)', 1),
        (10, 'Final answer: 1_0', 0),
        (12, 'Final answer: 1,2', 0),
        ('Paris', 'Final answer: paris.', 1),
        (18, 'Final answer: 180', 0),
        (18, 'Final answer: eighteen', 0),
        (18, '18', 0),  # no final answer
        (18, '', 0),
        (18, 'Final answer:', 0),
        (0, 'Final answer: 0', 1),
        (0, 'Final answer:', 0),
        (None, 'Final answer: 18', NAN),
        (None, '', NAN),
    ],
)
def test_an_exact_answer_is_right_as_a_number_or_as_text(answer, response, score):
    (judgement,) = scorers.exact_answer(None, None, [_rollout(response, answer=answer)], KEY)
    np.testing.assert_array_equal(judgement.scores, [score])


def test_built_in_tasks_judge_their_own_responses():
    task_prompts = prompts.task(
        None, None, KEY, tasks=('word_problems', 'rising'), n=40, answers=True
    )
    for prompt in task_prompts:
        if prompt.meta['task'] == 'rising':
            low = prompt.answer['low']
            right = ', '.join(str(low + i) for i in range(prompt.answer['count']))
            wrong = low
        else:
            right, wrong = prompt.answer, prompt.answer + 1
        final = [Response(f'Final answer: {answer}') for answer in (right, wrong, '')]
        rollout = Rollout(prompt, (*final, Response('Hm.')))
        (judgement,) = scorers.exact_answer(None, None, [rollout], KEY)
        assert judgement.scores == (1.0, 0.0, 0.0, 0.0)
        without_answer = Prompt(prompt.id, prompt.messages, None, prompt.meta)
        rollout = Rollout(without_answer, rollout.responses)
        (judgement,) = scorers.exact_answer(None, None, [rollout], KEY)
        np.testing.assert_array_equal(judgement.scores, [NAN] * 4)


# --- consistency, length, given -------------------------------------------------------------------


def test_consistency_is_the_share_that_ends_with_the_same_answer():
    texts = 'Final answer: 8', '#### 8.0', 'Final answer: 7', 'I give up.', 'No. \\boxed{8}'
    (judgement,) = scorers.consistency(None, None, [_rollout(*texts)], None)
    assert judgement.scores == (0.6, 0.6, 0.2, 0.0, 0.6)


def test_length_counts_tokens_and_a_target_is_best_met(tiny):
    lm, params = tiny
    sampled, text = Response('?', tokens=(7, 8, 9)), 'Final answer: 12'
    rollout, count = (
        Rollout(user_prompt('p', 'Q?'), (sampled, Response(text))),
        len(lm.text.encode(text)),
    )
    assert count > 3

    def scores(**options):
        return scorers.length(lm, params, [rollout], KEY, **options)[0].scores

    assert scores() == (3.0, count)
    assert scores(target=4) == (-1.0, 4.0 - count)
    assert scores(target=count) == (3.0 - count, 0.0)


def test_given_grades_are_taken_and_demonstrations_trusted():
    graded, plain = _rollout('a', 'b', grades=[5, 2]), _rollout('a', 'b', 'c')
    judgements = scorers.given(None, None, [graded, plain], KEY)
    assert [judgement.scores for judgement in judgements] == [(5.0, 2.0), (1.0, 1.0, 1.0)]


def test_grades_that_do_not_match_their_responses_are_refused():
    with pytest.raises(ValueError, match='3 grades and 1 responses'):
        scorers.given(None, None, [_rollout('a', grades=[1, 2, 3])], KEY)
