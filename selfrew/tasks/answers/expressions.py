"""Expressions in LaTeX, read by math-verify and compared by their value.

An expression with variables is compared by its values at two points that are the same for all; two
expressions with the same values there, to twenty digits, are equal everywhere.
"""

import logging
import re
import zlib
from fractions import Fraction
from typing import Any, NamedTuple

import math_verify
import sympy
from sympy.core.function import AppliedUndef

from selfrew.tasks.answers import quantities
from selfrew.tasks.answers.spelling import GROUP_COMMA, TEXT_COMMAND, braced_end

logging.getLogger('math_verify').setLevel(logging.ERROR)  # it warns of the limit that we set


class Unreadable(ValueError):
    """The text is no mathematics."""


class Key(NamedTuple):
    text: str
    is_exact: bool  # whether expressions of other keys are other expressions


DECIMAL = re.compile(r'(?<![\w.])(\d*)\.(\d+)(?![\d.])')
REPEATING = re.compile(r'(\d*)\.(\d*)\\(?:overline|bar)\s*(?:\{(\d+)\}|(\d))')
MIXED = re.compile(r'(-?)(\d+)\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))')
GREEK = frozenset(
    'alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi '
    'varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega'.split()
)


def key(text: str) -> Key:
    """The key of an expression. Raises Unreadable for text that is none."""
    parsed = _parse(text)
    if isinstance(parsed, sympy.FiniteSet):  # 1 ± √2
        values = [_value_key(element, text) for element in parsed.args]
        if None in values:
            raise Unreadable(text)
        return Key(f'{{{", ".join(sorted(map(str, values)))}}}', True)
    if not isinstance(parsed, sympy.Expr):
        return Key(f'{type(parsed).__name__}: {sympy.srepr(parsed)}', False)
    if parsed.is_infinite:
        return Key(str(parsed).replace('oo', '∞'), True)
    value = _value_key(parsed, text)
    if value is None:
        return Key(f'{" ".join(variables(text))}: {sympy.srepr(parsed)}', False)
    return Key(value, True)


def equation_key(left: str, right: str) -> str:
    """A key that an equation shares with its multiples. Raises Unreadable for text that is none."""
    difference = _parse(left) - _parse(right)
    symbols = sorted(difference.free_symbols, key=str)
    values = [_value(difference, symbols, point) for point in (FIRST, SECOND)]
    if None in values or values[1] == 0:
        raise Unreadable(left)
    ratio = sympy.N(values[0] / values[1], 30)
    return f'{" ".join(map(str, symbols))}: 0 = {_digits(ratio)}'


def _value_key(parsed, text: str) -> str | None:
    """The key of an expression: exact for a fraction, else its variables and twenty digits of its
    value at two points, one of them negative: |x| is not x. None if it has no value at the first.
    """
    symbols = sorted(parsed.free_symbols, key=str)
    simple = parsed.doit()
    if simple.is_Rational:
        return quantities.key(Fraction(int(simple.p), int(simple.q)))
    value = _value(parsed, symbols, FIRST)
    if value is None:
        return None
    names = ' '.join(variables(text))
    if not names:
        return _digits(value)
    second = _value(parsed, symbols, SECOND)
    return f'{names}: {_digits(value)}, {"undefined" if second is None else _digits(second)}'


# (Salt, sign) of the points at which expressions are evaluated.
FIRST, SECOND = ('', 1), ('second', -1)


def _value(parsed, symbols, point: tuple[str, int]) -> Any:
    """The value of an expression to 40 digits, where each symbol has a value of its own; None if
    there is none.
    """
    salt, sign = point
    points = {
        s: sign * (sympy.Rational(zlib.crc32(f'{s}{salt}'.encode()), 2**31) + sympy.Rational(1, 3))
        for s in symbols
    }
    # The imaginary unit is a variable to math-verify.
    points |= {s: sympy.I for s in symbols if str(s) == 'i'}
    try:
        value = parsed.subs(points).doit()
        value = sympy.N(value, 40, chop=True)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError):
        return None
    is_number = value.is_number and not value.free_symbols and value.is_finite
    return value if is_number and not value.has(sympy.nan, sympy.zoo, sympy.oo) else None


