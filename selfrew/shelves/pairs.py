"""From scores to examples. Layer 5. The shelf's contract: (judgement, rng, *, …) -> iterator of
Example.

Responses of an example stand best first. A response without a verdict (nan) takes no part; a
judgement that yields nothing is counted by the loop.
"""

import math

from selfrew.tasks import templates
from selfrew.types import Example, Response, ask


def _valid(judgement) -> list[tuple[float, Response]]:
    """The (score, response) that have a verdict and a text."""
    both = zip(judgement.scores, judgement.rollout.responses)
    return [(s, r) for s, r in both if not math.isnan(s) and (r.text or r.tokens)]


def _shuffled(found: list, rng) -> list:
    return [found[i] for i in rng.permutation(len(found))]


def singles(judgement, rng, *, at_least: float | None = None, cap: int | None = None):
    """Each response alone, or those that score at least `at_least`, at most `cap` of them drawn at
    random: for SFT.
    """
    found = [(s, r) for s, r in _valid(judgement) if at_least is None or s >= at_least]
    found = found if cap is None else _shuffled(found, rng)[:cap]
    for score, response in found:
        yield Example(judgement.rollout.prompt, (response,), (score,))


def extremes(
    judgement,
    rng,
    *,
    count: int = 1,
    keep_last: bool = False,
    rho: float | None = None,
    longest: int | None = None,
    at_least: float | None = None,
    weigh: bool = False,
):
    """The highest scored against the lowest (arXiv 2401.10020, §2.2); dropped where they are equal.

    Args:
      count: up to so many pairs of *different* best and worst responses; ties among the best and
        the worst are drawn.
      keep_last: the rollout's last response follows as a third, whatever its score (SELM's explored
        one; see samplers.with_greedy).
      rho: length control of Meta-Rewarding (arXiv 2407.19594, §2.1), from 0 to 0.5: as the best
        counts what lies within this share of the range of scores from the top, the shortest first;
        as the worst what lies as near to the bottom, the longest first. None: no eye on lengths.
      longest: no winner with more characters. at_least: no winner that scores less (ScPO's τ, arXiv
        2411.04109, §2).
      weigh: an example weighs as much as its scores differ (ScPO's vote margin), not 1.
    Raises ValueError for another rho.
    """
    check_rho(rho)
    found = _valid(judgement)
    best, worst = max((s for s, _ in found), default=0.0), min((s for s, _ in found), default=0.0)
    if best == worst:
        return
    near = (rho or 0.0) * (best - worst)
    top = _shuffled([(s, r) for s, r in found if s >= best - near], rng)
    bottom = _shuffled([(s, r) for s, r in found if s <= worst + near], rng)
    if rho is not None:
        top.sort(key=lambda scored: len(scored[1].text))
        bottom.sort(key=lambda scored: -len(scored[1].text))
    top = [
        (s, r)
        for s, r in top
        if (longest is None or len(r.text) <= longest) and (at_least is None or s >= at_least)
    ]
    third = judgement.rollout.responses[-1:] if keep_last else ()
    # A wavering judge can tell twins apart; and where rho is a half, the two may score alike.
    different = [(w, l) for w, l in zip(top, bottom) if w[1].text != l[1].text and w[0] > l[0]]
    for (high, winner), (low, loser) in different[:count]:
        scores = (high, low) + judgement.scores[-1:] * keep_last
        yield Example(
            judgement.rollout.prompt, (winner, loser) + third, scores, high - low if weigh else 1.0
        )


def agreeing(judgement, rng, *, template: str, count: int = 1):
    """A judge's own verdicts, to imitate: those whose ranking agrees with the grades people gave
    (EFT, 2401.10020, §3.1).

    Of the votes, the first of each response together are one ranking, and so on; it agrees where
    any two responses of different grade have scores that differ in the same way. The examples are
    judge prompts, each with its verdict.

    Args:
      template: the one that the scorer judged with. count: rankings of a prompt that are kept, at
        most.
    Raises ValueError where the prompt has not as many grades as responses.
    """
    del rng
    prompt, responses = judgement.rollout.prompt, judgement.rollout.responses
    grades, kept = prompt.meta.get('grades', ()), 0
    if len(grades) != len(responses):
        raise ValueError(
            f'prompt {prompt.id!r} has {len(grades)} grades and {len(responses)} responses'
        )
    apart = [(i, j) for i, a in enumerate(grades) for j, b in enumerate(grades) if a > b]
    for vote, scores in enumerate(zip(*judgement.votes)):
        if kept == count:
            return
        if any(map(math.isnan, scores)) or not all(scores[i] > scores[j] for i, j in apart):
            continue
        kept += 1
        for i, (response, score) in enumerate(zip(responses, scores)):
            asked = ask(
                f'{prompt.id}/{i}/{vote}',
                templates.render(template, prompt=prompt.text, response=response.text),
            )
            yield Example(asked, (Response(judgement.verdicts[i][vote]),), (score,))


def check_rho(rho: float | None) -> None:
    """ValueError where it is no share of the range of scores, at most half of it."""
    if rho is not None and not 0 <= rho <= 0.5:
        raise ValueError(f'rho={rho}: want 0 to 0.5, or None')


def right_vs_wrong(judgement, rng, *, count: int = 10, threshold: float = 0.5, gold: bool = False):
    """Right against wrong responses, walked together (arXiv 2404.19733, §2): the shorter list
    starts again at its end.

    Args:
      count: K, pairs of this prompt; fewer where the walk comes back to its first pair before.
      threshold: a score of at least this is right.
      gold: the responses that came with the prompt (`meta['responses']`) join the right ones
        (GSM8K's gold solutions).
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
