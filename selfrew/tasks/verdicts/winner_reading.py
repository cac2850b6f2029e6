"""Which of two answers, A and B, a judge's text concludes with."""

import math
import re

from selfrew.tasks.verdicts import marks
from selfrew.tasks.verdicts.marks import Reading

WORD = re.compile(r'\bwinner\b', re.IGNORECASE)
WEAK = re.compile(r'\s+is\b\s*:?|[ \t]+[-–—](?=[ \t])|[ \t]*\n')
BRACKETS = re.compile(r'\[\[\s*([ABC]|tie)\s*\]\]', re.IGNORECASE)
VALUES = {'A': 1.0, 'B': 0.0, 'C': 0.5, 'TIE': 0.5}

_SIDE_WORD = (
    r'(?:answer|response|assistant|judge?ment|candidate|output|option|model|solution|side|verdict)'
)
# What follows a letter that is a name: 'a close call' begins with an article.
_IS_NAME = (
    r'(?=\'s\b|\s*(?:$|[^\w\s+/\'-]|[-–—]\s)|\s+(?:is|was|wins?|won|has|because|since|by|for|over|as'
    r'|and|or|vs|with|clearly|narrowly|slightly|[A-Z0-9(])\b)'
)
_NAMED = rf'(?i:\b{_SIDE_WORD})[\s#(:-]+([A-Za-z])(?!\w|\.\w){_IS_NAME}'
_ALONE = rf'(?:^|(?<=[(,;:|&=>/–—-])|(?<=\s))([A-Z])(?!\w|\.\w){_IS_NAME}'
NAME = re.compile(rf'{_NAMED}|{_ALONE}')
FIRST_NAME = re.compile(rf'[^\w+/-]*([A-Za-z])(?!\w|\.\w){_IS_NAME}')
OTHER_NAME = re.compile(r'(?<![\w\'])(?:[A-Z](?![\w\'])|b(?![\w\']))')
# The words that may stand before a letter that is a name: 'Plan B' is none.
BEFORE_NAME = re.compile(
    rf'(?:^|[^\w\s]\s*|\b(?:{_SIDE_WORD}|is|be|but|for|from|to|with|say|think|prefer|choose|pick'
    r'|favou?r|favou?rs|clearly|definitely|narrowly|slightly|the|and|or|vs|A|B|overall|s)\s*)$',
    re.IGNORECASE,
)
_TIE_WORD = r'(?:ties?|tied|draws?|drawn|equal|even|equally (?:good|bad|strong|weak|helpful))'
TIE = re.compile(rf'\b(?:{_TIE_WORD}|equally)\b', re.IGNORECASE)
_BOTH = (
    rf'(?:both\s+)?(?:{_SIDE_WORD}s?\s+)?A\s*(?:and|&|vs\.?|/)\s*(?:{_SIDE_WORD}\s+)?B'
    rf'|both(?:\s+{_SIDE_WORD}s)?|(?:the\s+two|they)(?:\s+{_SIDE_WORD}s)?'
)
OPENING_TIE = re.compile(
    rf'\W*(?:(?:it|this)(?:\'s| is)\s+|(?:{_BOTH})\s+(?:are\s+|is\s+)?)?(?:an?\s+)?'
    rf'(?:(?:exact|clear|complete|perfect|fair)\s+)?{_TIE_WORD}\b'
    r'(?=\s*(?:$|[^\w\s/|-]|-\s|(?:between|because|since|as|both|for|in|overall)\b))',
    re.IGNORECASE,
)
BOTH_BY_SLASH = re.compile(r'\W*A\s*/\s*B\W*', re.IGNORECASE)
AGAINST_A_TIE = re.compile(
    r'\b(?:but|or|edge|slight|slightly|prefer|lean|leaning|however|not|no|close|nearly|almost)\b',
    re.IGNORECASE,
)
DOUBT = re.compile(
    r'\b(?:not|no|nor|neither|never|none|cannot|unclear|undecided|maybe|perhaps|probably|possibly'
    r'|might|could|or|loses|lost|worse|weaker|inferior)\b|n\'t\b|\?',
    re.IGNORECASE,
)


