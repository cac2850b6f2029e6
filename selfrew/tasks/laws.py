"""What alignment makes of the law of responses to a prompt: best-of-n, tilted laws, and their KL.

Everything is numpy in float64. A law over K outcomes is [K] probabilities, with a reward for each.
KL is from the reference, in nats.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special


def kl(law, reference) -> float:
    """KL(law ‖ reference) over the same outcomes; inf outside the reference's support."""
    return float(np.sum(special.rel_entr(law, reference)))


def best_of_n_law(reference, rewards, n: int, *, ties: str = 'order') -> np.ndarray:
    """The law of the best of n independent draws (arXiv 2401.01879, Lemma 1): F(y)^n − F⁻(y)^n.

    Args:
      reference: [K], rewards: [K].
      ties: 'order': of equal rewards the later outcome counts as better, a fixed order; 'first': of
        equal rewards the first that was drawn is taken, which costs no KL beyond that of the
        rewards.
    Raises ValueError for another `ties`.
    """
    reference, rewards = np.asarray(reference, np.float64), np.asarray(rewards, np.float64)
    if ties == 'order':
        order = np.argsort(rewards, kind='stable')
        law = np.empty_like(reference)
        law[order] = _powers(reference[order], n)
        return law
    if ties != 'first':
        raise ValueError(f"no ties {ties!r}; there are: 'order', 'first'")
    levels, level_of = np.unique(rewards, return_inverse=True)
    mass = np.bincount(level_of, reference, len(levels))
    share = np.divide(_powers(mass, n), mass, out=np.zeros_like(mass), where=mass > 0)
    return reference * share[level_of]


def _powers(sorted_law, n: int) -> np.ndarray:
    """F^n − F⁻^n of each outcome, from the least on."""
    cumulative = np.minimum(np.cumsum(sorted_law) / np.sum(sorted_law), 1.0)
    return np.diff(np.concatenate([[0.0], cumulative]) ** n)


def kl_bound(n):
    """log n − (n − 1)/n, which the KL of best-of-n never exceeds (arXiv 2401.01879, Thm. 3.1)."""
    return np.log(n) - (np.asarray(n) - 1) / n


def kl_estimate(logp, n) -> np.ndarray:
    """The estimator of best-of-n's KL from the log-probs of selected samples (arXiv 2401.01879,
    §4); its mean over selections is between the KL and `kl_bound`, as far as anyone has seen.

    (1−ε)ⁿ(log n + (n−1) log(1−ε) − (n−1)/n) + (1−(1−ε)ⁿ) log((1−(1−ε)ⁿ)/ε), with ε = exp(logp).

    logp: nats, of whole responses under the law that drew them. Where ε underflows it is
      `kl_bound`.
    """
    logp, n = np.broadcast_arrays(np.asarray(logp, np.float64), np.asarray(n, np.float64))
    eps = np.exp(np.minimum(logp, 0.0))
    is_sure = eps >= 1.0  # a single outcome: no KL
    log_rest = np.log1p(-np.where(is_sure, 0.0, eps))  # log(1 − ε)
    not_drawn, drawn = np.exp(n * log_rest), -np.expm1(n * log_rest)
    is_plain = ~is_sure & (n * eps > 1e-12)  # else (1 − (1−ε)ⁿ)/ε is n
    log_drawn = np.log(np.where(is_plain, drawn, 1.0))
    ratio = np.where(is_plain, log_drawn - np.where(is_plain, logp, 0.0), np.log(n))
    first = not_drawn * (np.log(n) + (n - 1) * log_rest - (n - 1) / n)
    return np.where(is_sure, 0.0, first + drawn * ratio)


def selection_weights(count: int, n: int) -> np.ndarray:
    """[count] How likely each of `count` samples, from the worst on, is the best of a random subset
    of n: C(i − 1, n − 1) / C(count, n). Mean values under it are unbiased for the best of n draws.

    Raises ValueError unless 1 <= n <= count.
    """
    if not 1 <= n <= count:
        raise ValueError(f'the best of n={n} from {count} samples: want 1 to {count}')
    return np.exp(_log_choose(np.arange(count), n - 1) - _log_choose(count, n))


