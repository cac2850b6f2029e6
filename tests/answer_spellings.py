"""Spellings of a truth that are right, and changes of it that are wrong, as people and models write
them: a generator to test verdicts with.
"""

import re
from fractions import Fraction

# How a response may lead to its answer; {} is the answer.
ENDINGS = (
    'So it is done.\nFinal answer: {}',
    '**Final Answer:** {}',
    '### Final Answer\n{}',
    'The final answer is {}.',
    'First, we add.\n\n\\boxed{{{}}}',
    'Final answer: \\({}\\)',
    'Final answer: ${}$',
    'The answer is **{}**.',
)


def endings(answer: str, i: int) -> list[str]:
    """Two responses that conclude with an answer; `i` picks which."""
    picked = ENDINGS[i % len(ENDINGS)], ENDINGS[(i * 5 + 3) % len(ENDINGS)]
    return [ending.format(answer) for ending in picked]


def _grouped(number: str, mark: str) -> str:
    """The number with `mark` between groups of three digits: '1,234'."""
    sign, whole, rest = re.fullmatch(r'(-?)(\d+)(.*)', number).groups()
    return sign + re.sub(r'(?<=\d)(?=(\d{3})+$)', lambda _: mark, whole) + rest


def right_numbers(truth: str) -> list[str]:
    """A plain decimal number in other spellings of the same value."""
    value = Fraction(truth)
    unsigned, sign = truth.lstrip('-'), '-' if truth.startswith('-') else ''
    spellings = [
        truth,
        _grouped(truth, ','),
        _grouped(truth, '{,}'),
        _grouped(truth, '\\,'),
        _grouped(truth, ',\\!'),
        _grouped(truth, '\u202f'),
        f'{sign}${_grouped(unsigned, ",")}',
        f'{sign}\\${unsigned}',
        f'{sign}€{unsigned}',
        f'USD {truth}',
        f'{truth} apples',
        f'{truth} km/h',
        f'{truth} m^2',
        f'{truth} square feet',
        f'{truth}\\text{{ apples}}',
        f'{truth} more red apples',
        f'{truth} dollars per week',
        f'"{truth}"',
        f'**{truth}**',
        f'= {truth}',
        f'x = {truth}',
        f'Total: {truth}',
        f'She has {truth} eggs left',
        f'{truth}, because that is what is left',
        f'{value.numerator}/{value.denominator}',
        f'{value + 3} - 3 = {truth}' if value.denominator == 1 else truth,
        f'{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}',
        f'({truth})' if value >= 0 else truth,
        f'+{truth}' if value > 0 else truth,
        truth.replace('-', '\u2212'),
        f'{truth}.0' if '.' not in truth else f'{truth}0',
        f'0{truth}' if re.fullmatch(r'\d+', truth) else truth,
    ]
    if value.denominator == 1 and value and abs(value) < 10**15:
        digits = str(abs(value.numerator))
        spellings.append(f'{sign}{digits[0]}.{digits[1:] or 0}e{len(digits) - 1}')
        spellings.append(f'{sign}{digits[0]}.{digits[1:] or 0} \\times 10^{{{len(digits) - 1}}}')
        if value % 1000 == 0:
            spellings += [f'{value.numerator // 1000} thousand', f'{value.numerator // 1000}k']
    return spellings


def wrong_numbers(truth: str) -> list[str]:
    """Answers that look like a number and are another, or none."""
    value = Fraction(truth)
    last = str((int(truth[-1]) + 1) % 10)
    other = str(value.numerator + 1)
    return [
        truth[:-1] + last,
        f'{truth}{last}' if last != '0' and len(truth) < 7 else '17.25',
        f'{truth},000' if '.' not in truth and value else f'{truth}7',
        truth[1:] if truth.startswith('-') else f'-{truth}' if value else '1',
        f'{truth} or {other}',
        f'{truth} and {other}',
        f'between {truth} and {other}',
        f'{truth}-{other}',
        f'{truth} – {other}',
        f'{truth} to {other}',
        f'({truth}, {other})',
        f'[{truth}, {other}]',
        f'{truth}, {other}',
        f'{truth}x',
        f'{truth} x',
        f'{truth}i',
        f'{truth}\\sqrt{{2}}',
        f'{truth}\\pi',
        f'{truth}k' if value else '1',
        f'{truth} million' if value else '1',
        f'{truth} hundred' if value else '1',
        f'{truth} dozen' if value else '1',
        f'{truth} and a half',
        f'{truth} hours and a half',
        f'{truth} is wrong',
        f'{truth} is not the answer',
        f'not {truth}',
        f'more than {truth}',
        f'at least {truth}',
        f'less than {truth}',
        f'about {truth}',
        f'{truth} plus a few',
        f'{truth} + 1',
        f'{truth} - y',
        f'2 \\cdot {truth}' if value else '1',
        f'{truth}^2' if value not in (0, 1) else '2',
        f'{truth}:30',
        f'{truth}:30 pm',
        f'{truth} pm',
        f'{truth}th',
        f'half of {truth}',
        f'{other} - 2 = {truth}',
        f'{truth} {other}',
        f'{truth}?',
        'none',
        'x',
    ]


