"""Quantities: a number with at most a unit, read from the words around it.

What may stand beside the number, and nothing else:
  before it, a sign, a currency, 'x =', a sum that equals it, or words without a number;
  after it, a scale word, which multiplies it, a unit (a symbol that units.UNITS knows, or words),
  or both.
A second number, a number in words, a range, a comparison, a negation, an operation left over or a
single letter that is no unit make the text no quantity. A miss is better than a false reading.
"""

import ast
import re
from fractions import Fraction
from typing import NamedTuple

from selfrew.tasks.answers.spelling import (
    GROUP_COMMA,
    fold,
    strip_latex_style,
    unbox,
    unwrap,
    unwrap_texts,
)
from selfrew.tasks.answers.units import (
    GLUED_UNITS,
    SCALES,
    UNIT_LETTERS,
    UNIT_NAMES,
    are_other_units,
)


class Quantity(NamedTuple):
    value: Fraction  # exact; a percentage is the number before the sign
    unit: (
        str | None
    )  # as units.UNITS names it; None without a unit, or for one that it does not know


NUMBER_WORDS = frozenset(
    'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen '
    'sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety '
    'first third fourth fifth sixth seventh eighth ninth tenth '
    'half halves thirds quarter fourths fifths tenths couple several few'.split()
)
SCALE_WORDS = frozenset(SCALES) | frozenset(
    'hundreds thousands lakhs millions crores billions trillions dozens mn bn mil score gross '
    'quadrillion'.split()
)
NEGATIONS = frozenset(
    "not no never none neither nor cannot can't isn't wasn't aren't doesn't didn't don't won't "
    "wouldn't without except wrong incorrect false mistake mistaken impossible unknown unless "
    'instead unlike untrue invalid isnt error'.split()
)
VAGUE = frozenset(
    'or either maybe perhaps possibly might may could almost nearly about around approximately '
    'approx roughly circa exceeds exceed beyond least most under above below between within versus '
    'vs if ranging range ranges minimum maximum greater smaller'.split()
)
OPERATIONS = frozenset(
    'plus minus times multiplied divided multiply divide add subtract squared cubed power root '
    'factorial double doubled triple tripled twice thrice fold modulo mod remainder sqrt frac '
    'square-root negative'.split()
)
CLOCK = frozenset("am pm a.m p.m a.m. p.m. o'clock oclock ago".split())
REFUSED = NUMBER_WORDS | SCALE_WORDS | NEGATIONS | VAGUE | OPERATIONS | CLOCK
REFUSED_BEFORE = REFUSED | {'than', 'over', 'until', 'from', 'up'}
# 'Step 3' counts steps.
LABELS = frozenset(
    'step part question problem example page case equation section chapter figure option method '
    'exercise line item number no base'.split()
)
REFUSED_AFTER = (
    REFUSED
    | {'and', 'is', 'are', 'was', 'were', 'than', 'too', 'short', 'off', 'out', 'off-by', 'base'}
    | {'to', 'as', 'but', 'i', 'with'}
)