def read_winner(text: str) -> Reading:
    """How a comparison of A and B ends: 1 if A wins, 0 if B wins, 0.5 for a tie.

    Two names ('A or B'), a denial ('not A') and any other name are no verdict. The last mark
    decides, even where it cannot be read.
    """
    text = marks.aligned(text)
    plain = marks.without_markup(text)
    last, reading = -1, Reading(math.nan, 'no mark')
    for word in reversed(list(WORD.finditer(plain))):
        value = _after_mark(text, plain, word)
        if value is not None:
            last = word.start()
            reading = Reading(value, 'unclear' if math.isnan(value) else 'mark')
            break
    brackets = marks.last_brackets(text, plain, BRACKETS)
    if brackets is None or brackets.start() < last:
        return reading
    if not marks.is_alone(text, brackets):
        return Reading(math.nan, 'unclear')
    return Reading(VALUES[brackets[1].upper()], 'brackets')


def _after_mark(text: str, plain: str, word: re.Match) -> float | None:
    """The side that follows the word 'winner', nan if it is unclear; None if that is no mark."""
    strong, weak = marks.SEPARATOR.match(plain, word.end()), WEAK.match(plain, word.end())
    is_tag = text[word.end() : word.end() + 1] == '>' and text[: word.start()].endswith('<')
    if not (strong or weak or is_tag) or not marks.opens(text, plain, word.start(), word.end()):
        return None
    separator = strong or weak
    side = _side(_conclusion(text, plain, separator.end() if separator else word.end() + 1))
    if math.isnan(side) and not (strong or is_tag):
        is_taken_back = weak and DOUBT.search(plain[weak.end() :].partition('\n')[0])
        return math.nan if is_taken_back else None  # 'the winner is clear'
    return side


def _conclusion(text: str, plain: str, start: int) -> str:
    """The sentence from `start`, on its line or the next that says anything; a JSON value alone."""
    json_value = re.compile(r'\s*"([^"\n]*)"\s*[,}]').match(text, start)
    if json_value and re.search(r'"\s*:$', text[:start]):
        return plain[json_value.start(1) : json_value.end(1)].strip()
    line = plain[start:].lstrip().partition('\n')[0]
    line = re.sub(r'</?\w{2,}>', lambda match: ' ' * len(match[0]), line)
    return re.split(r'(?<=\w)[)\s]*[.!](?=\s|$)', line)[0].strip()


def _side(text: str) -> float:
    """1 for A, 0 for B, 0.5 for a tie, nan for anything else."""
    tie = OPENING_TIE.match(text)
    if tie or BOTH_BY_SLASH.fullmatch(text):
        rest = text[tie.end() :] if tie else ''
        return math.nan if AGAINST_A_TIE.search(rest) or '?' in text else 0.5
    head, but, rest = text.rpartition('but ')
    if but and not _names(head):
        return _side(rest)  # 'a little unclear, but B'
    if TIE.search(text) or DOUBT.search(text):
        return math.nan
    return {frozenset('A'): 1.0, frozenset('B'): 0.0}.get(frozenset(_names(text)), math.nan)


def _names(text: str) -> set[str]:
    """The sides that are named, in capitals; any other letter that stands like one counts too."""
    first = FIRST_NAME.match(text)
    names = {first[1].upper()} if first else set()
    for match in NAME.finditer(text):
        letter = match[1] or match[2]
        start = match.start(1) if match[1] else match.start(2)
        before = text[max(0, start - 40) : start]
        if letter != 'I' and (match[1] or BEFORE_NAME.search(before)):
            names.add(letter.upper())
    if names:
        names |= {name.upper() for name in OTHER_NAME.findall(text) if name != 'I'}
    return names
