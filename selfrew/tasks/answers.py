"""What a response or a verdict concludes with, and when two conclusions are one. Layer 0."""

import math
import re

INSIDE = r'[^{}]*'
for _ in range(4):  # braces in braces
    INSIDE = rf'(?:[^{{}}]|\{{{INSIDE}\}})*'
BOXED = re.compile(rf'\\boxed\s*\{{({INSIDE})\}}')
CONCLUSION = re.compile(
    rf'(?:final answer[*_]*\s*:|####)[*_\s]*([^\n]+)|{BOXED.pattern}', re.IGNORECASE
)
QUANTITY = re.compile(
    r'\$?(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+)\s*(?:%|[a-z ]*)', re.IGNORECASE
)


def final_answer(response: str) -> str | None:
    """What a response concludes with, or None: the last 'Final answer: …', '#### …' or \\boxed{…}
    in it.
    """
    found = list(CONCLUSION.finditer(response))
    return (found[-1][1] or found[-1][2]).strip() if found else None


def boxed(text: str) -> str | None:
    """What is in the last \\boxed{…}, or None."""
    found = BOXED.findall(text)
    return found[-1].strip() if found else None


def reference_answer(text: str) -> str:
    """What a reference concludes with; all of it, where it does not mark its conclusion."""
    return final_answer(text) or text


def same(one: str | None, other: str | None) -> bool:
    """Whether two final answers are one: as numbers where both are, else as text. None is not even
    itself.
    """
    return one is not None and key(one) == key(other)


def key(answer: str | None):
    """What makes two answers one: a number, of a quantity with its unit; else the text without case
    and mark-up.
    """
    if answer is None:
        return None
    answer = re.sub(r'\\boxed\{(.*)\}|\\text\{([^{}]*)\}', lambda m: m[1] or m[2] or '', answer)
    answer = (
        answer.replace('\\%', '%').replace('\\$', '$').strip('*_$ ').rstrip('.').strip('*_$()[] ')
    )
    number = QUANTITY.fullmatch(answer)
    return float(number[1].replace(',', '')) if number else answer.casefold()


# --- verdicts ---------------------------------------------------------------------------------------------------------


SCORE = re.compile(r'(?<![a-z])score[*_]*\s*:[*_ \t]*', re.IGNORECASE)
NUMBER = re.compile(
    r'(-?\d+(?:\.\d+)?)(?: ?(?:/|(?:out )?of) ?(\d+))?(?: ?points?)?[*_]*[ \t]*(?:[.;)](?!\S).*)?$',
    re.IGNORECASE | re.MULTILINE,
)
WINNER = re.compile(
    r'\[\[([abc])\]\]|(?<![a-z])winner[*_]*\s*:[*_ \t\[(]*(?:(?:assistant|answer|response|output|judge?ment)\s+)?(a|b|tie)\b',
    re.IGNORECASE,
)


def score(verdict, *, low: float, high: float) -> float:
    """The score that a verdict (a Response of the judge) concludes with, or nan.

    Strict: after the last 'Score:', closing its sentence, there must stand a number within [low,
    high], 'of' or '/' nothing but `high`; a verdict cut by the length limit has not concluded.
    """
    marks = list(SCORE.finditer(verdict.text))
    if verdict.finish != 'stop' or not marks:
        return math.nan
    number = NUMBER.match(verdict.text, marks[-1].end())
    if (
        not number
        or (number[2] and float(number[2]) != high)
        or not low <= float(number[1]) <= high
    ):
        return math.nan
    return float(number[1])


def scores(verdicts) -> list[float]:
    """What the responses of a rollout say as verdicts (see prompts.judged), as `score`. ValueError
    where they are none.
    """
    if 'judged' not in verdicts.prompt.meta:
        raise ValueError(
            f'prompt {verdicts.prompt.id!r} asks for no verdict; want such as prompts.judged makes'
        )
    low, high = verdicts.prompt.meta['points']
    return [score(v, low=low, high=high) for v in verdicts.responses]


def winner(verdict) -> float:
    """1 where a verdict concludes with A, 0 with B, 0.5 with a tie; nan where it does not conclude.
    The last one counts.
    """
    found = list(WINNER.finditer(verdict.text))
    if verdict.finish != 'stop' or not found:
        return math.nan
    return {'a': 1.0, 'b': 0.0}.get((found[-1][1] or found[-1][2]).lower(), 0.5)