def _digits(value) -> str:
    """A number as a fraction if it is one to 35 digits, else as twenty digits."""
    texts = []
    for part in value.as_real_imag():
        exact = Fraction(str(part)).limit_denominator(10**6)
        is_exact = abs(Fraction(str(part)) - exact) < Fraction(1, 10**35) and (exact or not part)
        texts.append(quantities.key(exact) if is_exact else str(sympy.N(part, 20)))
    return texts[0] if texts[1] == '0' else f'{texts[0]} + {texts[1]} i'


def variables(text: str) -> list[str]:
    """The letters of an expression that are no constants, case kept."""
    text = TEXT_COMMAND.sub(' ', text)
    commands = re.findall(r'\\(?:[a-zA-Z]+)', text)
    greek = {c for c in commands if c[1:] in GREEK}
    letters = set(re.findall(r'[a-zA-Z]', re.sub(r'\\[a-zA-Z]+', ' ', text))) - {'e', 'i'}
    return sorted(letters | greek)


def _parse(text: str) -> Any:
    """The sympy expression of a text, by math-verify. Decimals are exact fractions.

    Raises Unreadable for text that it cannot read, or would read only in part.
    """
    if re.search(r'\d\.\d+\.\d', text):  # a version, an address
        raise Unreadable(text)
    text = _with_exact_numbers(text)
    _check_expression(text)
    parsed = math_verify.parse(
        f'${text}$',
        extraction_config=[math_verify.LatexExtractionConfig()],
        parsing_timeout=0,
        raise_on_error=False,
    )
    if len(parsed) < 2 or isinstance(parsed[0], str) or not _has_all_letters(parsed[0], text):
        raise Unreadable(text)
    return parsed[0]


def _has_all_letters(parsed, text: str) -> bool:
    """Whether no letter was dropped as a unit: math-verify reads '9 pm' as 9."""
    read = ''.join(str(symbol) for symbol in parsed.atoms(sympy.Symbol)).casefold()
    read += ''.join(str(f.func) for f in parsed.atoms(AppliedUndef)).casefold()
    return all(letter.casefold().lstrip('\\') in read for letter in variables(text))


def _with_exact_numbers(text: str) -> str:
    """Decimals, repeating decimals and mixed numbers as fractions."""
    text = REPEATING.sub(_repeating_fraction, text)
    text = MIXED.sub(_mixed_fraction, text)
    text = GROUP_COMMA.sub('', text)
    return DECIMAL.sub(lambda m: f'\\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}', text)


def _repeating_fraction(match: re.Match) -> str:
    whole, start, cycle = match[1] or '0', match[2], match[3] or match[4]
    value = Fraction(int(whole + start + cycle) - int(whole + start))
    value /= (10 ** len(cycle) - 1) * 10 ** len(start)
    return f'\\frac{{{value.numerator}}}{{{value.denominator}}}'


def _mixed_fraction(match: re.Match) -> str:
    sign, whole, top, bottom = match[1], int(match[2]), match[3] or match[4], match[5] or match[6]
    return f'{sign}\\frac{{{whole * int(bottom) + int(top)}}}{{{bottom}}}'


def _check_expression(text: str) -> None:
    """Raises Unreadable for text that math-verify would read in part, or as something else."""
    if TEXT_COMMAND.search(text) or re.search(r'(?<![_\d])\d+\s+\d|[:?;]|\d_|\.\.|\\l?dots', text):
        raise Unreadable(text)
    if re.search(r'(?<![a-zA-Z\\])[a-zA-Z]{4,}', text) or re.search(r'[-+*/=^_]\s*$', text):
        raise Unreadable(text)
    if re.search(r'\{', text) and braced_end('{' + text + '}', 0) != len(text) + 2:
        raise Unreadable(text)
    if re.search(r'(?<![a-zA-Z])[a-zA-Z]\s+[a-zA-Z]{2,}|\d\s+[apAP]\.?[mM]\b', text):
        raise Unreadable(text)


def verify(truth: str, said: str) -> bool:
    """math-verify's decision on two expressions, without its rounding."""
    try:
        first, second = _parse(truth), _parse(said)
    except Unreadable:
        return False
    return math_verify.verify(
        first, second, float_rounding=15, numeric_precision=40, strict=True, timeout_seconds=0
    )
