"""What a model is worth. The shelf's contract: (lm, params, key, *, prompts, sampler, scorer) ->
(metrics, judgements).

An evaluation is a round without training. `metrics` are floats: 'value' is the headline, 'low' and
'high' its 95 % interval.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from typing import Any

import jax
import numpy as np
from scipy import stats

from selfrew import tasks
from selfrew.types import Judgement

Z_95 = 1.959963984540054  # standard deviations of a 95 % interval


def wilson(right: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of the proportion right / count (Wilson 1927); nans for count = 0."""
    if not count:
        return math.nan, math.nan
    share, z2 = right / count, Z_95 * Z_95
    middle = share + z2 / (2 * count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    low, high = (middle - half) / (1 + z2 / count), (middle + half) / (1 + z2 / count)
    # Exact at both ends, where rounding would be off.
    return 0.0 if right == 0 else low, 1.0 if right == count else high


def _judge_samples(lm, params, key, prompts, sampler, scorer):
    """(prompts, judgements of the responses to them)."""
    k_prompts, k_sampler, k_scorer = jax.random.split(key, 3)
    prompt_list = prompts(lm, params, k_prompts)
    rollouts = sampler(lm, params, prompt_list, k_sampler)
    return prompt_list, scorer(lm, params, rollouts, k_scorer)


def accuracy(lm, params, key, *, prompts, sampler, scorer):
    """The share of prompts with a right response (score at least 0.5), overall and by task.

    Of several responses to a prompt, the share that is right counts. A prompt without a rollout
    counts as wrong. The interval is Wilson's.
    Raises ValueError where a response has no verdict: its prompt has no answer.
    """
    prompt_list, judgements = _judge_samples(lm, params, key, prompts, sampler, scorer)
    return _share_right('accuracy', prompt_list, judgements), judgements


def _share_right(name: str, prompts, judgements) -> dict:
    """The metrics of `accuracy`; `name` is the evaluation's, for the error message."""
    right = {prompt.id: 0.0 for prompt in prompts}
    lengths = []
    for judgement in judgements:
        prompt = judgement.rollout.prompt
        if any(map(math.isnan, judgement.scores)):
            raise ValueError(
                f'{name}: a response to prompt {prompt.id!r} has no verdict; '
                f'does the prompt have an answer?'
            )
        right[prompt.id] = float(np.mean([score >= 0.5 for score in judgement.scores]))
        lengths += [len(response.tokens) for response in judgement.rollout.responses]
    low, high = wilson(sum(right.values()), len(right))
    by_task = defaultdict(list)
    for prompt in prompts:
        by_task[prompt.meta.get('task')].append(right[prompt.id])
    metrics = {'value': sum(right.values()) / len(right), 'low': low, 'high': high, 'n': len(right)}
    metrics |= {
        task: float(np.mean(shares)) for task, shares in sorted(by_task.items(), key=str) if task
    }
    return metrics | {'length': _mean(lengths)}


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def majority(lm, params, key, *, prompts, sampler, scorer):
    """The share of prompts whose most common final answer is right; metrics as in `accuracy`.

    Of equally common answers, the first counts. Responses without a final answer have no vote; a
    prompt without votes counts as wrong. 'agreement' is the mean share of the most common answer.
    """
    prompt_list, judgements = _judge_samples(lm, params, key, prompts, sampler, scorer)
    winners, agreement = [], []
    for judgement in judgements:
        rollout = judgement.rollout
        votes = [tasks.vote(rollout.prompt, response) for response in rollout.responses]
        most_common = Counter(vote for vote in votes if vote is not None).most_common(1)
        index, score = 0, 0.0
        if most_common:
            index = votes.index(most_common[0][0])
            score = judgement.scores[index]
        agreement.append(most_common[0][1] / len(votes) if most_common else 0.0)
        winner = dataclasses.replace(rollout, responses=(rollout.responses[index],))
        winners.append(Judgement(winner, (score,)))
    metrics = _share_right('majority', prompt_list, winners)
    return metrics | {'agreement': _mean(agreement)}, judgements


def judge(lm, params, key, *, prompts, sampler, scorer):
    """A judge against people's grades (`meta['grades']`), by the five metrics of arXiv 2401.10020,
    §2.4 (see `judge_metrics`), and 'parse_failures' (see `missing_votes`).
    """
    _, judgements = _judge_samples(lm, params, key, prompts, sampler, scorer)
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
    return _mean(missing)


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
        'value': _mean(strict),
        'low': low,
        'high': high,
        'pairs': len(strict),
        'pairwise_half': _mean(half),
        'five_best': _mean(best),
        'exact_match': _mean(exact),
        'spearman': _mean(spearman),
        'kendall': _mean(kendall),
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
