"""Final answers and verdicts: how they are read from a text, and when two answers are the same."""

import math
import re

from selfrew.types import Response, Rollout

BRACED = r'[^{}]*'
for _ in range(4):  # braces nested up to four deep
    BRACED = rf'(?:[^{{}}]|\{{{BRACED}\}})*'
BOXED = re.compile(rf'\\boxed\s*\{{({BRACED})\}}')
CONCLUSION = re.compile(
    rf'(?:final answer[*_]*\s*:|####)[*_\s]*([^\n]+)|{BOXED.pattern}', re.IGNORECASE
)
QUANTITY = re.compile(
    r'\$?(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+)\s*(?:%|[a-z ]*)', re.IGNORECASE
)


def final_answer(response: str) -> str | None:
    """The final answer of a response: the last 'Final answer: …', '#### …' or \\boxed{…} in it;
    None if it has none.
    """
    matches = list(CONCLUSION.finditer(response))
    return (matches[-1][1] or matches[-1][2]).strip() if matches else None


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{…}, or None."""
    contents = BOXED.findall(text)
    return contents[-1].strip() if contents else None


def reference_answer(text: str) -> str:
    """The final answer of a reference solution; the whole text if it marks none."""
    return final_answer(text) or text


def same(first: str | None, second: str | None) -> bool:
    """Whether two final answers are the same: as numbers if both are numbers, else as text.

    None equals nothing, not even None.
    """
    return first is not None and key(first) == key(second)


def key(answer: str | None) -> float | str | None:
    """The normal form of an answer; two answers are the same if their keys are equal.

    A number, with or without a unit, becomes a float; other text loses case and mark-up.
    """
    if answer is None:
        return None
    answer = re.sub(r'\\boxed\{(.*)\}|\\text\{([^{}]*)\}', lambda m: m[1] or m[2] or '', answer)
    answer = answer.replace('\\%', '%').replace('\\$', '$')
    answer = answer.strip('*_$ ').rstrip('.').strip('*_$()[] ')
    number = QUANTITY.fullmatch(answer)
    return float(number[1].replace(',', '')) if number else answer.casefold()


# --- verdicts ---


SCORE = re.compile(r'(?<![a-z])score[*_]*\s*:[*_ \t]*', re.IGNORECASE)
NUMBER = re.compile(
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
    number = NUMBER.match(verdict.text, marks[-1].end())
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
