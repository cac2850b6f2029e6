"""How well a judge judges, against people's grades."""

import math
from typing import Any

import numpy as np
from scipy import stats

from selfrew.shelves.evals.intervals import mean_of, wilson
from selfrew.shelves.evals.samples import judge_samples


def judge(lm, params, key, *, prompts, sampler, scorer):
    """A judge against people's grades (`meta['grades']`), by the five metrics of arXiv 2401.10020,
    §2.4 (see `judge_metrics`), and 'parse_failures' (see `missing_votes`).
    """
    _, judgements = judge_samples(lm, params, key, prompts, sampler, scorer)
    metrics = judge_metrics([(j.scores, j.rollout.prompt.meta['grades']) for j in judgements])
    return metrics | {'parse_failures': missing_votes(judgements)}, judgements


def missing_votes(judgements) -> float:
    """The share of votes that could not be read; nan where there are no votes.

    A response without any vote counts as one that could not be read. turn_stats.summarize, which
    also reports 'parse_failures', leaves such responses out and counts them as 'unasked'.
    """
    missing = []
    for judgement in judgements:
        for votes in judgement.votes:
            missing += map(math.isnan, votes or (math.nan,))
    return mean_of(missing)


def judge_metrics(rows, perfect: float = 5.0) -> dict:
    """The five metrics of a judge (arXiv 2401.10020, §2.4).

    Args:
      rows: (scores, grades) of the responses to each prompt; a nan score is no verdict.
      perfect: the score of a perfect response.
    Returns:
      value: of the pairs of different grade, the share that the scores order alike; a tie or a
        missing verdict counts as wrong.
      low, high, pairs: the interval of value, and the number of pairs.
      pairwise_half: the same with a tie counted half.
      five_best: of the responses scored `perfect`, the share with the best grade of their prompt.
      exact_match: the share of prompts whose order by score, ties included, is that by grade.
      spearman, kendall: rank correlation within a prompt, averaged; 0 where it is not defined.
    """
    strict, half, best, exact, spearman, kendall = [], [], [], [], [], []
    for row_scores, row_grades in rows:
        scores, grades = np.array(row_scores, float), np.array(row_grades, float)
        i, j = np.triu_indices(len(scores), 1)
        by_score, by_grade = np.sign(scores[i] - scores[j]), np.sign(grades[i] - grades[j])
        alike = by_score == by_grade  # False where a verdict is missing
        differ = by_grade != 0
        strict += alike[differ].tolist()
        half += np.where(by_score == 0, 0.5, alike)[differ].tolist()
        best += (grades[scores == perfect] == grades.max()).tolist()
        exact.append(bool(alike.all()))
        rho, tau = _rank_correlations(scores, grades)
        spearman.append(rho)
        kendall.append(tau)
    low, high = wilson(sum(strict), len(strict))
    return {
        'value': mean_of(strict),
        'low': low,
        'high': high,
        'pairs': len(strict),
        'pairwise_half': mean_of(half),
        'five_best': mean_of(best),
        'exact_match': mean_of(exact),
        'spearman': mean_of(spearman),
        'kendall': mean_of(kendall),
    }


def _rank_correlations(scores, grades) -> tuple[float, float]:
    """(Spearman's ρ, Kendall's τ) of the responses with a verdict.

    (0, 0) where there are fewer than two, or where all scores or all grades are the same.
    """
    valid = ~np.isnan(scores)
    scores, grades = scores[valid], grades[valid]
    if len(set(scores)) < 2 or len(set(grades)) < 2:
        return 0.0, 0.0
    # SciPy's results are not annotated.
    rho: Any = stats.spearmanr(scores, grades)
    tau: Any = stats.kendalltau(scores, grades)
    return float(rho.statistic), float(tau.statistic)
