"""One spelling for the many that an answer comes in: Unicode, Markdown and LaTeX taken off."""

import re
import unicodedata

# Characters that NFKC would change in meaning, or leave different.
FOLDED = str.maketrans(
    {
        '\u2212': '-',  # minus
        '\u2010': '-',
        '\u2011': '-',
        '\u2044': '/',
        '\u2215': '/',
        '\u2018': "'",
        '\u2019': "'",
        '\u201c': '"',
        '\u201d': '"',
        '\u00ab': '"',
        '\u00bb': '"',
        '\u221e': '\\infty ',
        '\u03c0': '\\pi ',
        '\u00d7': '\\times ',
        '\u22c5': '\\cdot ',
        '\u00b7': '\\cdot ',
        '\u222a': '\\cup ',
        '\u2229': '\\cap ',
        '\u2208': '\\in ',
        '\u2264': '\\le ',
        '\u2265': '\\ge ',
        '\u00b1': '\\pm ',
        '\u2205': '\\emptyset ',
        '\u200b': None,
        '\u200c': None,
        '\u200d': None,
        '\u2060': None,
        '\ufeff': None,
    }
)
SUPERSCRIPTS = str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁻', '0123456789-')
SUBSCRIPTS = str.maketrans('₀₁₂₃₄₅₆₇₈₉', '0123456789')
GROUP_SPACE = re.compile('(?<=\\d)[\u00a0\u2007\u2009\u202f](?=\\d{3}(?!\\d))')
STYLES = re.compile(
    r'\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|quad|qquad|bf|rm|it)(?![a-zA-Z])'
    r'|(?<!\\)\\!'
)
SPACES = re.compile(r'(?<!\\)\\[,;: ]|~|\\(?:thin|med|thick)space(?![a-zA-Z])')
GROUP_MARK = re.compile(r'(?<=\d)(?:\{,\}|,?\\[,;!: ]|\{\\,\})(?=\d{3}(?!\d))')
GROUP_COMMA = re.compile(r'(?<=\d),(?=\d{3}(?!\d))')
BOX = re.compile(r'\\(?:boxed|fbox)\s*(?=\{)')
TEXTS = r'text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname'
TEXT_COMMAND = re.compile(rf'\\(?:{TEXTS})\s*\{{([^{{}}]*)\}}')


def fold(text: str) -> str:
    """The text with one character for all that look or mean alike (minus signs, quotes, spaces).

    Powers become '^2', indices '_2', vulgar fractions '1/2' (after a number, ' 1/2').
    """
    if text.isascii():
        return text
    text = GROUP_SPACE.sub(',', text)
    text = re.sub(r'[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+', lambda m: '^' + _braced(m[0].translate(SUPERSCRIPTS)), text)
    text = re.sub(r'[₀-₉]+', lambda m: '_' + _braced(m[0].translate(SUBSCRIPTS)), text)
    text = re.sub(r'(?<=\d)(?=[¼½¾⅐-⅞])', ' ', text)
    return unicodedata.normalize('NFKC', text.translate(FOLDED)).translate(FOLDED)


def _braced(index: str) -> str:
    return index if len(index) == 1 else f'{{{index}}}'


def braced_end(text: str, start: int) -> int | None:
    """The position after the brace that closes the one at `start`; None if nothing closes it."""
    depth, position = 0, start
    while position < len(text):
        if text[position] == '\\':  # the next character is escaped
            position += 2
            continue
        depth += (text[position] == '{') - (text[position] == '}')
        position += 1
        if depth == 0:
            return position
    return None


def unbox(text: str) -> str:
    """The text with each \\boxed{…} replaced by what is in it."""
    for match in reversed(list(BOX.finditer(text))):
        end = braced_end(text, match.end())
        if end is not None:
            text = f'{text[: match.start()]}{text[match.end() + 1 : end - 1]}{text[end:]}'
    return text


def unwrap_texts(text: str) -> str:
    """The text with each \\text{…} and its like replaced by what is in it, between spaces."""
    before = None
    while before != text:
        before, text = text, TEXT_COMMAND.sub(r' \1 ', text)
    return text


def strip_latex_style(text: str) -> str:
    """LaTeX without commands for size and space; digits grouped by a space become one number.

    '1{,}000', '1\\,000' and '1,\\!000' are '1,000'.
    """
    text = STYLES.sub('', GROUP_MARK.sub(',', text))
    text = re.sub(r'\\[dtc]frac(?![a-zA-Z])', r'\\frac', text)
    text = re.sub(r'\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degrees?(?![a-zA-Z])', '°', text)
    return SPACES.sub(' ', text)


def unwrap(text: str) -> str:
    """The text without what is around it: bold, code, quotes, brackets of maths, a full stop."""
    before = None
    while before != text:
        before, text = text, text.strip().rstrip('.,;').strip('*`"\' \n\t')
        text = re.sub(r'^_+(?=[^_])(.*[^_])_+$', r'\1', text)
        for left, right in (('$$', '$$'), ('$', '$'), ('\\(', '\\)'), ('\\[', '\\]')):
            if _encloses(text, left, right):
                text = text[len(left) : -len(right)]
        match = BOX.match(text)
        if match and braced_end(text, match.end()) == len(text):
            text = text[match.end() + 1 : -1]
    return text


def _encloses(text: str, left: str, right: str) -> bool:
    """Whether the marks around a text belong together."""
    inner = text[len(left) : -len(right)].replace('\\$', '')
    is_marked = text.startswith(left) and text.endswith(right) and not text.endswith('\\$')
    return bool(inner) and is_marked and left not in inner and right not in inner


def words_key(text: str) -> str:
    """Text without case, mark-up, a leading article and a final full stop.

    'The  Red car.' is 'red car'; '3 p.m.' is '3 pm'. Brackets stay, unless they hold one word.
    """
    text = TEXT_COMMAND.sub(r'\1', unwrap(fold(text)))
    text = re.sub(r'\b([ap])\.\s?m\b\.?', r'\1m', text.casefold())
    text = ' '.join(unwrap(text).split())
    text = re.sub(r'^\(([\w\s]+)\)$', r'\1', text)
    return re.sub(r'^(?:the|an?) (?=\w)', '', text)
