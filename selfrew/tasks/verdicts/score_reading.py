"""The score that a judge's text concludes with."""

import math
import re
import unicodedata
from fractions import Fraction

from selfrew.tasks.verdicts import marks
from selfrew.tasks.verdicts.marks import Reading

NUMBER = r'-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)'
WORD = re.compile(r'\b(?:total\s+points|score|rating)\b', re.IGNORECASE)
# 'for this response', 'I give', '(out of 5)', '(0-5)', '/5'; the number is the highest score.
OF_WHAT = re.compile(
    r'(?:\s+(?:for|of)\s+(?:this|the)\s+(?:response|answer))?'
    r'(?:\s+(?:that\s+)?i(?:\s+would)?\s+(?:give|assign|award)(?:\s+(?:it|this))?)?'
    rf'(?:[ \t]*\(?[ \t]*(?:(?:{NUMBER}\s*(?:-|–|to)|out\s+of|/)\s*({NUMBER})\s*(?:points)?)'
    r'[ \t]*\)?)?',
    re.IGNORECASE,
)
WEAK = re.compile(
    r'\s*(?:(?:is|should\s+be|would\s+be|will\s+be)(?:\s+(?:therefore|thus|then|hence|an?))?\s*:?'
    r'|[ \t][-–—](?=[ \t])|\||(?=\s))(?=[\s(]*[+-]?\.?[0-9])|\s+(?P<of>of)(?=[\s(]+\.?[0-9])',
    re.IGNORECASE,
)
BEFORE_VALUE = re.compile(r'\s*(?:N\s*=\s*)?')
OPENING = re.compile(r'[\s(]*(?:<(?=\s*[0-9.]+\s*>))?\s*')
CLOSING = re.compile(r'(?:[ \t]*[)>])*')
VALUE = re.compile(rf'\+?({NUMBER})')
_TERM = r'[0-9]+(?:\.[0-9]+)?(?:\s*points?)?(?:\s*\([^()0-9\n]*\))?'
SUM = re.compile(rf'\(?({_TERM}(?:\s*[-+–]\s*{_TERM})+)\s*\)?\s*=\s*')
LATER_SUM = re.compile(rf'\s*=\s*({_TERM}(?:\s*[-+–]\s*{_TERM})+)')
OWN_FRACTION = re.compile(rf'[ \t]*\(\s*({NUMBER})(?=\s*(?:/|out\b|of\b))')
LIMIT = re.compile(
    r'[\s)]*\(?\s*(?:/|(?:out\s+)?of(?:\s+an?)?(?:\s+(?:possible|maximum|total)(?:\s+of)?)?(?=\s))'
    rf'[\s(]*({NUMBER})(?![/0-9]|\s*/|\.[0-9])',
    re.IGNORECASE,
)
UNIT = re.compile(
    r'\s*(?:total\s+|possible\s+)?(?:points?|pts|stars?)\b(?:\s+(?:in\s+)?total\b)?', re.IGNORECASE
)
DOUBT = (
    r'(?:or|but|maybe|perhaps|possibly|probably|not|no|if|to|and|out|of|rather|almost|score|rating)'
)
# What may follow a number that is the score.
FOLLOWS = re.compile(
    rf'\s*$|\s*\n|\s*</?[a-z]|\s*[.!]+(?!\S*[0-9])|\s*,(?!\s*{DOUBT}\b)'
    rf'|\s*;(?!\s*(?:or|but|not|no|rather)\b)'
    rf'|\s+[-–]\s+(?={DOUBT}?[^\W\d])(?!{DOUBT}\b)|\s*—\s*(?=[^\W\d])(?!{DOUBT}\b)'
    rf'|\s*\((?!\s*{DOUBT}\b)[^()0-9]*\)|\s+(?:because|since|as)\b(?!\s+(?:well|opposed))'
    rf'|\s+(?!{DOUBT}\b)(?-i:[A-Z])[\w\']*[\s,.]|[ \t]*(?:[|=]+|-{{3,}})[ \t]*(?:\n|$)',
    re.IGNORECASE,
)
RATING = re.compile(rf'\[\[\s*({NUMBER})\s*\]\]')
UNCLEAR = Reading(math.nan, 'unclear')


