"""Final answers, by form: what a response concludes with, as a vote, and against a truth.

A form owns three functions, and nothing else decides:
  extract(response, options)   -> what it concludes with, as text, or None
  key(answer, options)         -> the answer's canonical form; votes are counted by it
  same(truth, answer, options) -> whether the answer is that truth
`options` are the texts of a multiple-choice question, () for others.

A false accept is worse than a miss: what cannot be read for certain is not the same.
"""

import functools
import itertools
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from selfrew.tasks.answers import choices, math_process, quantities, units
from selfrew.tasks.answers.conclusions import conclusion
from selfrew.tasks.answers.quantities import Quantity
from selfrew.tasks.answers.spelling import TEXT_COMMAND, fold, unwrap, words_key


class Form(NamedTuple):
    extract: Callable[..., str | None]
    key: Callable[..., str]
    same: Callable[..., bool]


def truth_text(truth: Any) -> str:
    """A truth as text. A number keeps all its digits: 51.0 is '51', 5e-05 is '0.00005'."""
    if isinstance(truth, float) and not isinstance(truth, bool):
        text = f'{Decimal(repr(truth)):f}'
        return text.removesuffix('.0')
    return str(truth)


# --- numbers: gsm8k, svamp, mawps ---

# A truth with at least this many decimals and digits is a rounded float, see _is_close.
FLOAT_DECIMALS, FLOAT_DIGITS, ALL_DIGITS = 5, 6, 15
RELATIVE_TOLERANCE = Fraction(1, 10**9)


@functools.lru_cache(2**16)
def _quantity(text: str) -> Quantity | None:
    return quantities.read(text)


def _is_quantity(text: str) -> bool:
    return _quantity(text) is not None


def _extract_number(response: str, options: tuple = ()) -> str | None:
    del options
    return conclusion(response, _is_quantity)


def _number_key(answer: str, options: tuple = ()) -> str:
    del options
    quantity = _quantity(answer)
    return words_key(answer) if quantity is None else quantities.key(quantity.value)


def _is_same_number(truth: str, answer: str, options: tuple = ()) -> bool:
    del options
    expected, said = _quantity(truth), _quantity(answer)
    if expected is None or said is None:
        return expected is said and words_key(truth) == words_key(answer)
    return quantities.same(expected, said) or _is_close(truth, answer, expected, said)


def _digits(text: str) -> int:
    """The number of significant digits in a text."""
    return len(re.sub(r'\D', '', text).lstrip('0'))


def _is_close(truth: str, answer: str, expected: Quantity, said: Quantity) -> bool:
    """Whether an answer is a truth that a data set holds as a rounded float.

    Such a truth has at least 5 decimals and 6 digits (3.33333). The answer may differ by half a
    unit of its last digit; from a truth of 15 digits or more, whose last ones are noise, an answer
    of fewer digits may differ by a relative 1e-9.
    """
    is_decimal = re.fullmatch(rf'-?\d+\.\d{{{FLOAT_DECIMALS},}}', truth.strip())
    if not is_decimal or _digits(truth) < FLOAT_DIGITS:
        return False
    decimals = len(truth.strip().partition('.')[2])
    difference = abs(expected.value - said.value)
    is_rounding = difference <= Fraction(1, 2 * 10**decimals)
    is_noise = _digits(answer) < ALL_DIGITS <= _digits(truth) and (
        difference <= abs(expected.value) * RELATIVE_TOLERANCE
    )
    return (is_rounding or is_noise) and not units.are_other_units(expected.unit, said.unit)


NUMBER = Form(_extract_number, _number_key, _is_same_number)


# --- numbers in several parts: asdiv ---

PART_BREAK = re.compile(r'\s*;\s*|,\s+(?:and\s+)?|\s+and\s+')
MOST_PARTS = 6  # of which all orders are tried
LABEL_WORD = re.compile(r'[a-z]+')


class Part(NamedTuple):
    quantity: Quantity
    label: frozenset  # words beside the number


def _parts(text: str) -> tuple[Part, ...]:
    """The quantities of '12 (red); 15 (blue)' or '12 red and 15 blue'; () if any part is none."""
    whole = _quantity(text)
    if whole is not None:
        return (Part(whole, frozenset()),)
    parts = []
    for piece in PART_BREAK.split(unwrap(fold(text))):
        quantity = _quantity(piece)
        if quantity is None:
            return ()
        parts.append(Part(quantity, frozenset(LABEL_WORD.findall(piece.casefold()))))
    return tuple(parts)


LABELLED = re.compile(r'([^()]+)\(([^()]*)\)')  # as the set writes a part: 12 (third graders)


def _true_parts(truth: str) -> tuple[Part, ...]:
    """The quantities of a truth, whose labels may be any words; () if it is in words."""
    parts = []
    for piece in truth.split(';'):
        labelled = LABELLED.fullmatch(piece.strip())
        number, label = (labelled[1], labelled[2]) if labelled else (piece, '')
        quantity = _quantity(number)
        if quantity is None:
            return ()
        measured = _quantity(f'1 {label}')
        unit = measured.unit if measured else quantity.unit
        words = frozenset(LABEL_WORD.findall(label.casefold()))
        parts.append(Part(quantity._replace(unit=unit), words))
    return tuple(parts)


def _extract_parts(response: str, options: tuple = ()) -> str | None:
    del options
    return conclusion(response, lambda text: bool(_parts(text)), takes_words=True)


def _parts_key(answer: str, options: tuple = ()) -> str:
    del options
    parts = _parts(answer)
    if not parts:
        return re.sub(r'(?<=\d)\s*:\s*(?=\d)', ':', words_key(answer))
    return '; '.join(quantities.key(part.quantity.value) for part in parts)


