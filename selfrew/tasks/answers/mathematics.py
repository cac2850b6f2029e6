"""Mathematical answers in LaTeX: what they say in one canonical form, and when two are the same.

The structure (lists, intervals, tuples, matrices, equations, units, bases) is taken apart here,
so that no bracket, letter or part is lost. math-verify reads the expressions in it, and decides
what has no canonical form. It may take for ever (10^{10^{10}}): see math_process.
"""

import functools
import re
from typing import NamedTuple

from selfrew.tasks.answers import choices, expressions, quantities, units
from selfrew.tasks.answers.spelling import (
    TEXT_COMMAND,
    TEXTS,
    fold,
    strip_latex_style,
    unbox,
    unwrap,
    words_key,
)


class Answer(NamedTuple):
    key: str  # equal for answers that are known to be the same
    name: str | None = None  # the x of 'x = 5'
    unit: str | None = None  # as units.UNITS names it
    is_exact: bool = True  # whether answers of other keys are other answers


LETTER_CHOICE = re.compile(
    rf'\\(?:{TEXTS})\{{\s*\(?\s*([A-H])\s*\)?\s*[.:]?\s*\}}|\(\s*([A-H])\s*\)|([A-H])'
)
PLAIN_NUMBER = re.compile(
    r'[+-]?\s?(?:\\?\$)?\s?[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:\s?(?:\\?%|°))?'
)
BASED = re.compile(r'(-?[0-9A-Za-z]+)_(?:\{([^{}]*)\}|(\d))')
TRAILING_UNIT = re.compile(
    rf'\s*\\(?:{TEXTS})\s*\{{([^{{}}]*)\}}\s*(?:\^\s*(?:\{{\s*(\d)\s*\}}|(\d)))?$'
)
MATH_WORDS = frozenset(
    'pi sqrt sin cos tan cot sec csc log exp infinity infty theta alpha beta gamma delta omega '
    'lambda sigma undefined none empty root frac'.split()
)
NAME = re.compile(r"\\?[a-zA-Z]+'*(?:_\{?\w+\}?)?(?:\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?")
SEGMENT = re.compile(r'(?<!\\)\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]')
LEAD_IN = re.compile(r"[A-Za-z][\w ,'-]*?\s(?:is|are|be|equals|equal to|becomes)\s*:?\s+(.+)")
BASE_WORDS = dict(
    zip('two three four five six seven eight nine ten'.split(), map(str, range(2, 11)))
) | {'sixteen': '16', 'twelve': '12', 'eleven': '11'}


@functools.lru_cache(2**14)  # a truth is compared with many answers, and an answer is a vote too
def read(text: str) -> Answer:
    """What an answer says. Text that is no mathematics is read as words."""
    bare = _bare(text)
    try:
        return _read(bare)
    except expressions.Unreadable:
        return Answer(words_key(text))


def same(truth: str, said: str) -> bool:
    """Whether two answers are the same mathematics, or the same words.

    Names ('x = …') and units count only where both have one, see units.are_other_units.
    """
    first, second = read(truth), read(said)
    has_other_name = first.name and second.name and first.name != second.name
    if has_other_name or units.are_other_units(first.unit, second.unit):
        return False
    if first.key == second.key:
        return True
    if not (_is_relation(first) and _is_relation(second)) or (first.is_exact and second.is_exact):
        return False
    first_text, second_text = _bare(truth), _bare(said)
    return expressions.variables(first_text) == expressions.variables(
        second_text
    ) and expressions.verify(first_text, second_text)


def _is_relation(answer: Answer) -> bool:
    return answer.name is not None or not answer.is_exact


