"""Evaluations on the plane of reward and KL, on which alignment methods are compared."""

import math

import jax
import numpy as np

from selfrew.engine.response_logps import token_logps
from selfrew.shelves.evals.intervals import mean_of, student
from selfrew.shelves.evals.samples import judge_samples
from selfrew.tasks import laws
from selfrew.types import Judgement


def check_sizes(sizes: tuple) -> None:
    """Raises ValueError unless these are different numbers of samples."""
    numbers = [n for n in sizes if isinstance(n, int) and not isinstance(n, bool) and n >= 1]
    if not sizes or len(set(numbers)) < len(sizes):
        raise ValueError(f'{sizes}: want different whole numbers from 1 on, at least one')


def check_strengths(strengths: tuple) -> None:
    """Raises ValueError unless these are different numbers above 0."""
    numbers = [s for s in strengths if isinstance(s, (int, float)) and not isinstance(s, bool)]
    if len(set(numbers)) < len(strengths) or not all(0 < s < math.inf for s in numbers):
        raise ValueError(f'{strengths}: want different numbers above 0')


def best_of_n(lm, params, key, *, prompts, sampler, scorer, sizes: tuple, strengths: tuple = ()):
    """What the best of N samples is worth, for each N in `sizes`, from one pool of samples a
    prompt; and what tilting the same law reaches.

    For each N: 'reward/N', the mean score of the best, unbiased, from all subsets of N;
    'win_rate/N' against one more sample, a tie counting half (with no ties it is N/(N + 1); nan for
    the whole pool); 'kl_bound/N', log N − (N − 1)/N; and 'kl/N', the tighter estimate (arXiv
    2401.01879, §4), nan where the sampler's law has no log-probs. Equal scores are ordered by their
    tokens; the sampler best_of_n, which takes the first of them, costs less KL.

    For each λ in `strengths`: 'tilted_reward/λ' and 'tilted_kl/λ' of the law π exp(λ r), which no
    other law exceeds at that KL, by self-normalised importance weights; they mean little where
    'tilted_samples/λ', the effective number of samples, is small.

    'value' is the reward of the largest N, with Student's interval over prompts; 'n' prompts count.
    Prompts with fewer responses than that which have a verdict are left out; 'left_out' is their
    share.

    Args:
      sampler: its number of responses is that of the pool, at least the largest of `sizes`.
      sizes: numbers of samples. strengths: of the tilt, 1/β.
    Raises ValueError where no prompt has so many responses with a verdict.
    """
    prompt_list, judgements = judge_samples(lm, params, key, prompts, sampler, scorer)
    largest = max(sizes)
    pools = [pool for pool in map(_pool, judgements) if len(pool[0]) >= largest]
    if not pools:
        raise ValueError(
            f'best_of_n: no prompt has {largest} responses with a verdict; raise sampler.n'
        )
    metrics, best = {}, []
    for n in sizes:
        rows = []
        for scores, logps in pools:
            weights = laws.selection_weights(len(scores), n)
            estimate = float(weights @ laws.kl_estimate(logps, n))
            rows.append((float(weights @ scores), laws.best_of_n_win_rate(scores, n), estimate))
        rewards, wins, kls = zip(*rows)
        best = list(rewards) if n == largest else best
        metrics |= {
            f'reward/{n}': mean_of(rewards),
            f'win_rate/{n}': mean_of(wins),
            f'kl/{n}': mean_of(kls),
            f'kl_bound/{n}': float(laws.kl_bound(n)),
        }
    for strength in strengths:
        tilted = [laws.tilted_estimate(scores, 1.0 / strength) for scores, _ in pools]
        metrics |= {
            f'tilted_reward/{strength:g}': mean_of([each.reward for each in tilted]),
            f'tilted_kl/{strength:g}': mean_of([each.kl for each in tilted]),
            f'tilted_samples/{strength:g}': mean_of([each.effective_samples for each in tilted]),
        }
    low, high = student(best)
    headline = {'value': mean_of(best), 'low': low, 'high': high, 'n': len(best)}
    left_out = 1.0 - len(pools) / len(prompt_list)
    return headline | metrics | {'left_out': left_out}, judgements