def read_score(text: str, *, low: float, high: float) -> Reading:
    """The score that a judge's text concludes with, at most `high` and at least `low`.

    The last mark decides, even where it cannot be read: it may take an earlier one back.
    """
    text = marks.aligned(text)
    plain = marks.without_markup(text)
    starts, reading = [], Reading(math.nan, 'no mark')  # starts: of the last two marks
    for word in reversed(list(WORD.finditer(plain))):
        value = _after_mark(text, plain, word, low, high)
        if value is not None:
            reading = reading if starts else value
            starts.append(word.start())
        if len(starts) == 2:
            break
    rating = marks.last_brackets(text, plain, RATING)
    if rating and (not starts or rating.start() > starts[0]):
        return _read_rating(text, plain, rating, low, high)
    if len(starts) == 2 and all(marks.is_of_a_part(text, start) for start in starts):
        return UNCLEAR
    return reading


def _after_mark(text: str, plain: str, word: re.Match, low: float, high: float) -> Reading | None:
    """What follows a word such as 'score'; None if it is no mark."""
    what = OF_WHAT.match(plain, word.end())
    end = what.end() if what else word.end()
    strong, weak = marks.SEPARATOR.match(plain, end), WEAK.match(plain, end)
    is_tag = text[end : end + 1] == '>' and re.search(r'<\w*$', text[: word.start()])
    separator = strong or weak
    if not (separator or is_tag) or not marks.opens(text, plain, word.start(), word.end()):
        return None
    if what and what[1] and float(what[1]) != high:
        return UNCLEAR
    reading = _read_value(plain, separator.end() if separator else end + 1, low, high)
    if weak and not strong and weak['of'] and reading.how == 'unclear':
        return None  # 'a score of 5 means …'
    return reading


def _read_rating(text: str, plain: str, rating: re.Match, low: float, high: float) -> Reading:
    """The value of '[[n]]'; another one in its sentence makes it unclear."""
    limit = LIMIT.match(plain, rating.end())
    if not marks.is_alone(text, rating) or (limit and float(limit[1]) != high):
        return UNCLEAR
    return _in_range(float(rating[1]), low, high, 'brackets', rating.start(1))


def _in_range(value: float, low: float, high: float, how: str, start: int) -> Reading:
    if low <= value <= high:
        return Reading(value, how, start)
    return Reading(math.nan, 'out of range')


def _read_value(plain: str, start: int, low: float, high: float) -> Reading:
    """The score that begins at `start`, right after a mark."""
    position = marks.skip(BEFORE_VALUE, plain, start)
    how, total = 'mark', SUM.match(plain, position)
    if total:
        how, position = 'sum', total.end()
    value = VALUE.match(plain, marks.skip(OPENING, plain, position))
    if value is None or (total and _sum(total[1]) != Fraction(value[1])):
        return UNCLEAR
    later = LATER_SUM.match(plain, value.end())
    if later:
        if _sum(later[1]) != Fraction(value[1]):
            return UNCLEAR
        how = 'sum'
    end = _after_limit(plain, later.end() if later else value.end(), float(value[1]), high)
    is_item = (  # '1. good' below 'Score:'
        '\n' in plain[start : value.start()]
        and plain[value.start() - 1] != '('
        and re.match(r'[.)][ \t]+\w', plain[value.end() :])
    )
    if end is None or is_item or not _ends_there(plain, end):
        return UNCLEAR
    return _in_range(float(value[1]), low, high, how, value.start(1))


def _sum(text: str) -> Fraction:
    text = re.sub(r'\([^()]*\)|points?|\s', '', text).replace('–', '-')
    return sum(map(Fraction, re.findall(r'[-+]?[0-9.]+', text)), Fraction(0))


def _after_limit(plain: str, end: int, value: float, high: float) -> int | None:
    """The position after 'points', '/ 5', '(out of 5)' and '(4/5)'; None if they do not fit."""
    own = OWN_FRACTION.match(plain, end)
    if own:
        if float(own[1]) != value:
            return None
        end = own.end()
    end = marks.skip(UNIT, plain, end)
    limit = LIMIT.match(plain, end)
    if limit is None:
        return None if own else end
    if float(limit[1]) != high:
        return None
    return marks.skip(UNIT, plain, limit.end())


def _ends_there(plain: str, end: int) -> bool:
    """Whether what follows a number leaves it the score."""
    rest = plain[marks.skip(CLOSING, plain, end) :]
    line = rest.partition('\n')[0]
    if re.match(r'[^\w\n]*[0-9]', line) and not re.match(r'\s*[.!]\s+[0-9.]+\s+[^\W\d]', line):
        return False  # another number
    if re.match(r'\s*\n\s*(?:or|to|and)\s+[0-9]', rest, re.IGNORECASE):
        return False
    following = line.strip()[:1]
    is_picture = following > '\u2000' and unicodedata.category(following) in ('So', 'Mn')
    return is_picture or FOLLOWS.match(rest) is not None
