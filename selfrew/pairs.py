"""From scores to examples. Layer 5. The shelf's contract: (judgement, rng, *, …) -> iterator of Example.

Responses of an example stand best first. A response without a verdict (nan) takes no part; a judgement that yields
nothing is counted by the loop.
"""

import math

from selfrew.types import Example, Response


def _valid(judgement) -> list[tuple[float, Response]]:
    """The (score, response) that have a verdict and a text."""
    both = zip(judgement.scores, judgement.rollout.responses)
    return [(s, r) for s, r in both if not math.isnan(s) and (r.text or r.tokens)]


def _shuffled(found: list, rng) -> list:
    return [found[i] for i in rng.permutation(len(found))]


def singles(judgement, rng, *, at_least: float | None = None, cap: int | None = None):
    """Each response alone, or those that score at least `at_least`, at most `cap` of them drawn at random: for SFT."""
    found = [(s, r) for s, r in _valid(judgement) if at_least is None or s >= at_least]
    found = found if cap is None else _shuffled(found, rng)[:cap]
    for score, response in found:
        yield Example(judgement.rollout.prompt, (response,), (score,))


def extremes(judgement, rng, *, count: int = 1, keep_last: bool = False):
    """The highest scored against the lowest (arXiv 2401.10020, §2.2); dropped where they are equal.

    Args:
      count: up to so many pairs of *different* best and worst responses; ties among the best and the worst are drawn.
      keep_last: the rollout's last response follows as a third, whatever its score (SELM's explored one; see
        samplers.with_greedy).
    """
    found = _valid(judgement)
    best, worst = max((s for s, _ in found), default=0.0), min((s for s, _ in found), default=0.0)
    if best == worst:
        return
    top = _shuffled([r for s, r in found if s == best], rng)
    bottom = _shuffled([r for s, r in found if s == worst], rng)
    third = judgement.rollout.responses[-1:] if keep_last else ()
    different = [(w, l) for w, l in zip(top, bottom) if w.text != l.text]  # a wavering judge can tell twins apart
    for winner, loser in different[:count]:
        scores = (best, worst) + judgement.scores[-1:] * keep_last
        yield Example(judgement.rollout.prompt, (winner, loser) + third, scores)


def right_vs_wrong(judgement, rng, *, count: int = 10, threshold: float = 0.5, gold: bool = False):
    """Right against wrong responses, walked together (arXiv 2404.19733, §2): the shorter list starts again at its end.

    Args:
      count: K, pairs of this prompt; fewer where the walk comes back to its first pair before.
      threshold: a score of at least this is right.
      gold: the responses that came with the prompt (`meta['responses']`) join the right ones (GSM8K's gold solutions).
    """
    del rng
    prompt, found = judgement.rollout.prompt, _valid(judgement)
    right = [(s, r) for s, r in found if s >= threshold]
    wrong = [(s, r) for s, r in found if s < threshold]
    if gold:
        right += [(1.0, Response(text)) for text in prompt.meta.get('responses', ())]
    if not right or not wrong:
        return
    for i in range(min(count, math.lcm(len(right), len(wrong)))):
        (high, winner), (low, loser) = right[i % len(right)], wrong[i % len(wrong)]
        yield Example(prompt, (winner, loser), (high, low))
