"""What a response concludes with, and when two conclusions are one. Layer 0."""

import re

INSIDE = r'[^{}]*'
for _ in range(4):  # braces in braces
    INSIDE = rf'(?:[^{{}}]|\{{{INSIDE}\}})*'
BOXED = re.compile(rf'\\boxed\s*\{{({INSIDE})\}}')
CONCLUSION = re.compile(rf'(?:final answer[*_]*\s*:|####)[*_\s]*([^\n]+)|{BOXED.pattern}', re.IGNORECASE)
QUANTITY = re.compile(r'\$?(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+)\s*(?:%|[a-z ]*)', re.IGNORECASE)


def final_answer(response: str) -> str | None:
    """What a response concludes with, or None: the last 'Final answer: …', '#### …' or \\boxed{…} in it."""
    found = list(CONCLUSION.finditer(response))
    return (found[-1][1] or found[-1][2]).strip() if found else None


def boxed(text: str) -> str | None:
    """What is in the last \\boxed{…}, or None."""
    found = BOXED.findall(text)
    return found[-1].strip() if found else None


def stated(text: str) -> str:
    """What a reference concludes with; all of it, where it does not mark its conclusion."""
    return final_answer(text) or text


def same(one: str | None, other: str | None) -> bool:
    """Whether two final answers are one: as numbers where both are, else as text. None is not even itself."""
    return one is not None and normal(one) == normal(other)


def normal(answer: str | None):
    """What makes two answers one: a number, of a quantity with its unit; else the text without case and mark-up."""
    if answer is None:
        return None
    answer = re.sub(r'\\boxed\{(.*)\}|\\text\{([^{}]*)\}', lambda m: m[1] or m[2] or '', answer)
    answer = answer.replace('\\%', '%').replace('\\$', '$').strip('*_$ ').rstrip('.').strip('*_$()[] ')
    number = QUANTITY.fullmatch(answer)
    return float(number[1].replace(',', '')) if number else answer.casefold()
