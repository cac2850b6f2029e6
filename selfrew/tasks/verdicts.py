"""What a judge concludes with: a score, or the better of two answers.

Only the conclusion counts, and only where it is clear: a wrong reading is worse than none. A number
or a name counts after a mark ('Score:', 'Winner:') that opens a line or a sentence, at most behind
words such as 'the final'; sub-scores ('Clarity score: 1') and marks inside a quotation are none.
'[[4]]' and '[[A]]' are marks of their own. The last mark decides, even where it cannot be read.
"""

import math
import re
from fractions import Fraction
from typing import NamedTuple

from selfrew.types import Response, Rollout


class Reading(NamedTuple):
    value: float  # nan if there is none
    how: str  # one of READ, or of UNREAD
    start: int = -1  # of a score: where its number begins in the text, -1 if there is none


READ = 'mark', 'sum', 'brackets'
UNREAD = 'no mark', 'unclear', 'out of range', 'cut'

# Characters that look alike, one for one, so that positions stay.
ALIKE = str.maketrans(
    '：＝／（）０１２３４５６７８９−“”‘’\u00a0\u202f\r', ':=/()0123456789-""\'\'   '
)
END_TOKENS = re.compile(r'</s>|<\|[a-z_]+\|>|<(?:end_of_turn|eos|pad)>')

MARKUP = r'[\s*_"\'`$]*'
OPEN = rf'(?:{MARKUP}(?:\\(?:boxed|text|mathbf)\{{|\\[(\[]|[(\[{{<])?){{0,3}}{MARKUP}'
CLOSE = r'(?:[*_"\'`$}\])>]|\\[)\]])*'
NUMBER = r'-?(?:\d+(?:\.\d+)?|\.\d+)'
LEAD_IN = re.compile(
    r'(?:[\s*_"\'`#{(\[<|-]|\d+[.)]\s'
    r'|\b(?:the|my|our|a|an|so|therefore|thus|hence|in|and|with|i|would|will|final(?:ly)?|total'
    r'|overall|conclusion|verdict|evaluation|judge?ment|decision|give|assign|award|this|it'
    r'|response|answer|deserves|gets|earns|receives)\b(?:\'s)?[,:]?)*',
    re.IGNORECASE,
)
# Where a sentence, or an entry of a JSON object, begins.
BOUNDARY = re.compile(r'[.!?;:,]["\')\]*_]*\s+|[{,]\s*(?=")|\)\s+|—\s*')
SCORE_WORD = re.compile(
    r'\b(?:total\s+points|score|rating)\b'
    r'(?:\s+for\s+(?:this|the)\s+(?:response|answer))?'
    r'(?:\s*\(\s*(?:out\s+of\s+)?\d+\s*(?:(?:-|–|to)\s*\d+)?\s*(?:points)?\s*\))?',
    re.IGNORECASE,
)
STRONG_SEPARATOR = re.compile(r'[*_"\'`)]*\s*[:=>][*_"\'`]*')
WEAK_SEPARATOR = re.compile(rf'[*_"\'`)]*\s*(?:is|of|[-–—]|(?=\d))\s*:?(?={OPEN}\d)')
PREFIX = re.compile(rf'{OPEN}(?:N\s*=\s*)?')
SUM = re.compile(rf'{NUMBER}(?:\s*[-+]\s*{NUMBER})+\s*=\s*{OPEN}')
VALUE = re.compile(rf'\+?({NUMBER})')
LATER_SUM = re.compile(rf'\s*=\s*({NUMBER}(?:\s*[-+]\s*{NUMBER})+)')
LIMIT = re.compile(
    rf'\s*{CLOSE}\s*\(?\s*(?:points?\s+)?(?:/|(?:out\s+)?of(?:\s+a(?:\s+possible|\s+maximum\s+of)?)?)'
    rf'[\s*_]*({NUMBER})',
    re.IGNORECASE,
)
OWN_FRACTION = re.compile(rf'\s*{CLOSE}\s*\(\s*({NUMBER})(?=\s*(?:/|out))')
UNIT = re.compile(rf'\s*{CLOSE}\s*(?:total\s+)?(?:points?|stars?)\b', re.IGNORECASE)
# What may follow a number that is the score.
FOLLOWS = re.compile(
    r'\s*$|\s*\n|\s*<|\s*[.!](?!\d)|\s*;|\s*,(?!\s*(?:\d|(?:or|but|maybe|perhaps|possibly|not|if)\b))'
    r'|\s+[-–—]\s+(?=[^\W\d])|\s*—\s*(?=[^\W\d])|\s*\([^\d)]*\)'
    r'|\s+(?:because|since|as)\b|\s+(?=[A-Z]\w*[\s,.])|\s*[^\w\s\x00-\x7f±×·÷½¼¾–—]'
)
RATING = re.compile(rf'\[\[\s*({NUMBER})\s*\]\]')


