"""What a model is worth. Layer 7.

The shelf's contract: (lm, params, key, *, prompts, sampler, scorer) -> (metrics, judgements). An
evaluation is a round without training. `metrics` are floats: 'value' is the headline, 'low' and
'high' its 95 % interval.
"""

import dataclasses
import math
from collections import Counter, defaultdict

import jax
import numpy as np
from scipy import stats

from selfrew.tasks import answers
from selfrew.types import Judgement

Z = 1.959963984540054


def wilson(right: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927). (nan, nan) for n = 0."""
    if not n:
        return math.nan, math.nan
    p, z2 = right / n, Z * Z
    middle, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return 0.0 if right == 0 else low, 1.0 if right == n else high  # exactly so, but for rounding


def _judged(lm, params, key, prompts, sampler, scorer):
    k_prompts, k_sampler, k_scorer = jax.random.split(key, 3)
    asked = prompts(lm, params, k_prompts)
    rollouts = sampler(lm, params, asked, k_sampler)
    return asked, scorer(lm, params, rollouts, k_scorer)


def accuracy(lm, params, key, *, prompts, sampler, scorer):
    """The share of prompts whose response is right (score at least 0.5), Wilson's interval, and the
    share by task.

    A prompt that the sampler left out counts as wrong; of several responses, the share that is
    right counts.
    Raises ValueError where a response has no verdict: its prompt came without an answer.
    """
    asked, judgements = _judged(lm, params, key, prompts, sampler, scorer)
    return _share_right('accuracy', asked, judgements), judgements


def _share_right(name: str, asked, judgements) -> dict:
    for j in judgements:
        if any(math.isnan(s) for s in j.scores):
            raise ValueError(
                f'{name}: prompt {j.rollout.prompt.id!r} cannot be verified; has it an answer?'
            )
    right = {p.id: 0.0 for p in asked}
    for j in judgements:
        right[j.rollout.prompt.id] = float(np.mean([s >= 0.5 for s in j.scores]))
    low, high = wilson(sum(right.values()), len(right))
    by_task = defaultdict(list)
    for p in asked:
        by_task[p.meta.get('task')].append(right[p.id])
    lengths = [len(r.tokens) for j in judgements for r in j.rollout.responses]
    metrics = {'value': sum(right.values()) / len(right), 'low': low, 'high': high, 'n': len(right)}
    metrics |= {
        task: float(np.mean(found)) for task, found in sorted(by_task.items(), key=str) if task
    }
    return metrics | {'length': float(np.mean(lengths)) if lengths else math.nan}


def majority(lm, params, key, *, prompts, sampler, scorer):
    """The share of prompts whose most common final answer is right, as `accuracy`; the first of
    those that are as common.

    Responses without a final answer do not vote; where none has one, the prompt counts as wrong.
    """
    asked, judgements = _judged(lm, params, key, prompts, sampler, scorer)
    heard, sizes = [], []
    for j in judgements:
        found = [answers.key(answers.final_answer(r.text)) for r in j.rollout.responses]
        votes = Counter(a for a in found if a is not None).most_common(1)
        chosen = found.index(votes[0][0]) if votes else 0
        sizes.append(votes[0][1] / len(found) if votes else 0.0)
        response, score = j.rollout.responses[chosen], j.scores[chosen] if votes else 0.0
        heard.append(Judgement(dataclasses.replace(j.rollout, responses=(response,)), (score,)))
    metrics = _share_right('majority', asked, heard)
    return metrics | {'agreement': float(np.mean(sizes)) if sizes else math.nan}, judgements


def judge(lm, params, key, *, prompts, sampler, scorer):
    """A judge against graded responses (`meta['grades']`): the five metrics of arXiv 2401.10020,
    §2.4.
    """
    _, judgements = _judged(lm, params, key, prompts, sampler, scorer)
    return judge_metrics([(j.scores, j.rollout.prompt.meta['grades']) for j in judgements]) | {
        'parse_failures': missing_votes(judgements)
    }, judgements


def missing_votes(judgements) -> float:
    """The share of votes that could not be read; nan where nobody voted."""
    votes = [v for j in judgements for mine in j.votes for v in (mine or (math.nan,))]
    return float(np.mean(np.isnan(votes))) if votes else math.nan


def judge_metrics(rows, perfect: float = 5.0) -> dict:
    """The five metrics of a judge. `rows`: (scores, grades) of each prompt's responses; a nan score
    is no verdict.

    value            pairs of different grade that the scores order alike; a tie or a missing
      verdict counts as wrong
    pairwise_half    the same with a tie counted half
    five_best        of the responses scored `perfect`, those of their prompt's best grade
    exact_match      prompts whose whole order, ties included, is the grades'
    spearman, kendall  rank correlation within a prompt, averaged; 0 where the scores are all the
    same or too few
    """
    strict, half, best, exact, rho, tau = [], [], [], [], [], []
    for scores, grades in rows:
        s, g = np.array(scores, float), np.array(grades, float)
        i, j = np.triu_indices(len(s), 1)
        told, true = np.sign(s[i] - s[j]), np.sign(g[i] - g[j])  # nan where a verdict is missing
        differ = true != 0
        strict += list(told[differ] == true[differ])
        half += list(np.where(told[differ] == 0, 0.5, told[differ] == true[differ]))
        best += list(g[s == perfect] == g.max())
        exact.append(bool(np.all(told == true)))
        heard = ~np.isnan(s)
        varied = heard.sum() > 1 and len(set(s[heard])) > 1 and len(set(g[heard])) > 1
        rho.append(stats.spearmanr(s[heard], g[heard]).statistic if varied else 0.0)
        tau.append(stats.kendalltau(s[heard], g[heard]).statistic if varied else 0.0)
    low, high = wilson(sum(strict), len(strict))
    mean = lambda found: float(np.mean(found)) if found else math.nan
    return {
        'value': mean(strict),
        'low': low,
        'high': high,
        'pairs': len(strict),
        'pairwise_half': mean(half),
        'five_best': mean(best),
        'exact_match': mean(exact),
        'spearman': mean(rho),
        'kendall': mean(tau),
    }