def right_letters(letter: str, text: str) -> list[str]:
    """A choice, with and without the text of its option."""
    return [
        letter,
        f'({letter})',
        f'({letter.lower()})',
        f'{letter}.',
        f'{letter})',
        f'[{letter}]',
        f'**{letter}**',
        f'"{letter}"',
        f'\\text{{{letter}}}',
        f'\\textbf{{({letter})}}',
        f'option {letter}',
        f'choice ({letter})',
        f'The correct answer is ({letter})',
        f'the answer is {letter}',
        f'({letter}) {text}',
        f'{letter}) {text}',
        f'{letter}. {text}',
        f'{letter}: {text}',
        f'{letter} - {text}',
    ]


def wrong_letters(letter: str, text: str, other: str, other_text: str) -> list[str]:
    """Answers that name another choice, two, or none."""
    return [
        other,
        f'({other})',
        f'({other}) {other_text}',
        f'{other}. {other_text}',
        f'{letter} or {other}',
        f'({letter}) or ({other})',
        f'({letter}) and ({other})',
        f'{letter}, {other}',
        f'{letter}/{other}',
        f'both {letter} and {other}',
        f'either {letter} or {other}',
        f'not {letter}',
        f'not ({letter})',
        f'{letter} is wrong',
        f'({letter}) {other_text}',
        f'{letter}{other}',
        f'{letter}-level',
        'none of them',
        'a plant of some kind',
        'A plant of some kind',
        'I do not know',
    ]


# Truths as MATH has them, one or more of each kind.
MATHEMATICS = r"""
42 | -3 | 0 | 1,000,000 | 11,\!111,\!111,\!100 | 0.5 | -0.125 | 3.50 | .75
\frac{3}{4} | -\frac{35}{9} | \frac{243}{625} | \dfrac{17}{50} | 2\frac{1}{2} | \frac{1}{2}
\sqrt{2} | 3\sqrt{2} | 5\sqrt{13} | \frac{\sqrt{3}}{3} | \frac{1+\sqrt{5}}{2} | 2 - 2\sqrt{3}
\pi | 4\pi | \frac{9}{2}\pi | 108\pi | \frac{\pi}{6} | 24\pi + 8 | e^2 | \log_2 3 | 2^{10}
10\% | 25\% | \$18.90 | \$32,\!348 | 60^\circ | 144^{\circ} | 5\text{ cm} | 12\text{ square units}
2k | 5i | 6 + 9i | -1 - i | 3x | 6y | 2x+3 | x^2+2x+1 | 3x^2-4x+7 | -x^3 + 2 | (x+2)(x-3)
\frac{x+2}{7} | \frac{2x-1}{x+3} | a^2 - b^2 | 2ab | n^2+1 | \sin x | \cos 2x | \tan \theta
[2,5) | (2,5] | (2,5) | [-1,1] | [0,\infty) | (-\infty,0) | (-\infty,-3] | [-36,104] | (1,234)
(-\infty,2) \cup (3,\infty) | (-\infty,-1] \cup [4,\infty) | [-2,-1) \cup (0,3]
(3,4) | (-2,5) | \left(3,\frac{\pi}{2}\right) | (1,2,3) | \left(\frac{1}{2},-3\right) | (7,21,35)
1,2,3 | -2,1 | 3,5,7 | \frac{1}{2},-3 | 1\text{ or }2 | \{1,2,5\} | 2,\,8 | 1 \pm \sqrt{2} | \pm 5
x=5 | y=2x+3 | y = -\frac{1}{2}x+4 | f(x)=x^2-1 | x \in [-2,7] | x<5 | x \ge 3 | -1<x\le 2 | x=-3
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{pmatrix} -1/2 \\ 7 \end{pmatrix} | 4210_5 | 1101_2 | 52_{8} | 2AB_{16} | 3:5 | 6:00
\text{Evelyn} | \text{(C)} | \text{(E)} | \text{June 20} | \text{east} | \text{odd} | \text{No}
ABC | AB | 0.\overline{3} | 0.1\overline{6} | 5! | \binom{5}{2}
\infty | -\infty | \emptyset | 1 + 2
"""


def mathematical_truths() -> list[str]:
    return [part.strip() for part in re.split(r' \| |\n', MATHEMATICS) if part.strip()]


