"""Evaluations: intervals and a judge's metrics against SciPy and by hand."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from selfrew.run import binding
from selfrew.shelves import evals, scorers
from selfrew.types import Judgement, Response, Rollout, user_prompt

NAN = math.nan


def _metrics(*rows, **options) -> dict:
    return evals.judge_metrics(list(rows), **options)


@pytest.mark.parametrize(
    'right, count',
    [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (81, 100), (999, 1000), (500, 1319)],
)
def test_the_interval_is_wilsons(right, count):
    interval = stats.binomtest(right, count).proportion_ci(method='wilson')
    assert evals.wilson(right, count) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_of_nothing_there_is_no_interval():
    assert all(map(math.isnan, evals.wilson(0, 0)))
    assert math.isnan(_metrics()['value']) and math.isnan(_metrics()['kendall'])


def test_a_perfect_judge_has_every_metric_at_1():
    metrics = _metrics(((5.0, 2.0, 1.0), (5.0, 2.0, 1.0)), ((1.0, 5.0, 5.0), (1.0, 5.0, 5.0)))
    assert metrics['pairs'] == 5  # 3 and, without the tie, 2
    for name in ('value', 'pairwise_half', 'five_best', 'exact_match', 'spearman', 'kendall'):
        assert metrics[name] == pytest.approx(1.0), name


def test_a_reversed_judge_has_every_metric_at_its_lowest():
    metrics = _metrics(((1.0, 2.0, 5.0), (5.0, 2.0, 1.0)), ((0.0, 5.0), (5.0, 0.0)))
    for name in ('value', 'pairwise_half', 'five_best', 'exact_match'):
        assert metrics[name] == 0.0, name
    assert metrics['spearman'] == pytest.approx(-1.0) and metrics['kendall'] == pytest.approx(-1.0)


def test_a_tie_is_wrong_in_the_strict_and_half_right_in_the_other_agreement():
    # Pairs of different grade: 5 > 2 is scored a tie, 5 > 1 and 2 > 1 right; in any order.
    metrics = _metrics(((4.0, 4.0, 1.0), (5.0, 2.0, 1.0)))
    assert metrics == pytest.approx(_metrics(((1.0, 4.0, 4.0), (1.0, 2.0, 5.0))), nan_ok=True)
    assert metrics['value'] == pytest.approx(2 / 3)
    assert metrics['pairwise_half'] == pytest.approx(2.5 / 3)
    assert metrics['exact_match'] == 0.0 and math.isnan(metrics['five_best'])  # no score of 5
    assert (metrics['low'], metrics['high']) == evals.wilson(2, 3)


def test_a_judge_who_always_says_the_same_is_no_better_than_chance():
    metrics = _metrics(((3.0, 3.0, 3.0), (5.0, 2.0, 1.0)))
    assert (metrics['value'], metrics['pairwise_half']) == (0.0, 0.5)
    assert (metrics['spearman'], metrics['kendall']) == (0.0, 0.0)


def test_responses_of_equal_grade_make_no_pair_but_their_order_counts_for_the_exact_match():
    metrics = _metrics(((5.0, 4.0, 1.0), (5.0, 5.0, 2.0)))
    assert metrics['pairs'] == 2 and metrics['value'] == 1.0
    assert metrics['exact_match'] == 0.0 and metrics['five_best'] == 1.0


def test_a_missing_verdict_is_wrong_in_every_pair_and_left_out_of_the_ranks():
    # 5 > 2 is right, 5 > 1 and 2 > 1 have no verdict; the ranks of the two others agree.
    metrics = _metrics(((4.0, 3.0, NAN), (5.0, 2.0, 1.0)))
    assert metrics['value'] == pytest.approx(1 / 3) == metrics['pairwise_half']
    assert metrics['exact_match'] == 0.0
    assert metrics['spearman'] == pytest.approx(1.0) and metrics['kendall'] == pytest.approx(1.0)
    silent = _metrics(((NAN, NAN), (5.0, 2.0)))
    assert (silent['value'], silent['pairwise_half'], silent['spearman']) == (0.0, 0.0, 0.0)


def test_five_best_is_the_share_of_perfect_scores_that_went_to_the_best_grade():
    # Scored 5 are grade 4 (the best of its prompt) and 3; in the other prompt, grade 1 of 2.
    rows = ((5.0, 5.0, 1.0), (4.0, 3.0, 1.0)), ((5.0, 4.0), (1.0, 2.0))
    assert _metrics(*rows)['five_best'] == pytest.approx(1 / 3)
    # The only response scored 4 has the best grade of its prompt.
    assert _metrics(*rows, perfect=4.0)['five_best'] == 1.0


def test_rank_correlations_are_scipys_averaged_over_prompts():
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(7) / 2.0, rng.permutation(7)) for _ in range(5)]
    metrics = _metrics(*rows)
    spearman = np.mean([stats.spearmanr(scores, grades).statistic for scores, grades in rows])
    kendall = np.mean([stats.kendalltau(scores, grades).statistic for scores, grades in rows])
    assert metrics['spearman'] == pytest.approx(spearman)
    assert metrics['kendall'] == pytest.approx(kendall)
    # By hand: ranks (1, 2, 3) against (2, 1, 3) have ρ = 1 - 6 · 2 / (3 · 8) and τ = (2 - 1) / 3.
    by_hand = _metrics(((1.0, 2.0, 3.0), (2.0, 1.0, 3.0)))
    assert by_hand['spearman'] == pytest.approx(0.5) and by_hand['kendall'] == pytest.approx(1 / 3)


def test_votes_that_could_not_be_read_are_counted():
    rollout = Rollout(user_prompt('p', 'Q?'), (Response('a'), Response('b')))
    # A response without any vote counts as one missing vote.
    judgement = Judgement(rollout, (1.0, NAN), (), ((1.0, NAN, 1.0), ()))
    assert evals.missing_votes([judgement]) == pytest.approx(2 / 4)
    assert math.isnan(evals.missing_votes([Judgement(rollout, (1.0, 0.0))]))


def _evaluated(evaluation, scores, grades=None):
    """The metrics and judgements of prompts 0, 1, … whose responses have these scores; the sampler
    leaves out a prompt without scores.
    """
    grades = grades or scores
    asked = [
        user_prompt(str(i), 'Q?', task='ab'[i % 2], grades=grades[i]) for i in range(len(scores))
    ]

    def sampler(lm, params, prompts, key):
        counts = [len(scores[int(prompt.id)]) for prompt in prompts]
        return [Rollout(p, (Response('a'),) * count) for p, count in zip(prompts, counts) if count]

    def scorer(lm, params, rollouts, key):
        return [Judgement(r, tuple(scores[int(r.prompt.id)])) for r in rollouts]

    parts = {'prompts': lambda *_: asked, 'sampler': sampler, 'scorer': scorer}
    return evaluation(None, None, jax.random.key(0), **parts)


def test_a_prompt_that_was_left_out_counts_as_wrong():
    metrics, judgements = _evaluated(evals.accuracy, [[1.0], [0.0], [], [1.0, 0.0]])
    assert metrics['value'] == pytest.approx(1.5 / 4) and metrics['n'] == 4 and len(judgements) == 3
    assert metrics['a'] == 0.5 and metrics['b'] == 0.25  # (1 + 0) / 2 and (0 + 0.5) / 2
    assert (metrics['low'], metrics['high']) == evals.wilson(1.5, 4)


def test_accuracy_refuses_what_cannot_be_verified():
    with pytest.raises(ValueError, match="prompt '1'"):
        _evaluated(evals.accuracy, [[1.0], [1.0, NAN]])


def test_the_majority_is_the_most_common_answer_and_the_first_of_two_as_common():
    final_answers = [('7', '8', '8.0', ''), ('7', '8', '', ''), ('', '', '', '')]
    asked = [user_prompt(str(i), 'Q?', 8) for i in range(3)]

    def sampler(lm, params, prompts, key):
        texts = [[f'Final answer: {a}' if a else 'Well.' for a in row] for row in final_answers]
        return [Rollout(p, tuple(map(Response, row))) for p, row in zip(prompts, texts)]

    parts = {'prompts': lambda *_: asked, 'sampler': sampler, 'scorer': scorers.exact_answer}
    metrics, judgements = evals.majority(None, None, jax.random.key(0), **parts)
    assert metrics['value'] == pytest.approx(1 / 3) and metrics['n'] == 3
    assert len(judgements[0].scores) == 4
    assert metrics['agreement'] == pytest.approx((0.5 + 0.25 + 0.0) / 3)


@pytest.mark.parametrize('name', binding.part_names('evals', evals))
def test_every_evaluation_keeps_the_contract(name):
    """(metrics, judgements): floats with a value between the bounds of its interval, and a
    judgement a rollout.
    """
    scores, grades = [[5.0, 0.0], [1.0, 2.0], [3.0, 0.0]], [[5.0, 0.0]] * 3
    metrics, judgements = _evaluated(getattr(evals, name), scores, grades)
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    assert metrics['low'] <= metrics['value'] <= metrics['high']
    assert len(judgements) == 3 and all(isinstance(j, Judgement) for j in judgements)
