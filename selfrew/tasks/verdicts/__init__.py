"""What a judge concludes with: a score, or the better of two answers.

Only the conclusion counts, and only where it is clear: a wrong reading is worse than none. A number
or a name counts after a mark ('Score:', 'Winner:') that opens a line or a sentence, at most behind
words such as 'the final'; sub-scores ('Clarity score: 1') and marks inside a quotation are none.
'[[4]]' and '[[A]]' are marks of their own. The last mark decides, even where it cannot be read.

Import from it: its functions on verdicts, Reading, READ and UNREAD.
It imports: types.
"""

import math

from selfrew.tasks.verdicts.marks import READ, UNREAD, Reading
from selfrew.tasks.verdicts.score_reading import read_score
from selfrew.tasks.verdicts.winner_reading import read_winner
from selfrew.types import Response, Rollout

__all__ = ['READ', 'UNREAD', 'Reading', 'read_score', 'read_winner']


def score(verdict: Response, *, low: float, high: float) -> float:
    """The score that a judge's verdict concludes with, or nan if it has none, see `read_score`.

    A verdict cut by the length limit has no score.
    """
    return reading_of_score(verdict, low=low, high=high).value


def reading_of_score(verdict: Response, *, low: float, high: float) -> Reading:
    """`read_score` of a verdict; one that was cut by the length limit has no score."""
    if verdict.finish != 'stop':
        return Reading(math.nan, 'cut')
    return read_score(verdict.text, low=low, high=high)


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
    """How a judge's comparison of A and B ends: 1 if A wins, 0 if B wins, 0.5 for a tie, nan if it
    is undecided, see `read_winner`. A verdict cut by the length limit is undecided.
    """
    return reading_of_winner(verdict).value


def reading_of_winner(verdict: Response) -> Reading:
    """`read_winner` of a verdict; one that was cut by the length limit is undecided."""
    if verdict.finish != 'stop':
        return Reading(math.nan, 'cut')
    return read_winner(verdict.text)
