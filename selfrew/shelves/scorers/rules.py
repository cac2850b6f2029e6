"""Scores by rule, without a model: grades from the data, exact answers, votes, length, chance."""

import math

from selfrew import tasks
from selfrew.mesh import keys
from selfrew.tasks import answers
from selfrew.types import Judgement


def _score_each(rollouts, score) -> list[Judgement]:
    """Judgements with score(prompt, response) -> float of each response."""
    return [
        Judgement(rollout, tuple(float(score(rollout.prompt, r)) for r in rollout.responses))
        for rollout in rollouts
    ]


def given(lm, params, rollouts, key) -> list[Judgement]:
    """The grades in the data (`meta['grades']`); 1 for each response of a prompt without grades.

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
        judgements.append(Judgement(rollout, tuple(map(float, grades))))
    return judgements


def exact_answer(lm, params, rollouts, key) -> list[Judgement]:
    """1 where a response is right, 0 where it is wrong, nan where the prompt has no answer.

    A built-in task judges its own responses. Otherwise the final answer (after the last 'Final
    answer:' or '####', or in the last \\boxed{}) is compared with the prompt's: as numbers where
    both are numbers, else as text without case.
    """
    del lm, params, key
    return _score_each(rollouts, lambda prompt, response: correctness(prompt, response.text))


def correctness(prompt, response: str) -> float:
    """1, 0 or nan, see `exact_answer`."""
    if prompt.answer is None:
        return math.nan
    if 'task' in prompt.meta:
        return float(tasks.is_right(prompt, response))
    reference = answers.reference_answer(str(prompt.answer))
    return float(answers.same(answers.final_answer(response), reference))


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
        scores = answers.scores(rollout)
        return [math.nan if math.isnan(s) else scores.count(s) / len(scores) for s in scores]
    final = [answers.key(answers.final_answer(r.text)) for r in rollout.responses]
    return [0.0 if answer is None else final.count(answer) / len(final) for answer in final]


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
