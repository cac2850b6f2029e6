"""Scores by rule, without a model: grades from the data, exact answers, votes, length, chance."""

import math

from selfrew import tasks
from selfrew.mesh import keys
from selfrew.tasks import verdicts
from selfrew.tasks.constraints import are_kept
from selfrew.types import Judgement


def _score_each(rollouts, score) -> list[Judgement]:
    """Judgements with score(prompt, response) -> float of each response."""
    return [
        Judgement(rollout, tuple(float(score(rollout.prompt, r)) for r in rollout.responses))
        for rollout in rollouts
    ]


def given(lm, params, rollouts, key) -> list[Judgement]:
    """The grades in the data (`meta['grades']`, None for no verdict); 1 for each response of a
    prompt without grades.

    Demonstrations without grades are thus trusted.
    Raises ValueError where a prompt's grades and responses differ in number.
    """
    del lm, params, key
    judgements = []
    for rollout in rollouts:
        responses = rollout.responses
        grades = rollout.prompt.meta.get('grades', [1.0] * len(responses))
        if len(grades) != len(responses):
            raise ValueError(
                f'prompt {rollout.prompt.id!r} has {len(grades)} grades '
                f'and {len(responses)} responses; want one grade for each response'
            )
        scores = tuple(math.nan if grade is None else float(grade) for grade in grades)
        judgements.append(Judgement(rollout, scores))
    return judgements


def exact_answer(lm, params, rollouts, key) -> list[Judgement]:
    """1 where a response is right, 0 where it is wrong, nan where the prompt has no answer.

    What a response concludes with is compared with the prompt's answer, or with each of a list, as
    the form of its task says (see tasks.answers). A response that was cut has not concluded.
    """
    del lm, params, key
    return _score_each(rollouts, correctness)


def was_cut(prompt, response) -> str | None:
    """That a response was cut, or None."""
    del prompt
    return None if response.finish == 'stop' else 'cut by max_tokens'


def says_nothing(prompt, response) -> str | None:
    """Why a response has no conclusion that `exact_answer` or `consistency` could read; or None."""
    if (cut := was_cut(prompt, response)) is not None:
        return cut
    if 'judged' in prompt.meta:
        low, high = prompt.meta['points']
        return 'no score' if math.isnan(verdicts.score(response, low=low, high=high)) else None
    return 'no conclusion' if tasks.conclusion(prompt, response) is None else None


def correctness(prompt, response) -> float:
    """1, 0 or nan, see `exact_answer`."""
    return math.nan if prompt.answer is None else float(tasks.is_right(prompt, response))


def consistency(lm, params, rollouts, key) -> list[Judgement]:
    """The share of a prompt's responses with the same final answer (ScPO, arXiv 2411.04109, §2).

    No ground truth is used. A response without a final answer scores 0: it has no vote, not even
    for itself. For verdicts (see prompts.judged) the answer is the score that they conclude with;
    an unreadable verdict has no vote and scores nan.
    """
    del lm, params, key
    return [Judgement(rollout, tuple(_vote_shares(rollout))) for rollout in rollouts]


def _vote_shares(rollout) -> list[float]:
    if 'judged' in rollout.prompt.meta:
        scores = verdicts.scores(rollout)
        return [math.nan if math.isnan(s) else scores.count(s) / len(scores) for s in scores]
    votes = [tasks.vote(rollout.prompt, response) for response in rollout.responses]
    return [0.0 if vote is None else votes.count(vote) / len(votes) for vote in votes]


def constraints(lm, params, rollouts, key) -> list[Judgement]:
    """The share of a prompt's constraints that a response keeps; nan for a prompt that has none.

    prompts.constrained makes such prompts. A response that was cut keeps none: how it would have
    ended is not known.
    """
    del lm, params, key
    return _score_each(rollouts, _kept_share)


def _kept_share(prompt, response) -> float:
    """The share of a prompt's constraints that a response keeps, see `constraints`."""
    asked = prompt.meta.get('constraints')
    if not asked:
        return math.nan
    if was_cut(prompt, response):
        return 0.0
    return sum(are_kept(asked, response.text)) / len(asked)


def length(lm, params, rollouts, key, *, target: int | None = None) -> list[Judgement]:
    """The length of a response in tokens; with a `target`, minus the distance to it."""
    del params, key

    def score(prompt, response):
        tokens = len(response.tokens) or len(lm.text.encode(response.text))
        return tokens if target is None else -abs(tokens - target)

    return _score_each(rollouts, score)


def chance(lm, params, rollouts, key, *, levels: int = 6) -> list[Judgement]:
    """Random whole scores from 0 to levels − 1: a control to measure a judge against."""
    del lm, params
    rng = keys.numpy_rng(key)
    judgements = []
    for rollout in rollouts:
        scores = rng.integers(levels, size=len(rollout.responses))
        judgements.append(Judgement(rollout, tuple(map(float, scores))))
    return judgements