def _log_choose(total, n):
    """log C(total, n); −inf where n > total."""
    total = np.asarray(total, np.float64)
    fits = total >= n
    safe = np.where(fits, total, n)
    choose = special.gammaln(safe + 1) - special.gammaln(n + 1) - special.gammaln(safe - n + 1)
    return np.where(fits, choose, -np.inf)


def best_of_n_win_rate(scores, n: int) -> float:
    """How often the best of n beats one more draw of the same law, a tie counting half; unbiased,
    from all subsets of n + 1 of these scores. n/(n + 1) where no two scores are equal.

    nan where there are no n + 1 scores.
    """
    scores = np.sort(np.asarray(scores, np.float64))
    others = len(scores) - 1
    if n > others:
        return math.nan
    below = np.searchsorted(scores, scores, 'left')
    up_to = np.searchsorted(scores, scores, 'right') - 1  # without the opponent itself
    log_all = _log_choose(others, n)
    loses = np.exp(_log_choose(below, n) - log_all)
    loses_or_ties = np.exp(_log_choose(up_to, n) - log_all)
    return float(np.mean(1.0 - 0.5 * (loses + loses_or_ties)))


def win_rate(law, reference, rewards) -> float:
    """How often a draw of `law` beats one of `reference`, a tie counting half; all [K]."""
    levels, level_of = np.unique(rewards, return_inverse=True)
    own, other = (np.bincount(level_of, x, len(levels)) for x in (law, reference))
    below = np.cumsum(other) - other
    return float(np.sum(own * (below + 0.5 * other)))


def tilted_law(reference, rewards, beta: float) -> np.ndarray:
    """π_ref · exp(r / β), normalised: the highest expected reward at its KL. beta: may be inf."""
    logits = np.log(np.maximum(reference, 1e-300)) + np.asarray(rewards, np.float64) / beta
    return np.where(np.asarray(reference) > 0, special.softmax(logits), 0.0)


class Tilted(NamedTuple):
    """A tilted law, estimated from samples of the reference."""

    reward: float
    kl: float
    effective_samples: float  # 1 / Σ w², Kish's; with few, the other two mean little


def tilted_estimate(rewards, beta: float) -> Tilted:
    """`tilted_law` by self-normalised importance weights, from the reference's samples."""
    rewards = np.asarray(rewards, np.float64)
    weights = special.softmax(rewards / beta)
    kl_value = float(np.sum(special.xlogy(weights, weights * len(weights))))
    return Tilted(float(weights @ rewards), kl_value, float(1.0 / np.sum(weights**2)))


def ceiling(references, rewards, kl_value: float) -> float:
    """The highest mean reward over prompts that any laws reach whose mean KL is `kl_value`: that of
    the laws tilted with one β.

    references, rewards: of each prompt, [K]. Where the KL is larger than that of always taking the
    best outcome, it is that reward.
    """

    def point(log_beta: float) -> tuple[float, float]:
        laws = [tilted_law(p, r, math.exp(log_beta)) for p, r in zip(references, rewards)]
        kls = [kl(law, reference) for law, reference in zip(laws, references)]
        means = [float(law @ np.asarray(r)) for law, r in zip(laws, rewards)]
        return float(np.mean(means)), float(np.mean(kls))

    spread = max(float(np.ptp(r)) for r in rewards)
    if kl_value <= 0 or spread == 0:
        return point(math.inf)[0] if spread == 0 else point(60.0 + math.log(spread))[0]
    low, high = math.log(spread) - 9.0, math.log(spread) + 18.0
    if point(low)[1] <= kl_value:
        return point(low)[0]
    found = optimize.root_scalar(
        lambda log_beta: point(log_beta)[1] - kl_value, bracket=(low, high), xtol=1e-10
    )
    return point(found.root)[0]