def _bare(text: str) -> str:
    """The mathematics of an answer without mark-up, style and the words of a sentence around it."""
    text = strip_latex_style(unwrap(unbox(fold(text))))
    text = re.sub(r'\*\*|`', '', text)
    segments = list(SEGMENT.finditer(text))
    if len(segments) == 1:
        outside = SEGMENT.sub(' ', text)
        is_plain = re.fullmatch(r"[\w\s,.:'=()-]*", outside) and not re.search(r'\d', outside)
        words = quantities.WORD.findall(outside.casefold())
        before = text[: segments[0].start()]
        if is_plain and not {w.rstrip('.') for w in words} & quantities.REFUSED:
            inner = next(filter(None, segments[0].groups()))
            tail = text[segments[0].end() :].strip(' .,')
            unit = f'\\text{{ {tail}}}' if tail and tail.replace(' ', '').isalpha() else ''
            text = inner + unit if not before.strip() or not unit else inner
    elif not segments:
        sentence = LEAD_IN.fullmatch(text)
        if sentence and not quantities.REFUSED & set(text.casefold().split()):
            text = sentence[1]
    text = SEGMENT.sub(lambda m: f' {next(filter(None, m.groups()))} ', text)
    return ' '.join(unwrap(text).split())


def _read(text: str) -> Answer:
    """Raises expressions.Unreadable for what is no mathematics."""
    if not text:
        raise expressions.Unreadable(text)
    letter = LETTER_CHOICE.fullmatch(text)
    if letter:
        return Answer(letter[1] or letter[2] or letter[3])
    if re.match(r'(?:\\text\w*\{\s*)?\([A-H]\)\s*\}?(?:\s|$)', text):
        chosen = choices.read(text)
        if chosen:
            return Answer(chosen)
    number = _quantity(text)
    if number is not None:
        return number
    for reader in (
        _words,
        _union,
        _list,
        _braces,
        _bracketed,
        _matrix,
        _relation,
        _based,
        _measured,
    ):
        answer = reader(text)
        if answer is not None:
            return answer
    expression = expressions.key(text)
    return Answer(expression.text, is_exact=expression.is_exact)


def _quantity(text: str) -> Answer | None:
    """A plain number, perhaps with a percent sign, a currency or a unit that is a word."""
    if not re.search(r'\d', text):
        return None
    match = re.fullmatch(rf'({PLAIN_NUMBER.pattern})\s+([a-zA-Z][a-zA-Z ./^\d-]*)', text)
    if match:
        words = re.findall(r'[a-zA-Z]+', match[2].casefold())
        is_unit = all(len(w) > 1 and (len(w) > 3 or w in units.UNIT_NAMES) for w in words)
        if not is_unit or MATH_WORDS & set(words):
            return None
    elif not PLAIN_NUMBER.fullmatch(text):
        return None
    quantity = quantities.read(text)
    return None if quantity is None else Answer(quantities.key(quantity.value), None, quantity.unit)


def _words(text: str) -> Answer | None:
    """Only words, in \\text{…} or bare."""
    plain = TEXT_COMMAND.sub(r'\1', text)
    is_text = TEXT_COMMAND.fullmatch(text) is not None
    words = re.findall(r'[a-zA-Z]+', plain)
    is_prose = re.fullmatch(r"[a-zA-Z][a-zA-Z '.-]*", plain) and max(map(len, words)) > 2
    is_name = re.fullmatch(r'[A-Z]{2,}', plain) is not None  # points and angles: ABC is no product
    is_math = {w.casefold() for w in words} & MATH_WORDS
    if (
        (is_text and not re.fullmatch(r'[\d\s.,-]+', plain))
        or (is_prose and not is_math)
        or is_name
    ):
        return Answer(plain.strip() if is_name else words_key(plain))
    return None


