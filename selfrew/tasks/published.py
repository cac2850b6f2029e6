"""Published problem sets: how a row of one is read, how it is asked, and when a final answer is
right. Layer 1.
"""

import re
from typing import Callable, NamedTuple

from selfrew.tasks import answers


class Problem(NamedTuple):
    question: str
    answer: str
    solution: str | None = None  # the reference's, closed as a response should be
    options: tuple = ()  # of a multiple choice, in order: A, B, …


class Form(NamedTuple):
    read: Callable  # row -> Problem; KeyError, ValueError where the row is not of this form
    is_right: Callable  # (the truth, what a response concludes with or None) -> bool
    template: str  # that ships: {{ question }}, {{ options }}, {{ shots }}


def _closed(solution: str, answer: str) -> str:
    return f'{solution.strip()}\nFinal answer: {answer}'


def _gsm8k(row) -> Problem:
    """Its calculator's marks, <<48/2=24>>, are for no reader."""
    solution, mark, answer = row['answer'].rpartition('####')
    if not mark:
        raise ValueError('the answer has no "####"')
    return Problem(
        row['question'].strip(),
        answer.strip(),
        _closed(re.sub(r'<<.*?>>', '', solution), answer.strip()),
    )


def _math(row) -> Problem:
    answer = row.get('answer') or answers.boxed(row['solution'])
    if answer is None:
        raise ValueError('the solution has nothing in \\boxed')
    return Problem(row['problem'].strip(), answer, _closed(row['solution'], f'${answer}$'))


def _equivalent(truth: str, said: str | None) -> bool:
    """As mathematics, by math-verify; as text, where that is so already."""
    if said is None or answers.same(said, truth):
        return said is not None
    import math_verify

    marked = lambda text: text if '$' in text or '\\boxed' in text else f'${text}$'
    return math_verify.verify(math_verify.parse(marked(truth)), math_verify.parse(marked(said)))


LETTERS = 'ABCDEFGH'
NAMED = re.compile(r'\bAnswer(\d):\s*(.*?)(?=\s*\bAnswer\d:|\s*\n\s*Answer format|\s*$)', re.DOTALL)


def _arc(row) -> Problem:
    """As its authors write it, as the Hugging Face hub and TFDS do, or as one text with 'Answer1: …
    Answer2: …'.
    """
    if 'instruction' in row:
        stem, _, listed = row['instruction'].partition('Answer1:')
        stem, options = stem.partition(':')[2], [m[2] for m in NAMED.finditer(f'Answer1:{listed}')]
        right = int(row['answer'].removeprefix('answer')) - 1
    else:
        asked = (
            row['question']
            if isinstance(row['question'], dict)
            else {'stem': row['question'], **row}
        )
        stem, choices = asked['stem'], asked['choices']
        columns = isinstance(choices, dict)
        options = choices['text'] if columns else [c['text'] for c in choices]
        labels = [
            str(label) for label in (choices['label'] if columns else [c['label'] for c in choices])
        ]
        right = labels.index(str(row['answerKey']))
    if not 2 <= len(options) <= len(LETTERS) or not 0 <= right < len(options):
        raise ValueError(f'{len(options)} options, of which number {right + 1} should be right')
    return Problem(stem.strip(), LETTERS[right], None, tuple(option.strip() for option in options))


def _same_letter(truth: str, said: str | None) -> bool:
    found = re.match(r'[\s(\[*_$]*(?:option\s+)?\(?([A-H])(?![a-z])', said or '', re.IGNORECASE)
    return found is not None and found[1].upper() == truth


def _plain(number) -> str:
    return f'{number:g}' if isinstance(number, float) and abs(number) < 1e6 else str(number)


def _svamp(row) -> Problem:
    body = row['Body'].strip()
    return Problem(
        f'{body if body.endswith((".", "?", "!", ",")) else body + "."} {row["Question"].strip()}',
        _plain(row['Answer']),
    )


def _mawps(row) -> Problem:
    if 'sQuestion' in row:
        return Problem(row['sQuestion'].strip(), _plain(float(row['lSolutions'][0])))
    return Problem(row['input'].strip(), _plain(row['target']))


def _asdiv(row) -> Problem:
    """The unit, in brackets behind its answers, is not asked for."""
    return Problem(f'{row["Body"]} {row["Question"]}', row['Answer'].partition('(')[0].strip())


def _same(truth: str, said: str | None) -> bool:
    return answers.same(said, truth)


FORMS = {
    'gsm8k': Form(_gsm8k, _same, 'question'),
    'math': Form(_math, _equivalent, 'math'),
    'arc': Form(_arc, _same_letter, 'options'),
    'svamp': Form(_svamp, _same, 'question'),
    'mawps': Form(_mawps, _same, 'question'),
    'asdiv': Form(_asdiv, _same, 'question'),
}


def get(form: str) -> Form:
    """The form of that name. KeyError names the choices."""
    if form not in FORMS:
        raise KeyError(f'no form named {form!r}; there are: {", ".join(FORMS)}')
    return FORMS[form]


def read(form: str, row: dict) -> Problem:
    """A row's problem. ValueError says what is wrong with it."""
    try:
        found = get(form).read(row)
    except (KeyError, TypeError, AttributeError, IndexError) as problem:
        raise ValueError(
            f'not a row of {form}: {type(problem).__name__} {problem}; it has {", ".join(row)}'
        ) from None
    if not found.question or not found.answer:
        raise ValueError('a question or an answer is empty')
    return found
