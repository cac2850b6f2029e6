"""Whether responses keep limits of words, and what they are worth within them."""

import dataclasses
import math
from typing import NamedTuple

import jax

from selfrew.shelves.evals.intervals import mean_of, wilson
from selfrew.tasks import words
from selfrew.types import Judgement, Prompt, Response, Rollout


def check_scales(scales: tuple) -> None:
    """Raises ValueError unless these are different numbers above 0, and words can be counted."""
    words.check_installed()
    numbers = [s for s in scales if isinstance(s, (int, float)) and not isinstance(s, bool)]
    if not scales or len(numbers) < len(scales) or not all(s > 0 for s in numbers):
        raise ValueError(f'{scales}: want numbers above 0, at least one')
    if len(set(numbers)) < len(numbers):
        raise ValueError(f'{scales}: want different numbers')


def length_limits(
    lm,
    params,
    key,
    *,
    prompts,
    sampler,
    scorer,
    scales: tuple,
    least: int = 1,
    template: str = 'length_limit',
):
    """Answers to prompts with a limit of words (arXiv 2406.17744, §5).

    A prompt's target is the fewest words of the responses that come with it, and the shortest one
    the baseline. The limit is the target times a scale, rounded down, at least 1. A response beats
    the baseline if the scorer prefers it; a tie is half a win; one with more words than the limit
    loses, whatever it says. The scorer is shown the prompt without the limit.

    'value' is the share of wins at the first scale, with Wilson's interval. For each scale s,
    'wins/s', 'violations/s' (the share of responses over the limit) and 'words/s' (their mean
    length); 'no_verdict' is the share of responses within the limit that the scorer gave no
    verdict on, over all scales; they are left out of the wins.

    Args:
      prompts: with responses in meta['responses'], as of prompts.records or prompts.problems.
      sampler: one response is taken of each prompt.
      least: only prompts whose target is at least so many words are asked.
      scales: factors of the target, the first for the headline.
      template: see pairs.length_limited.
    Raises ValueError where no prompt comes with a response of so many words.
    """
    k_prompts, *k_scales = jax.random.split(key, 1 + 2 * len(scales))
    asked = [made for made in map(_asked, prompts(lm, params, k_prompts)) if made.target >= least]
    if not asked:
        raise ValueError(f'length_limits: no prompt comes with responses of {least} or more words')
    metrics, judgements, unread = {}, [], []
    for i, scale in enumerate(scales):
        limited = [
            words.limited(each.prompt, _scaled(each.target, scale), template) for each in asked
        ]
        rollouts = sampler(lm, params, limited, k_scales[2 * i])
        answers = {rollout.prompt.id: rollout for rollout in rollouts}
        pairs = [
            (each, answers[name.id]) for each, name in zip(asked, limited) if name.id in answers
        ]
        outcomes, counts = _outcomes(lm, params, pairs, scorer, k_scales[2 * i + 1])
        known = [win for win in outcomes if not math.isnan(win)]
        over = [n > rollout.prompt.meta['limit'] for n, (_, rollout) in zip(counts, pairs)]
        unread += [math.isnan(win) for win, is_over in zip(outcomes, over) if not is_over]
        metrics[f'wins/{scale:g}'] = mean_of(known)
        metrics[f'violations/{scale:g}'] = mean_of(over)
        metrics[f'words/{scale:g}'] = mean_of(counts)
        if i == 0:
            low, high = wilson(sum(known), len(known))
            metrics |= {'value': mean_of(known), 'low': low, 'high': high, 'n': len(known)}
        judgements += [
            Judgement(dataclasses.replace(rollout, responses=rollout.responses[:1]), (win,))
            for (_, rollout), win in zip(pairs, outcomes)
        ]
    return metrics | {'no_verdict': mean_of(unread)}, judgements


class _Asked(NamedTuple):
    prompt: Prompt  # without a limit
    baseline: str  # the shortest response that comes with it; '' without any
    target: int  # the baseline's words


def _asked(prompt: Prompt) -> _Asked:
    counts = {text: words.count_words(text) for text in prompt.meta.get('responses', ('',))}
    baseline = min(counts, key=counts.__getitem__)
    return _Asked(prompt, baseline, counts[baseline])


def _scaled(target: int, scale: float) -> int:
    """The target times a scale, rounded down, at least 1."""
    # 0.7 * 90 is 62.99…9 in binary, and means 63.
    return max(1, math.floor(round(scale * target, 6)))


def _outcomes(lm, params, pairs, scorer, key) -> tuple[list[float], list[int]]:
    """(a win, half a win or none of each response, nan without a verdict; its words).

    pairs: (what was asked, the rollout with the limit).
    """
    counts = [words.count_words(rollout.responses[0].text) for _, rollout in pairs]
    met = [
        Rollout(each.prompt, (rollout.responses[0], Response(each.baseline)))
        for count, (each, rollout) in zip(counts, pairs)
        if count <= rollout.prompt.meta['limit']
    ]
    judgements = iter([*scorer(lm, params, met, key)] if met else [])
    outcomes = []
    for count, (_, rollout) in zip(counts, pairs):
        if count > rollout.prompt.meta['limit']:
            outcomes.append(0.0)
        else:
            own, other = next(judgements).scores
            is_known = not (math.isnan(own) or math.isnan(other))
            outcomes.append(0.5 * ((own > other) + (own >= other)) if is_known else math.nan)
    return outcomes, counts
