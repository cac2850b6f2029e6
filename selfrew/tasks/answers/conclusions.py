"""Where a response concludes, and with which words."""

import re
from collections.abc import Callable
from typing import NamedTuple

from selfrew.tasks.answers.spelling import BOX, braced_end, fold
from selfrew.tasks.answers.units import SCALES

# What may stand around a mark: Markdown, quotes are handled by themselves.
CLOSE = r'[*_]*'
# 'Final answer: 42', 'The final answer is 42', '**Final Answer**', '# Final answer' and a new line.
FINAL = re.compile(
    rf'(?<!\w)(?:final|ultimate)[ \t]+answer{CLOSE}(?:[ \t]+\([^()\n]*\))?'
    rf'(?:(?:[ \t]+(?!is\b|are\b)[\w\']+){{0,6}}?[ \t]*{CLOSE}[ \t]*'
    rf'(?:(?:is|are)\b{CLOSE}[ \t]*[:=]?|[:=])'
    rf'|[ \t]+[–—-](?=[ \t])|{CLOSE}[ \t]*(?=\n|$)){CLOSE}',
    re.IGNORECASE,
)
TAGGED = re.compile(r'<answer>(.*?)</answer>', re.IGNORECASE | re.DOTALL)
# GSM8K's mark, which is a Markdown heading too.
HASHES = re.compile(r'(?:^|(?<=\s))####(?!#)[ \t]*')
NUMBERED = re.compile(r'\d{1,2}[.)]\s+\S')  # a numbered heading
# 'The answer is 42', 'Answer: 42': a mark only where what follows can be read.
ANSWER = re.compile(
    rf'(?<![\w-])(?<!final )answer{CLOSE}(?:[ \t]+to[ \t]+(?:the|this)[ \t]+\w+)?'
    rf'[ \t]*{CLOSE}[ \t]*(?:(?:is\b|=){CLOSE}[ \t]*:?|:|(?=\n)){CLOSE}',
    re.IGNORECASE,
)
BOXED_TOKEN = re.compile(r'\\(?:boxed|fbox)\s+([^\s{}\\$]+)')
# Boxes that make up one answer: '\boxed{5}\text{ or }\boxed{7}', '$\boxed{5}$, $\boxed{7}$'.
JOINED = re.compile(
    r'[\s$]*(?:,|;|/|\\(?:text|mbox)\{\s*,?\s*(?:or|and)\s*\}|,?\s*\b(?:or|and)\b)?[\s$]*'
    r'(?:[a-zA-Z]\s*=\s*)?[\s$]*'
)
# What changes the number in a box: a scale word after it, anything of a formula beside it.
SCALED = re.compile(
    r'(?:[\s$]|\\[,;! )\]]|~|\\(?:text|mbox|mathrm)\{)*'
    rf'((?:{"|".join(word for word in SCALES if len(word) > 1)})s?\b|[kKMB]\b|(?:or|to)\b)',
)
BESIDE = re.compile(r'\s*(?:[b-zB-HJ-Z](?![a-zA-Z{])|[\^+*/=<>-]\s*[\w\\{(])')
BEFORE = re.compile(
    r'(?:\b(?:not|never|nor|than|least|most|half|twice|minus|negative|about|nearly|almost)\b'
    r"|n't\b|(?<=[^\s*])\s*[-+/^<>])(?:[\s$:*]|\\[(\[])*$",
    re.IGNORECASE,
)
TAKEN_BACK = re.compile(r"[^\n.]{0,40}?\b(?:not|wrong|incorrect|isn't|false)\b", re.IGNORECASE)
BOLD_LINE = re.compile(r'[*_]{2}([^*\n]+)[*_]{2}[.!]?|\$\$?([^$\n]+)\$\$?\.?|\\\[(.+)\\\]\.?')
EMPTY_LINE = re.compile(r'[\s$*_#>`\\\[\]()=-]*')
BULLET = re.compile(r'^\s*[-*•]\s+')
HEADING = re.compile(r'[\s*_#>\d.)]*(?:(?:the|my|our)\s+)?', re.IGNORECASE)
PLACEHOLDER = re.compile(r'[\s"\'`*]*(?:\.\.\.|…|[<\[{]+[a-z][\w ]+[>\]}]+)[\s"\'`*.]*', re.I)


class Mark(NamedTuple):
    start: int  # in the response
    text: str  # what it marks
    is_strong: bool = False  # it concludes whatever follows; a weak one, only what can be read
    takes_words: bool = False  # a weak one that may conclude words