def right_mathematics(truth: str) -> list[str]:
    """A truth in other spellings of LaTeX, or of the same value."""
    spellings = [
        truth,
        truth.replace('\\frac', '\\dfrac').replace('\\ddfrac', '\\dfrac'),
        truth.replace('\\dfrac', '\\tfrac').replace('\\frac', '\\tfrac'),
        re.sub(r'\\frac\{(\d)\}\{(\d)\}', r'\\frac\1\2', truth),
        re.sub(r'([-+=<]|\\cup|,(?!\\|\d{3}))', r'\1 ', truth) if '\\text' not in truth else truth,
        truth.replace(', ', ',').replace(' + ', '+'),
        truth.replace('-', '\u2212'),
        truth.replace('^\\circ', '^{\\circ}').replace('^{\\circ}', '°'),
        truth.replace('\\text{', '\\mbox{'),
        truth.replace('pmatrix', 'bmatrix'),
        truth.replace('\\infty', '∞').replace('\\pi', 'π').replace('\\cup', '∪'),
        truth.replace('\\le', '\\leq').replace('\\ge', '\\geq').replace('\\leqft', '\\left'),
        re.sub(r'^([(\[])(.*)([)\]])$', r'\\left\1\2\\right\3', truth)
        if truth.count('(') + truth.count('[') == 1 and '\\' not in truth
        else truth,
        re.sub(r'\^(\d)', r'^{\1}', truth),
        re.sub(r'\\sqrt\{(\d)\}', r'\\sqrt \1', truth),
        re.sub(r'\\text\{ (?:cm|square units)\}', '', truth),
        truth.replace('\\%', '').replace('\\$', ''),
        f'{truth}.',
    ]
    fraction = re.fullmatch(r'(-?)\\d?frac\{(\d+)\}\{(\d+)\}', truth)
    if fraction:
        sign, top, bottom = fraction.groups()
        spellings += [
            f'{sign}{top}/{bottom}',
            f'\\frac{{{sign}{2 * int(top)}}}{{{2 * int(bottom)}}}',
        ]
    parts = re.fullmatch(r'(-?\d{1,2}),(-?\d{1,2}),(-?\d{1,2})', truth)
    if parts:
        first, second, third = parts.groups()
        spellings += [f'{third}, {first}, {second}', f'\\{{{second}, {first}, {third}\\}}']
    if re.fullmatch(r'[\d-]+', truth):
        spellings += [f'x = {truth}', f'{truth}.0', f'\\text{{{truth}}}']
    return spellings


def wrong_mathematics(truth: str) -> list[str]:
    """A truth with an end flipped, a letter or a part dropped, or a digit or sign changed."""
    changed = []
    if re.fullmatch(r'[(\[][^()\[\]]*[)\]]', truth):
        left, inside, right = truth[0], truth[1:-1], truth[-1]
        other_left, other_right = '[('[left == '['], '])'[right == ']']
        changed += [inside, f'{other_left}{inside}{right}', f'{left}{inside}{other_right}']
        changed.append(f'{left}{", ".join(reversed(inside.split(",")))}{right}')
    if '\\text' not in truth and 'matrix' not in truth:
        letters = set(re.findall(r'(?<![\\a-zA-Z])[a-df-hj-zA-Z](?![a-zA-Z])', truth))
        if '=' not in truth and '\\in' not in truth:
            changed += [truth.replace(letter, '') for letter in letters if truth != letter]
        changed += [truth.replace(letter, 'q') for letter in letters if '=' not in truth]
    digit = re.search(r'\d(?=\D*$)', truth)
    if digit and not re.search(r'_\{?\d*$|binom', truth[: digit.start()]):
        other = str((int(digit[0]) + 1) % 10) if digit[0] != '9' else '8'
        changed.append(truth[: digit.start()] + other + truth[digit.end() :])
    if re.match(r'-?(?:\d|\\d?frac|\\sqrt|\\pi|[a-z])', truth) and truth not in ('0',):
        if '=' not in truth and ',' not in truth and '<' not in truth and '\\pm' not in truth:
            if not re.search(r'\\text|\\in|\\ge|[-+]|:|\\sin|\\cos|\\tan', truth[1:]):
                changed.append(truth[1:] if truth[0] == '-' else f'-{truth}')
    if re.fullmatch(r'-?\d{1,2}(?:,-?\d{1,2})+', truth):
        changed += [truth.rpartition(',')[0], truth + ',17', truth.replace(',', '')]
    changed += [f'{truth} \\text{{ or }} 17', f'{truth} + 1' if '\\text' not in truth else '17']
    changed += [f'{truth} \\text{{ is wrong}}', f'\\text{{not }} {truth}', '17', 'q', '']
    return [wrong for wrong in changed if wrong.strip() != truth]