def _has_same_parts(truth: str, answer: str, options: tuple = ()) -> bool:
    """Whether every part of a truth is said, and no other.

    Parts that are named may come in any order; others come in the truth's.
    """
    if _parts_key(truth) == _parts_key(answer) and not _parts(truth):  # words, or the same text
        return True
    expected, said = _true_parts(truth), _parts(answer)
    if len(expected) != len(said) or not expected:
        return False
    shared = frozenset.intersection(*(part.label for part in expected))
    labels = [part.label - shared for part in expected]
    all_labels = frozenset.union(*labels)
    is_named = any(part.label & all_labels for part in said)

    def is_part(i: int, part: Part) -> bool:
        has_other_name = part.label & (all_labels - labels[i])
        return quantities.same(expected[i].quantity, part.quantity) and not has_other_name

    orders = itertools.permutations(said) if is_named and len(said) <= MOST_PARTS else [said]
    return any(all(is_part(i, part) for i, part in enumerate(order)) for order in orders)


PARTS = Form(_extract_parts, _parts_key, _has_same_parts)


# --- letters: arc ---


def _extract_letter(response: str, options: tuple = ()) -> str | None:
    return conclusion(response, lambda text: choices.read(text, options) is not None)


def _letter_key(answer: str, options: tuple = ()) -> str:
    return choices.read(answer, options) or words_key(answer)


def _is_same_letter(truth: str, answer: str, options: tuple = ()) -> bool:
    letter = choices.read(answer, options)
    return letter is not None and letter == choices.read(truth)


LETTER = Form(_extract_letter, _letter_key, _is_same_letter)


# --- mathematics: math ---

PLAIN_NUMBER = re.compile(r'-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?')
FORMULA_SIGN = re.compile(r'[\\^_=<>+*/()\[\]\d-]')
LONG_WORD = re.compile(r'(?<![\\a-zA-Z])[a-zA-Z]{3,}')


def _is_mathematical(text: str) -> bool:
    """Whether a text is a formula rather than words."""
    if _is_quantity(text):
        return True
    bare = TEXT_COMMAND.sub(' ', unwrap(text))
    return FORMULA_SIGN.search(text) is not None and LONG_WORD.search(bare) is None


def _plain_value(text: str) -> Fraction | None:
    """The value of a plain number, which needs no math-verify."""
    plain = unwrap(text)
    return quantities.number_value(plain) if PLAIN_NUMBER.fullmatch(plain) else None


def _extract_mathematics(response: str, options: tuple = ()) -> str | None:
    del options
    return conclusion(response, _is_mathematical, takes_words=True)


def _mathematics_key(answer: str, options: tuple = ()) -> str:
    del options
    value = _plain_value(answer)
    if value is not None:
        return quantities.key(value)
    return math_process.key(answer) or words_key(answer)


def _is_same_mathematics(truth: str, answer: str, options: tuple = ()) -> bool:
    del options
    values = _plain_value(truth), _plain_value(answer)
    if None not in values:
        return values[0] == values[1]
    is_same_text = re.sub(r'\s', '', unwrap(truth)) == re.sub(r'\s', '', unwrap(answer))
    return is_same_text or math_process.same(truth, answer)


MATHEMATICS = Form(_extract_mathematics, _mathematics_key, _is_same_mathematics)


# --- anything: a user's records ---

OPERATOR = re.compile(r'\d\s*(?:[-+*×·÷−]|\\(?:times|cdot|div)\b)\s*\d')  # between two numbers
LETTER_ANSWER = re.compile(
    r'\W*(?:(?:the )?(?:correct )?(?:answer|option|choice) (?:is )?)?\W*[A-H]\W*', re.IGNORECASE
)


def _is_conclusive(text: str) -> bool:
    return _is_mathematical(text) or _letter_of(text) is not None


def _letter_of(text: str) -> str | None:
    """The letter of an answer that is nothing else, or that has it in brackets."""
    is_bracketed = re.match(r'\W*\([A-Ha-h]\)(?:\s|\W*$)', text)
    is_letter = is_bracketed or LETTER_ANSWER.fullmatch(text)
    return choices.read(text) if is_letter else None


def _is_sum_of_numbers(answer: str) -> bool:
    """Whether a sum or product of numbers was not worked out, which repeats a question."""
    return OPERATOR.search(answer) is not None and not re.search(r'(?<![\\a-z])[A-Za-z]', answer)


def _extract_any(response: str, options: tuple = ()) -> str | None:
    del options
    return conclusion(response, _is_conclusive, takes_words=True)


def _any_key(answer: str, options: tuple = ()) -> str:
    """The key of a letter, else of a quantity, else of a formula, else of words."""
    del options
    letter, quantity = _letter_of(answer), _quantity(answer)
    if letter is not None:
        return letter
    if quantity is not None:
        return quantities.key(quantity.value)
    is_mathematical = _is_mathematical(answer) and not _is_sum_of_numbers(answer)
    return _mathematics_key(answer) if is_mathematical else words_key(answer)


def _is_same_anything(truth: str, answer: str, options: tuple = ()) -> bool:
    if _is_quantity(truth) and _is_quantity(answer):
        return _is_same_number(truth, answer)
    if _is_quantity(truth) and _is_sum_of_numbers(answer):
        return False
    if _letter_of(truth) or _letter_of(answer):
        return _any_key(truth) == _any_key(answer)
    if _is_mathematical(truth) and _is_mathematical(answer):
        return _is_same_mathematics(truth, answer)
    return words_key(truth) == words_key(answer)


ANY = Form(_extract_any, _any_key, _is_same_anything)