def _pool(judgement: Judgement) -> tuple[np.ndarray, np.ndarray]:
    """(scores, log-probs under the law that drew them) of the responses with a verdict, from the
    worst on; a log-prob is nan where it is not known.
    """
    known = [
        (
            score,
            response.tokens,
            math.nan if response.sampled_logp is None else response.sampled_logp,
        )
        for score, response in zip(judgement.scores, judgement.rollout.responses)
        if not math.isnan(score)
    ]
    known.sort(key=lambda each: each[:2])
    return np.array([score for score, *_ in known]), np.array([logp for *_, logp in known])


def reward_kl(lm, params, key, *, prompts, sampler, scorer, base_sampler):
    """Where a policy and its sampler lie: the mean score, how often it beats the base, and its KL
    from the base.

    'value' is the mean over prompts of the mean score, with Student's interval. 'win_rate' is how
    often a response beats one of the base to the same prompt, over all pairs of the two, a tie
    counting half; 'base_reward' the base's mean score. 'kl' is the mean over prompts of log q(y|x)
    − log π_base(y|x), q the law that drew y (with temperature, truncation and token-wise control),
    with Student's interval 'kl_low' to 'kl_high'; nan where q has no log-probs (samplers.blockwise,
    best_of_n: their bounds are in laws.kl_bound). Responses without a verdict are left out of
    rewards and wins; 'no_verdict' is their share.

    The base, the model before any training, lies in memory beside the policy, except with adapters.

    Args:
      base_sampler: an entry of the shelf samplers, with which the base is sampled.
    """
    k_policy, k_base = jax.random.split(key)
    prompt_list, judgements = judge_samples(lm, params, k_policy, prompts, sampler, scorer)
    base = lm.base_of(params)
    rollouts = base_sampler(lm, base, prompt_list, jax.random.fold_in(k_base, 0))
    base_scores = {
        j.rollout.prompt.id: _known(j)
        for j in scorer(lm, base, rollouts, jax.random.fold_in(k_base, 1))
    }
    rewards, wins, unread = [], [], []
    for judgement in judgements:
        own, other = _known(judgement), base_scores.get(judgement.rollout.prompt.id, [])
        unread += map(math.isnan, judgement.scores)
        rewards += [mean_of(own)] if own else []
        if own and other:
            beaten = np.subtract.outer(own, other)
            wins.append(float(np.mean((beaten > 0) + 0.5 * (beaten == 0))))
    low, high = student(rewards)
    metrics = {'value': mean_of(rewards), 'low': low, 'high': high, 'n': len(rewards)}
    metrics |= {'win_rate': mean_of(wins)} | _interval('win_rate', wins)
    metrics['base_reward'] = mean_of([mean_of(scores) for scores in base_scores.values() if scores])
    kls = _kls(lm, base, judgements)
    metrics |= {'kl': mean_of(kls)} | _interval('kl', kls)
    lengths = [len(r.tokens) for j in judgements for r in j.rollout.responses]
    return metrics | {'no_verdict': mean_of(unread), 'length': mean_of(lengths)}, judgements


def _interval(name: str, values) -> dict:
    low, high = student(values)
    return {f'{name}_low': low, f'{name}_high': high}


def _known(judgement: Judgement) -> list[float]:
    return [score for score in judgement.scores if not math.isnan(score)]


def _kls(lm, base, judgements) -> list[float]:
    """For each prompt, the mean of log q − log π_base of its responses; [] where q is not known."""
    pairs = [(j.rollout.prompt, response) for j in judgements for response in j.rollout.responses]
    if any(response.sampled_logp is None for _, response in pairs):
        return []
    logps = token_logps(lm, base, pairs)
    ratios = iter(
        [r.sampled_logp - float(logps[i].sum(dtype=np.float64)) for i, (_, r) in enumerate(pairs)]
    )
    return [mean_of([next(ratios) for _ in j.rollout.responses]) for j in judgements]