def conclusion(
    response: str, is_readable: Callable[[str], bool], *, takes_words: bool = False
) -> str | None:
    """What a response concludes with, without the mark; None if it does not conclude.

    The last mark counts. A 'Final answer', a \\boxed{…} and <answer>…</answer> conclude whatever
    they mark. '####', 'The answer is …', 'Answer: …' and a last line in bold or alone in maths
    conclude only what `is_readable`, since they also occur as headings and in talk. A mark in
    quotes, or before a placeholder such as '...', is none. Nothing before '</think>' counts.

    Args:
      is_readable: whether a text is an answer of the form that is asked for.
      takes_words: whether 'The answer is …', 'Answer: …' and a last line after '####' conclude
        what is not readable, too, if nothing else concludes.
    """
    _, end_of_thought, said = response.rpartition('</think>')
    text = fold(said)
    if '<think>' in text and not end_of_thought:
        return None
    marks = [*_final_marks(text), *_boxes(text), *_tagged(text), *_weak_marks(text)]
    marks.sort(key=lambda mark: mark.start, reverse=True)
    for mark in marks:
        if mark.is_strong or is_readable(mark.text):
            return mark.text
    for mark in marks:
        if takes_words and mark.takes_words:
            return mark.text
    return None


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{…} or \\fbox{…} that closes, or None."""
    boxes = list(_closed_boxes(text))
    return boxes[-1][2].strip() if boxes else None


def _final_marks(text: str) -> list[Mark]:
    marks = []
    for match in FINAL.finditer(text):
        content = _after(text, match.end())
        is_heading = match[0].rstrip('*_').casefold().endswith('answer')
        before = text[: match.start()].rpartition('\n')[2]
        if is_heading and not HEADING.fullmatch(before) or _is_quoted(text, match.start()):
            continue
        if content is not None and not PLACEHOLDER.fullmatch(content):
            marks.append(Mark(match.start(), content, is_strong=True))
    return marks


def _is_quoted(text: str, start: int) -> bool:
    """Whether a quote opens right before `start`, inside a line."""
    before = text[:start].rpartition('\n')[2].removesuffix('The ').removesuffix('the ')
    return before.endswith(('"', "'", '`')) and not EMPTY_LINE.fullmatch(before.rstrip('"\'`'))


def _after(text: str, start: int) -> str | None:
    """The rest of the line, or else the next line that holds more than mark-up."""
    rest, *lines = text[start:].split('\n')
    if not EMPTY_LINE.fullmatch(rest):
        return rest.strip()
    for line in lines:
        if not EMPTY_LINE.fullmatch(line):
            return BULLET.sub('', line).strip()
    return None


def _closed_boxes(text: str):
    """(start, end, content) of each box that closes, outer ones first."""
    for match in BOX.finditer(text):
        end = braced_end(text, match.end())
        if end is not None:
            yield match.start(), end, text[match.end() + 1 : end - 1]
    for match in BOXED_TOKEN.finditer(text):
        yield match.start(), match.end(), match[1]


def _boxes(text: str) -> list[Mark]:
    """A mark for each box, or for each run of boxes that are joined by 'or', 'and' or a comma.

    A word after the box that changes its number ('million') is part of it.
    """
    marks, covered = [], -1
    boxes = list(_closed_boxes(text))
    for i, (start, end, content) in enumerate(boxes):
        if start < covered:  # a box in a box, or one that was joined
            continue
        contents = [content]
        for next_start, next_end, next_content in boxes[i + 1 :]:
            if next_start < end:
                continue
            if not JOINED.fullmatch(text[end:next_start]):
                break
            contents.append(next_content)
            end = next_end
        covered = end
        marks.append(
            Mark(start, _with_context(text, start, end, ', '.join(contents)), is_strong=True)
        )
    return marks


def _with_context(text: str, start: int, end: int, content: str) -> str:
    """The content of the box from `start` to `end`, with what beside it changes its meaning."""
    line = text[:start].rpartition('\n')[2]
    before = BEFORE.search(line) if line.strip('-*• ') else None
    after = SCALED.match(text, end) or BESIDE.match(text, end) or TAKEN_BACK.match(text, end)
    parts = before[0] if before else '', content.strip(), text[end : after.end()] if after else ''
    return ''.join(part.replace('$', '') for part in parts) if before or after else content.strip()


def _tagged(text: str) -> list[Mark]:
    return [
        Mark(match.start(), match[1].strip(), is_strong=True) for match in TAGGED.finditer(text)
    ]


def _weak_marks(text: str) -> list[Mark]:
    marks = []
    for match in HASHES.finditer(text):
        content = text[match.end() :].split('\n')[0].strip()
        if not NUMBERED.match(content):
            is_last = text.rstrip().endswith(content) and bool(content)
            marks.append(Mark(match.start(), content, takes_words=is_last))
    for match in ANSWER.finditer(text):
        content = _after(text, match.end())
        if content is not None and not _is_quoted(text, match.start()):
            marks.append(Mark(match.start(), content, takes_words=True))
    last_line = text.rstrip().rpartition('\n')[2].strip()
    bold = BOLD_LINE.fullmatch(last_line)
    if bold:
        content = bold[1] or bold[2] or bold[3]
        marks.append(Mark(len(text.rstrip()) - len(last_line), content.strip()))
    return marks