def _aligned(text: str) -> str:
    """The text with one character for those that look alike and no end tokens; of equal length."""
    return END_TOKENS.sub(lambda match: ' ' * len(match[0]), text.translate(ALIKE))


def read_score(text: str, *, low: float, high: float) -> Reading:
    """The score that a judge's text concludes with, at most `high` and at least `low`."""
    text = _aligned(text)
    marks = _score_marks(text)
    ratings = [r for r in RATING.finditer(text) if not marks or r.start() >= marks[-1]]
    if ratings:
        return _read_rating(text, ratings, low, high)
    if not marks:
        return Reading(math.nan, 'no mark')
    return _read_value(text, marks[-1], low, high)


def _score_marks(text: str) -> list[int]:
    """Where the value begins after each mark."""
    ends = []
    for match in SCORE_WORD.finditer(text):
        if not _opens_sentence(text, match.start()):
            continue
        separator = STRONG_SEPARATOR.match(text, match.end()) or WEAK_SEPARATOR.match(
            text, match.end()
        )
        if separator:
            ends.append(separator.end())
    return ends


def _opens_sentence(text: str, start: int) -> bool:
    """Whether only words that lead to a conclusion stand between a sentence's start and `start`."""
    before = text[:start].rpartition('\n')[2]
    boundaries = list(BOUNDARY.finditer(before))
    opening = before[boundaries[-1].end() :] if boundaries else before
    if not LEAD_IN.fullmatch(opening):
        return False
    # A mark in quotes inside a line is what somebody else said.
    is_quoted = re.search(r'["\'`]$', before) is not None
    return (
        not is_quoted
        or not re.search(r'[^\W\d]', before)
        or re.search(r'[{,]\s*"$', before) is not None
    )


def _in_range(value: float, low: float, high: float, how: str, start: int) -> Reading:
    if low <= value <= high:
        return Reading(value, how, start)
    return Reading(math.nan, 'out of range')


def _read_rating(text: str, ratings: list, low: float, high: float) -> Reading:
    """The last '[[n]]'; another one in its line makes it unclear."""
    last = ratings[-1]
    line_start = text.rfind('\n', 0, last.start()) + 1
    if any(r.start() >= line_start and float(r[1]) != float(last[1]) for r in ratings):
        return Reading(math.nan, 'unclear')
    end = _after_limit(text, last.end(), high)
    if end is None:
        return Reading(math.nan, 'unclear')
    return _in_range(float(last[1]), low, high, 'brackets', last.start(1))


def _read_value(text: str, start: int, low: float, high: float) -> Reading:
    """The score that begins at `start`, right after a mark."""
    unclear = Reading(math.nan, 'unclear')
    prefix = PREFIX.match(text, start)
    position = prefix.end() if prefix else start
    how, total = 'mark', SUM.match(text, position)
    if total:
        how, position = 'sum', total.end()
    value = VALUE.match(text, position)
    if value is None:
        return unclear
    number = value[1]
    if total and _sum(total[0].partition('=')[0]) != Fraction(number):
        return unclear
    end = value.end()
    later = LATER_SUM.match(text, end)
    if later:
        if _sum(later[1]) != Fraction(number):
            return unclear
        how, end = 'sum', later.end()
    after = _after_limit(text, end, high)
    if after is None or not _ends_there(
        text, end, after, is_on_own_line='\n' in text[start:position]
    ):
        return unclear
    return _in_range(float(number), low, high, how, value.start(1))


def _sum(text: str) -> Fraction:
    return sum(
        (
            Fraction(part.replace(' ', ''))
            for part in re.findall(rf'[-+]?\s*{NUMBER.removeprefix("-?")}', text)
        ),
        Fraction(0),
    )


def _after_limit(text: str, end: int, high: float) -> int | None:
    """The position after '/ 5', '(out of 5)' and 'points'; None if the limit is not `high`."""
    unit = UNIT.match(text, end)
    if unit:
        end = unit.end()
    own = OWN_FRACTION.match(text, end)
    limit = LIMIT.match(text, own.end() if own else end)
    if limit:
        if float(limit[1]) != high:
            return None
        end = limit.end()
        unit = UNIT.match(text, end)
        end = unit.end() if unit else end
        if re.match(r'\s*/|\.?\d', text[end:]):
            return None
        closing = re.match(r'\s*\)', text[end:])
        return end + closing.end() if closing else end
    return None if own else end


def _ends_there(text: str, end: int, after: int, is_on_own_line: bool) -> bool:
    """Whether what follows a number leaves it the score. `end`: of the number, `after`: of its
    limit and unit.
    """
    closing = re.compile(CLOSE).match(text, after)
    after = closing.end() if closing else after
    if is_on_own_line and re.match(r'[.)]?[ \t]+\S', text[after:]) and after == end:
        return False  # an item of a list
    return FOLLOWS.match(text, after) is not None


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


# --- the better of two ---