WHOLE = r'(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)'
DECIMAL = rf'(?:{WHOLE}(?:\.\d+)?|\.\d+)'
SCIENTIFIC = rf'{DECIMAL}(?:[eE][+-]?\d+|\s*(?:×|\*|x)\s*10\s*\^\s*\{{?\s*[+-]?\d+\s*\}}?)'
MIXED = r'\d+\s+\d+\s*/\s*\d+'
RATIO = rf'{DECIMAL}\s*/\s*{DECIMAL}'
CURRENCY = r'(?:us\$|usd|eur|gbp|jpy|inr|rs\.?(?=\s?\d)|[$€£¥₹])'
NUMBER = re.compile(
    rf'(?<![\w.,^/\\])(?P<sign>[+-]?)\s?(?P<before>{CURRENCY}?)\s?(?P<sign2>[+-]?)'
    rf'(?P<number>{SCIENTIFIC}|{MIXED}|{RATIO}|{DECIMAL})',
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W\d_]+(?:[.'’-][^\W\d_]+)*\.?(?:\^\d)?|[%°¢$€£¥₹](?:[CF](?![a-z]))?")
AFTER_MARKS = re.compile(r"[\s.,/'()!%°¢$€£¥₹*_-]*")
BEFORE_MARKS = re.compile(r"[\s,:;'\"()/*_=.-]*")
FRACTION = re.compile(r'\\frac\s*(?:\{\s*(-?\d[\d,.]*)\s*\}|(\d))\s*(?:\{\s*(\d[\d,.]*)\s*\}|(\d))')
PICTURES = re.compile('[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff]')
VERDICT_ON_ITSELF = re.compile(
    r'\s+is\s+(?:the|our|my)\s+(?:\w+\s+)?(?:answer|result|total)\b.*', re.IGNORECASE
)
REASON = re.compile(r'\s*,\s*(?:because|since|which|so)\s.*', re.IGNORECASE | re.DOTALL)
NEXT_SENTENCE = re.compile(r'(?<=[^\s.])[.!](?=\s+[A-Z*#(])')


def read(text: str) -> Quantity | None:
    """The one quantity that a text states, or None.

    'She needs $1,250 a week.' is 1250 in dollars; '40 + 2 = 42' is 42; '1/2' and '3 1/2' are
    fractions; '5 million' is 5,000,000. '5 or 6', '5x', '5 is wrong', '12:30' are no quantity.
    """
    text = _plain(text)
    quantity = _statement(text)
    if quantity is None:
        head, *rest = NEXT_SENTENCE.split(text, maxsplit=1)
        # What follows a bare quantity is talk; a sentence among several may be a step.
        if rest and NUMBER.match(head):
            quantity = _statement(head)
    return quantity


def _plain(text: str) -> str:
    """The text without mark-up, on one line."""
    if '\\' in text or '{' in text or not text.isascii():
        text = unwrap_texts(strip_latex_style(fold(unbox(text))))
        text = text.replace('\\$', 'USD ').replace('\\%', '%').replace('\\times', '×')
        text = FRACTION.sub(_fraction_text, text)
        text = re.sub(r'\\[()\[\]]', ' ', text)
        text = re.sub(r'\s+\^', '^', PICTURES.sub(' ', text))
        text = re.sub(r'\^\s*\{\s*(\d)\s*\}', r'^\1', text)
    text = ' '.join(unwrap(text).split())
    if text.count('$') % 2 == 0:  # in pairs: brackets of maths, no currency
        text = re.sub(r'\$([^$]*)\$', r'\1', text)
    text = re.sub(r'^\$([^$]*\$[^$]*)\$$', r'\1', text)
    text = re.sub(r'\*\*|__|`|"', '', text)
    return re.sub(r'^\(([^(),]*)\)$', r'\1', unwrap(text))


def _fraction_text(match: re.Match) -> str:
    return f' {match[1] or match[2]}/{match[3] or match[4]} '


def _statement(text: str) -> Quantity | None:
    """The quantity of one sentence; of a chain 'a = b = c' the last, if the others equal it."""
    text = unwrap(VERDICT_ON_ITSELF.sub('', text))
    *left_sides, last = re.split(r'(?<![<>!≠≤≥])=', text)
    quantity = _in_words(last)
    if quantity is None:
        quantity = _in_words(_without_reason(last))
    if quantity is None or not all(_agrees(side, quantity.value) for side in left_sides):
        return None
    return quantity


def _without_reason(text: str) -> str:
    """The text without ', because …', unless that takes the number back."""
    match = REASON.search(text)
    if match is None or _words(match[0]) & NEGATIONS:
        return text
    return text[: match.start()]


def _words(text: str) -> set[str]:
    return {word.rstrip('.') for word in WORD.findall(text.casefold())}


def _agrees(side: str, value: Fraction) -> bool:
    """Whether the left side of an '=' is a name, or a sum that has that value."""
    if not re.search(r'\d', side):
        is_name = re.fullmatch(r"[\w\s'’:,.()*$\\-]*", side) is not None
        return is_name and not _words(side) & REFUSED_BEFORE
    sum_text = re.sub(r'[^\W\d_]{2,}[.]?|[$€£¥₹%°:]|(?<=\s)a(?=\s)', ' ', side)
    sum_text = re.sub(r'(?<=\d)\s*x\s*(?=\d)', '*', sum_text)
    return evaluate(sum_text.replace('×', '*').replace('÷', '/')) == value


def _in_words(text: str) -> Quantity | None:
    """The quantity of a text without '='."""
    matches = list(NUMBER.finditer(text))
    if len(matches) != 1:
        return None
    [match] = matches
    value = number_value(match['number'])
    before, after = text[: match.start()], text[match.end() :]
    if value is None or not _may_precede(before) or (match['sign'] and match['sign2']):
        return None
    if '-' in (match['sign'], match['sign2']):
        value = -value
    named = re.search(r'(?:^|\s)(?:negative|minus)\s*$', before, re.IGNORECASE)
    if named:
        value, before = -value, before[: named.start()]
    if _words(before) & REFUSED_BEFORE:
        return None
    value, after = _with_scale(value, after)
    if not _may_follow(after):
        return None
    return Quantity(value, _unit(match['before'], after))


def number_value(text: str) -> Fraction | None:
    """The exact value of a decimal, a fraction, a mixed number or a number in scientific notation.

    None for a denominator of 0, or an exponent of more than three digits.
    """
    text = text.replace(',', '')
    power = re.fullmatch(r'(.+?)\s*(?:[eE]|(?:×|\*|x)\s*10\s*\^)\s*\{?\s*([+-]?\d+)\s*\}?', text)
    if power:
        is_small = len(power[2].lstrip('+-')) <= 3
        return Fraction(power[1]) * Fraction(10) ** int(power[2]) if is_small else None
    whole, fraction = '0', text
    if re.fullmatch(MIXED, text):
        whole, fraction = re.split(r'\s+', text, maxsplit=1)
    numerator, _, denominator = fraction.partition('/')
    bottom = Fraction(denominator.strip() or 1)
    return Fraction(whole) + Fraction(numerator.strip()) / bottom if bottom else None


def _may_precede(text: str) -> bool:
    """Whether only words, and marks that do not calculate, stand before a number."""
    words = WORD.findall(text)
    is_plain = BEFORE_MARKS.fullmatch(WORD.sub(' ', text)) is not None
    if not is_plain or re.search(r'[(/.*-]$|\w$', text) and not re.search(r'\s\($', text):
        return False
    letters = [word for word in words if len(word) == 1 and word not in 'aAI']
    last = words[-1].casefold().rstrip('.') if words else ''
    return not letters and last not in LABELS | {'a', 'an'}


def _with_scale(value: Fraction, after: str) -> tuple[Fraction, str]:
    """The value times the scale words right after it, and the rest."""
    while match := re.match(r'(?:[kK](?![a-zA-Z])|\s+[kK](?![a-zA-Z])|\s*-?([a-zA-Z]+))', after):
        word = (match[1] or 'k').casefold()
        if word not in SCALES:
            break
        value, after = value * SCALES[word], after[match.end() :]
    return value, after


def _may_follow(after: str) -> bool:
    """Whether the text after a number is a unit, by this module's rule."""
    glued = re.match(r'[^\W\d_]+|°[CF]?|[%¢]', after)
    if glued and glued[0].casefold() not in GLUED_UNITS:
        return False
    if re.match(r'\s*[*^!]\s*[\w(^]|[-_\'"]|\s+[-*/(]\s*\d', after) or after.endswith('-'):
        return False
    after = re.sub(r'^\s+\(?times\)?(?=$| (?:a|per|each|every|in|this|as)\b)', ' per', after)
    words = WORD.findall(after)
    if not AFTER_MARKS.fullmatch(WORD.sub(' ', after)) or len(words) > 12:
        return False
    plain = [word.split('^')[0].rstrip('.') for word in words]
    if any('^' in word and base.casefold() not in UNIT_NAMES for word, base in zip(words, plain)):
        return False
    if {word.casefold() for word in plain} & REFUSED_AFTER:
        return False
    return all(_is_unit_letter(i, word) for i, word in enumerate(plain) if len(word) == 1)


def _is_unit_letter(position: int, word: str) -> bool:
    """Whether a single letter after a number is part of a unit and no variable."""
    if not word.isalpha() or word in UNIT_LETTERS:
        return True
    return position > 0 and word == 'a'  # 'times a day'


def _unit(currency: str, after: str) -> str | None:
    """The name in units.UNITS of the unit that a quantity has, rates as 'km/h'."""
    if currency:
        return UNIT_NAMES.get(currency.casefold().rstrip('.'))
    words = [word.split('^') for word in WORD.findall(after)]
    power = ''
    for i, [word, *exponent] in enumerate(words):
        name = UNIT_NAMES.get(word.casefold().rstrip('.'))
        lowered = word.casefold().rstrip('.')
        if lowered in ('square', 'sq', 'cubic', 'cu'):
            power = '2' if lowered.startswith('sq') else '3'
            continue
        parts = re.split(r'\s*(?:/|\bper\b)\s*', after, maxsplit=1)
        if name is None or i > (1 if power else 0):
            return None
        power = exponent[0] if exponent else power
        rate = WORD.search(parts[1]) if len(parts) == 2 else None
        rate_name = UNIT_NAMES.get(rate[0].casefold(), rate[0].casefold()) if rate else ''
        whole = f'{name}^{power}' if power else name
        return f'{whole}/{rate_name}' if rate else whole
    return None


def evaluate(text: str) -> Fraction | None:
    """The exact value of a sum of numbers with + - * / and brackets; None for any other text."""
    text = GROUP_COMMA.sub('', text).strip()
    text = re.sub(r'\b0+(?=\d)', '', text)
    if not text or len(text) > 200 or not re.fullmatch(r'[\d\s.+*/()-]*', text) or '//' in text:
        return None
    try:
        return _node_value(ast.parse(text, mode='eval').body, text)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _node_value(node: ast.expr, text: str) -> Fraction:
    """The value of a part of a sum. ValueError for anything but the four operations."""
    match node:
        case ast.Constant():
            return Fraction(ast.get_source_segment(text, node) or '')
        case ast.UnaryOp(op=ast.USub()):
            return -_node_value(node.operand, text)
        case ast.BinOp(op=ast.Add()):
            return _node_value(node.left, text) + _node_value(node.right, text)
        case ast.BinOp(op=ast.Sub()):
            return _node_value(node.left, text) - _node_value(node.right, text)
        case ast.BinOp(op=ast.Mult()):
            return _node_value(node.left, text) * _node_value(node.right, text)
        case ast.BinOp(op=ast.Div()):
            return _node_value(node.left, text) / _node_value(node.right, text)
    raise ValueError(f'no sum: {text}')


def key(value: Fraction) -> str:
    """The canonical form of an exact number: '42', '-1/2'."""
    return str(value)


def same(truth: Quantity, said: Quantity) -> bool:
    """Whether two quantities are equal exactly, in units that are not known to differ."""
    return truth.value == said.value and not are_other_units(truth.unit, said.unit)
