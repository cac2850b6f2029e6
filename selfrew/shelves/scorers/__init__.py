"""How responses are scored. The shelf's contract: (lm, params, rollouts, key, *, …) -> [Judgement].

A higher score is better; nan means 'no verdict'. Each rollout gets one judgement, in order.
Import from it: the parts below; `scorers` is imported whole.
It imports: types, mesh, models, tasks, engine.
"""

from collections.abc import Callable

import numpy as np

from selfrew.shelves.scorers.judging import compare, judge, shortest_judge_prompt
from selfrew.shelves.scorers.reward_models import check_checkpoint, reward_model
from selfrew.shelves.scorers.rules import (
    chance,
    consistency,
    constraints,
    correctness,
    exact_answer,
    given,
    length,
    says_nothing,
    was_cut,
)
from selfrew.types import Judgement

__all__ = [
    'chance',
    'check_checkpoint',
    'compare',
    'composite',
    'consistency',
    'constraints',
    'correctness',
    'exact_answer',
    'given',
    'judge',
    'length',
    'reward_model',
    'shortest_judge_prompt',
    'unread_reason',
]


def unread_reason(scorer) -> Callable:
    """(prompt, response) -> why a response says nothing to a bound scorer, or None.

    One that reads answers, alone or in a composite, needs a conclusion; others need a response that
    was not cut.
    """
    nested = scorer.keywords.get('scorers', ())
    reads_answers = any(part.func in (exact_answer, consistency) for part in (scorer, *nested))
    return says_nothing if reads_answers else was_cut


def _check_weights(*, scorers: tuple, weights: tuple) -> None:
    if len(scorers) != len(weights) or not scorers:
        raise ValueError(
            f'composite: {len(scorers)} scorers and {len(weights)} weights; '
            f'want one weight for each scorer, and at least one scorer'
        )


def composite(lm, params, rollouts, key, *, scorers: tuple, weights: tuple) -> list[Judgement]:
    """The weighted sum of the scores of several scorers, each an entry of this shelf.

    The score is nan where any of them has no verdict. Verdicts and votes are the first scorer's.
    Raises ValueError where the numbers of scorers and weights differ or are 0.
    """
    _check_weights(scorers=scorers, weights=weights)
    columns = [scorer(lm, params, rollouts, key) for scorer in scorers]
    judgements = []
    for parts in zip(*columns):
        scores = np.dot(weights, [part.scores for part in parts])
        first = parts[0]
        judgements.append(
            Judgement(first.rollout, tuple(scores.tolist()), first.verdicts, first.votes)
        )
    return judgements


setattr(composite, 'check_options', _check_weights)  # noqa: B010 (read by running.binding)