def _split(text: str, separator: re.Pattern) -> list[str]:
    """The parts of a text between separators that no bracket encloses."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        match = separator.match(text, position) if depth == 0 else None
        if match and match.end() > position:
            parts.append(text[start:position])
            start = position = match.end()
            continue
        if text[position] == '\\':
            token = COMMAND.match(text, position)
            word = token[0] if token else '\\'
            depth += (word in ('\\{', '\\begin', '\\lbrace', '\\langle')) - (
                word in ('\\}', '\\end', '\\rbrace', '\\rangle')
            )
            position += len(word)
            continue
        depth += (text[position] in '([{') - (text[position] in ')]}')
        if depth < 0:
            raise expressions.Unreadable(text)
        position += 1
    if depth:
        raise expressions.Unreadable(text)
    return [part.strip() for part in [*parts, text[start:]]]


COMMAND = re.compile(r'\\(?:[a-zA-Z]+|.)')
CUP = re.compile(r'\\cup(?![a-zA-Z])')
COMMA = re.compile(
    r'[,;]\s*(?:(?:and|or)\b|\\(?:text|mbox|mathrm)\{\s*,?\s*(?:and|or)\s*\})?'
    r'|\\(?:text|mbox|mathrm)\{\s*,?\s*(?:and|or)\s*\}|(?<=\s)(?:and|or)(?=\s)'
)
EQUALS = re.compile(r'=|\\equiv(?![a-zA-Z])')
ORDER = re.compile(r'(<=|>=|<|>|\\(?:leq?|geq?|lt|gt)(?:slant)?(?![a-zA-Z]))')
IN = re.compile(r'\\in(?![a-zA-Z])')


def _union(text: str) -> Answer | None:
    parts = _split(text, CUP)
    if len(parts) < 2:
        return None
    name = None
    member = _split(parts[0], IN)
    if len(member) == 2 and NAME.fullmatch(member[0]):
        name, parts[0] = member
    return Answer(' ∪ '.join(sorted({_read(part).key for part in parts})), name)


def _list(text: str) -> Answer | None:
    """Several answers, in any order."""
    parts = [part for part in _split(text, COMMA) if part]
    return _set(parts) if len(parts) > 1 else None


def _set(parts: list[str]) -> Answer:
    """Answers in any order. Names that differ belong to what is said: x = 1, y = 2."""
    answers = [_read(part) for part in parts]
    names = {answer.name for answer in answers}
    if len(names) == 1:
        return Answer(f'{{{", ".join(sorted({a.key for a in answers}))}}}', names.pop())
    keys = {f'{a.name} = {a.key}' if a.name else a.key for a in answers}
    return Answer(f'{{{", ".join(sorted(keys))}}}')


def _braces(text: str) -> Answer | None:
    """A set, \\{1, 2\\}."""
    match = re.fullmatch(r'\\?(?:\{|lbrace(?![a-z]))(.*?)\\?(?:\}|rbrace)', text)
    if re.fullmatch(r'\\(?:emptyset|varnothing)', text):
        return Answer('∅')
    if not match or not _is_one_bracket(match[1]):
        return None
    parts = [part for part in _split(match[1], COMMA) if part]
    if any(_split(part, re.compile(r'\||\\mid(?![a-z])|:'))[1:] for part in parts):
        return Answer('{' + _letters_only(match[1]) + '}', is_exact=False)
    return _set(parts) if parts else Answer('∅')


def _letters_only(text: str) -> str:
    return re.sub(r'\s+', '', text)


def _bracketed(text: str) -> Answer | None:
    """An interval, a tuple or a point: brackets, order and parts all count."""
    match = re.fullmatch(r'(\\langle|[(\[])(.*)(\\rangle|[)\]])', text)
    if not match or not _is_one_bracket(match[2]):
        return None
    parts = _split(match[2], re.compile(r'[,;]'))
    if len(parts) < 2:
        if match[1] == '(' and match[3] == ')' or match[1] == '[' and match[3] == ']':
            return _read(match[2].strip())
        raise expressions.Unreadable(text)
    left = {'\\langle': '⟨'}.get(match[1], match[1])
    right = {'\\rangle': '⟩'}.get(match[3], match[3])
    return Answer(left + ', '.join(_read(part).key for part in parts) + right)


def _is_one_bracket(inside: str) -> bool:
    """Whether the first and the last bracket around a text belong together."""
    try:
        _split(inside, CUP)
    except expressions.Unreadable:
        return False
    return True


def _matrix(text: str) -> Answer | None:
    match = re.fullmatch(
        r'\\begin\{([pbBvV]?)(?:small)?(?:matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{[^{}]*\}', text
    )
    if not match:
        return None
    rows = [row for row in _split(match[2], re.compile(r'\\\\')) if row]
    cells = [[_read(cell).key for cell in _split(row, re.compile('&'))] for row in rows]
    kind = {'v': 'determinant', 'V': 'norm'}.get(match[1], 'matrix')
    return Answer(kind + str(cells).replace("'", ''))


def _relation(text: str) -> Answer | None:
    """'x = 5', 'y = 2x + 3', '-1 < x < 2', 'x \\in [0, 1]'."""
    member = _split(text, IN)
    if len(member) == 2 and NAME.fullmatch(member[0]):
        return _read(member[1])._replace(name=member[0])
    sides = _split(text, EQUALS)
    if len(sides) > 1:
        return _equation(sides)
    parts = _split(text, ORDER)
    if len(parts) > 1:
        return _inequality(text, parts)
    return None


def _equation(sides: list[str]) -> Answer:
    *left_sides, last = sides
    if not all(sides):
        if len(sides) == 2 and last:  # '= 5'
            return _read(last)
        raise expressions.Unreadable('=')
    answer = _read(last)
    name = None
    if NAME.fullmatch(left_sides[0]) and not _mentions(last, left_sides[0]):
        name = re.sub(r'\s', '', left_sides.pop(0))
    if name is None and len(sides) == 2 and expressions.variables(' '.join(sides)):
        return Answer(expressions.equation_key(*sides), is_exact=False)
    # A chain of equal values says the last.
    if any(_read(side).key != answer.key for side in left_sides):
        raise expressions.Unreadable('=')
    return answer._replace(name=name)


def _mentions(text: str, name: str) -> bool:
    return name[:1] in expressions.variables(text)


def _inequality(text: str, parts: list[str]) -> Answer:
    signs = [m[1] for m in ORDER.finditer(text)]
    keys = [_read(part).key for part in parts]
    kinds = ['≤' if re.search(r'=|e', sign[1:]) else '<' for sign in signs]
    is_falling = [sign[0] == '>' or sign.startswith('\\g') for sign in signs]
    if len(set(is_falling)) > 1 or len(signs) != len(parts) - 1:
        raise expressions.Unreadable(text)
    if is_falling[0]:
        keys, kinds = keys[::-1], kinds[::-1]
    ordered = [keys[0]] + [f'{kind} {key}' for kind, key in zip(kinds, keys[1:])]
    return Answer(' '.join(ordered), is_exact=False)


def _based(text: str) -> Answer | None:
    """'4210_5': digits in a base."""
    match = BASED.fullmatch(TEXT_COMMAND.sub(r'\1', text))
    if not match or not re.search(r'\d', match[1]) and not match[1].isupper():
        return None
    base = (match[2] or match[3]).strip().casefold()
    base = BASE_WORDS.get(base, base)
    if not base.isdigit():
        raise expressions.Unreadable(text)
    return Answer(f'{match[1]} in base {base}')


def _measured(text: str) -> Answer | None:
    """A quantity whose unit is in \\text{…}, or that has a degree, percent or currency sign."""
    match = TRAILING_UNIT.search(text)
    if match and text[: match.start()].strip():
        words = [word.rstrip('.').casefold() for word in quantities.WORD.findall(match[1])]
        if not words or set(words) & (quantities.REFUSED_AFTER - set(units.SCALES)):
            raise expressions.Unreadable(text)
        power = match[2] or match[3]
        amount = text[: match.start()].strip()
        if words[0] in units.SCALES:
            quantity = quantities.read(text)
            if quantity is None:
                raise expressions.Unreadable(text)
            return Answer(quantities.key(quantity.value), None, quantity.unit)
        measured = quantities.read(f'1 {match[1].strip()}{"^" + power if power else ""}')
        return _read(amount)._replace(unit=measured.unit if measured else None)
    for sign, unit in (
        ('°C', 'degree celsius'),
        ('°F', 'degree fahrenheit'),
        ('°', 'degree'),
        ('\\%', '%'),
        ('%', '%'),
    ):
        if text.endswith(sign) and text != sign:
            return _read(text.removesuffix(sign).strip())._replace(unit=unit)
    for sign in ('\\$', '$'):
        if text.startswith(sign) and len(text) > len(sign):
            return _read(text.removeprefix(sign).strip())._replace(unit='dollar')
    return None
