"""What a judge concludes with: a score, or a winner."""

import math
import re

from selfrew.types import Response, Rollout

SCORE = re.compile(r'(?<![a-z])score[*_]*\s*:[*_ \t]*', re.IGNORECASE)
SCORE_NUMBER = re.compile(
    r'(-?\d+(?:\.\d+)?)(?: ?(?:/|(?:out )?of) ?(\d+))?(?: ?points?)?[*_]*[ \t]*(?:[.;)](?!\S).*)?$',
    re.IGNORECASE | re.MULTILINE,
)
WINNER = re.compile(
    r'\[\[([abc])\]\]|(?<![a-z])winner[*_]*\s*:[*_ \t\[(]*'
    r'(?:(?:assistant|answer|response|output|judge?ment)\s+)?(a|b|tie)\b',
    re.IGNORECASE,
)


def score(verdict: Response, *, low: float, high: float) -> float:
    """The score that a judge's verdict ends with, or nan if it has none.

    Strict: the last 'Score:' must be followed by a number within [low, high] that ends its
    sentence; after 'of' or '/' only `high` may follow. A verdict cut by the length limit has no
    score.
    """
    marks = list(SCORE.finditer(verdict.text))
    if verdict.finish != 'stop' or not marks:
        return math.nan
    number = SCORE_NUMBER.match(verdict.text, marks[-1].end())
    if number is None or (number[2] and float(number[2]) != high):
        return math.nan
    value = float(number[1])
    return value if low <= value <= high else math.nan


def scores(rollout: Rollout) -> list[float]:
    """The score of each response to a judge prompt (see prompts.judged), each read by `score`.

    Raises ValueError if the rollout's prompt is not a judge prompt.
    """
    prompt = rollout.prompt
    if 'judged' not in prompt.meta:
        raise ValueError(
            f'prompt {prompt.id!r} does not ask for a verdict; want prompts from prompts.judged'
        )
    low, high = prompt.meta['points']
    return [score(response, low=low, high=high) for response in rollout.responses]


def winner(verdict: Response) -> float:
    """How a comparison of A and B ends: 1 if A wins, 0 if B wins, 0.5 for a tie, nan if undecided.

    The last decision in the text counts. A verdict cut by the length limit is undecided.
    """
    matches = list(WINNER.finditer(verdict.text))
    if verdict.finish != 'stop' or not matches:
        return math.nan
    decision = (matches[-1][1] or matches[-1][2]).lower()
    return {'a': 1.0, 'b': 0.0}.get(decision, 0.5)
