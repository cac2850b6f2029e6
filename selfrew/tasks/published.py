"""Published problem sets: how rows are read, which template asks them, how answers are judged."""

import re
from collections.abc import Callable
from typing import NamedTuple

from selfrew.tasks import answers
from selfrew.tasks.answers.choices import LETTERS
from selfrew.tasks.answers.conclusions import boxed


class Problem(NamedTuple):
    question: str
    answer: str
    solution: str | None = None  # of the set itself, ending in 'Final answer: …'
    options: tuple = ()  # of a multiple-choice question, in order: A, B, …


class Form(NamedTuple):
    read: Callable  # row -> Problem; raises KeyError or ValueError if the row has another form
    answers: answers.Form  # what a response concludes with, and when that is the truth
    template: str  # one that ships; it reads {{ question }}, {{ options }} or {{ shots }}


def _with_final_answer(solution: str, answer: str) -> str:
    return f'{solution.strip()}\nFinal answer: {answer}'


def _gsm8k(row) -> Problem:
    """Drops the calculator annotations, such as <<48/2=24>>."""
    solution, mark, answer = row['answer'].rpartition('####')
    if not mark:
        raise ValueError('the answer has no "####"')
    answer = answer.strip()
    solution = _with_final_answer(re.sub(r'<<.*?>>', '', solution), answer)
    return Problem(row['question'].strip(), answer, solution)


def _math(row) -> Problem:
    answer = row.get('answer') or boxed(row['solution'])
    if answer is None:
        raise ValueError('the solution has nothing in \\boxed')
    solution = _with_final_answer(row['solution'], f'${answer}$')
    return Problem(row['problem'].strip(), answer, solution)


NUMBERED_OPTION = re.compile(
    r'\bAnswer(\d):\s*(.*?)(?=\s*\bAnswer\d:|\s*\n\s*Answer format|\s*$)', re.DOTALL
)


def _arc(row) -> Problem:
    """Reads the authors' format, the one of the Hugging Face hub and TFDS, or a single text with
    'Answer1: … Answer2: …'.
    """
    stem, options, right = (_arc_instruction if 'instruction' in row else _arc_choices)(row)
    if not 2 <= len(options) <= len(LETTERS) or not 0 <= right < len(options):
        raise ValueError(f'{len(options)} options, of which number {right + 1} should be right')
    return Problem(stem.strip(), LETTERS[right], None, tuple(option.strip() for option in options))


def _arc_instruction(row) -> tuple[str, list[str], int]:
    """(question, options, index of the right one) of '…: question Answer1: … Answer2: …'."""
    question, _, listed = row['instruction'].partition('Answer1:')
    options = [match[2] for match in NUMBERED_OPTION.finditer(f'Answer1:{listed}')]
    return question.partition(':')[2], options, int(row['answer'].removeprefix('answer')) - 1


def _arc_choices(row) -> tuple[str, list[str], int]:
    """(question, options, index of the right one) of a row whose choices are a list of dicts, or
    a dict of columns.
    """
    question = row['question']
    asked = question if isinstance(question, dict) else {'stem': question, **row}
    choices = asked['choices']
    if isinstance(choices, dict):
        options, labels = choices['text'], choices['label']
    else:
        options = [choice['text'] for choice in choices]
        labels = [choice['label'] for choice in choices]
    right = [str(label) for label in labels].index(str(row['answerKey']))
    return asked['stem'], options, right


def _svamp(row) -> Problem:
    body = row['Body'].strip()
    if not body.endswith(('.', '?', '!', ',')):
        body += '.'
    return Problem(f'{body} {row["Question"].strip()}', answers.truth_text(row['Answer']))


def _mawps(row) -> Problem:
    if 'sQuestion' in row:
        return Problem(row['sQuestion'].strip(), answers.truth_text(row['lSolutions'][0]))
    return Problem(row['input'].strip(), answers.truth_text(row['target']))


def _asdiv(row) -> Problem:
    """The answer keeps its parts and units: '12 (red); 15 (blue)'."""
    return Problem(f'{row["Body"]} {row["Question"]}', row['Answer'].strip())


FORMS = {
    'gsm8k': Form(_gsm8k, answers.NUMBER, 'question'),
    'math': Form(_math, answers.MATHEMATICS, 'math'),
    'arc': Form(_arc, answers.LETTER, 'options'),
    'svamp': Form(_svamp, answers.NUMBER, 'question'),
    'mawps': Form(_mawps, answers.NUMBER, 'question'),
    'asdiv': Form(_asdiv, answers.PARTS, 'question'),
}


def get(form: str) -> Form:
    """The form of that name. KeyError names the choices."""
    if form not in FORMS:
        raise KeyError(f'no form named {form!r}; there are: {", ".join(FORMS)}')
    return FORMS[form]


def read(form: str, row: dict) -> Problem:
    """The problem in a row. ValueError says what is wrong with the row."""
    try:
        problem = get(form).read(row)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f'not a row of {form}: {type(error).__name__} {error}; it has {", ".join(row)}'
        ) from None
    for name, text in (('question', problem.question), ('answer', problem.answer)):
        if not text:
            raise ValueError(f'the {name} is empty')
    return problem