WINNER_WORD = re.compile(r'\bwinner\b', re.IGNORECASE)
WINNER_SEPARATOR = re.compile(r'[*_"\'`)]*\s*(?:[:=>][*_"\'`]*|(?:is|[-–—])\s*:?)')
WINNER_BRACKETS = re.compile(r'\[\[\s*([ABC]|tie)\s*\]\]', re.IGNORECASE)
SIDE_WORD = (
    r'(?:answer|response|assistant|judge?ment|candidate|output|option|model|solution|side|verdict)'
)
NAMED_SIDE = re.compile(rf'\b{SIDE_WORD}[\s_#*"\'`(\[-]*([a-z])(?![\w\'])', re.IGNORECASE)
ENCLOSED_SIDE = re.compile(r'[(\[{"\'`*_$]\s*([A-Za-z])\s*[)\]}"\'`*_$]')
# A capital that stands alone; an A before another word is an article, but for these words.
CAPITAL_SIDE = re.compile(
    r"(?<![\w'/.-])(?:[B-Z](?![\w'/+-]|\.\w)"
    r"|A(?![\w'/+-]|\.\w|\s+(?!(?:is|was|wins|won|because|since|by|for|over|as|and|or|vs)\b)[a-z]))"
)
TIE = re.compile(r'\b(?:tie[sd]?|draw|drawn|equal(?:ly)?|even)\b(?!-?break)', re.IGNORECASE)
OPENING_TIE = re.compile(
    r'\W*(?:it(?:\'s| is)\s+|this is\s+)?(?:an?\s+)?(?:exact\s+|clear\s+)?'
    r'(?:ties?|tied|draw|drawn|equal|even)\b(?!-?break)',
    re.IGNORECASE,
)
BOTH_SIDES = re.compile(
    rf'\W*(?:both\s+)?(?:{SIDE_WORD}s?\s+)?A\W*(?:and|&|vs\.?)\W*(?:{SIDE_WORD}\s+)?B\b',
    re.IGNORECASE,
)
DENIAL = re.compile(r"\b(?:not|no|nor|neither|never|none|cannot|isn't|unclear|undecided)\b", re.I)


def read_winner(text: str) -> Reading:
    """How a comparison of A and B ends: 1 if A wins, 0 if B wins, 0.5 for a tie.

    Two names ('A or B'), a denial ('not A') and any other name are no verdict.
    """
    text = _aligned(text)
    marks = []
    for match in WINNER_WORD.finditer(text):
        separator = WINNER_SEPARATOR.match(text, match.end())
        if separator and _opens_sentence(text, match.start()):
            content = _conclusion_after(text, separator.end())
            value = _side(content)
            is_strong = re.search(r'[:=>]', separator[0]) is not None
            if is_strong or not math.isnan(value):
                marks.append((match.start(), value))
    brackets = list(WINNER_BRACKETS.finditer(text))
    if brackets and (not marks or brackets[-1].start() > marks[-1][0]):
        return _read_winner_brackets(text, brackets)
    if not marks:
        return Reading(math.nan, 'no mark')
    value = marks[-1][1]
    return Reading(value, 'unclear' if math.isnan(value) else 'mark')


def _read_winner_brackets(text: str, brackets: list) -> Reading:
    last = brackets[-1]
    line_start = text.rfind('\n', 0, last.start()) + 1
    if any(b.start() >= line_start and b[1].upper() != last[1].upper() for b in brackets):
        return Reading(math.nan, 'unclear')
    return Reading({'A': 1.0, 'B': 0.0}.get(last[1].upper(), 0.5), 'brackets')


def _conclusion_after(text: str, start: int) -> str:
    """The sentence from `start`, or the next line that says anything."""
    lines = text[start:].split('\n')
    line = next((line for line in lines if re.search(r'\w', line)), '')
    return re.split(r'(?<=\w)[*_"\')\]]*[.!](?=\s|$)', line)[0].strip()


def _side(text: str) -> float:
    """1 for A, 0 for B, 0.5 for a tie, nan for anything else."""
    if OPENING_TIE.match(text) or re.fullmatch(r'\W*A\s*/\s*B\W*', text, re.IGNORECASE):
        return 0.5
    if TIE.search(text):
        return 0.5 if BOTH_SIDES.match(text) and not DENIAL.search(text) else math.nan
    if DENIAL.search(text):
        # 'a little unclear, but B' concludes with what comes after 'but'.
        _, but, rest = text.rpartition('but ')
        return _side(rest) if but else math.nan
    alone = re.fullmatch(r'[^\w+/]*([A-Za-z])[^\w+/]*', text)
    if alone:
        names = {alone[1].upper()}
    else:
        named = NAMED_SIDE.findall(text) + ENCLOSED_SIDE.findall(text)
        names = {name.upper() for name in named + CAPITAL_SIDE.findall(text)} - {'I'}
        if names and re.search(
            r'(?<![\w/])A(?![\w+/])', text
        ):  # an article, or the other name: 'A equals B'
            names.add('A')
    return {frozenset('A'): 1.0, frozenset('B'): 0.0}.get(frozenset(names), math.nan)


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
