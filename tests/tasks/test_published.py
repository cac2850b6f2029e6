"""Published problem sets: rows are read as their authors write them, and answers are judged by the
rules of their set.
"""

import json

import jax
import pytest

from selfrew.shelves import prompts, scorers
from selfrew.tasks import published
from selfrew.types import Response

GSM8K = {'question': 'Two and two?', 'answer': 'It is 2+2=<<2+2=4>>4.\n#### 4'}
MATH = {
    'problem': 'Half of $x$?',
    'solution': r'We get $\frac{x}{2}$, so $\boxed{\frac{x}{\sqrt{4}}}$.',
    'level': 'Level 1',
}
MATH_ANSWER = r'\frac{x}{\sqrt{4}}'
CHOICES = [
    {'label': 'A', 'text': 'ice'},
    {'label': 'B', 'text': 'steam '},
    {'label': 'C', 'text': 'sand'},
]
ARC = {'question': {'stem': 'Hot?', 'choices': CHOICES}, 'answerKey': 'B'}


def _columns(labels, right) -> dict:
    """A row of ARC whose choices are columns."""
    choices = {'text': ['ice', 'steam'], 'label': labels}
    return {'question': 'Hot?', 'choices': choices, 'answerKey': right}


INSTRUCTION = {
    'instruction': (
        'Choose: Hot?\n\nAnswer1: ice Answer2: hot steam\n\nAnswer format: answer1/answer2'
    ),
    'answer': 'answer2',
}
SVAMP = {'Body': 'He had 3', 'Question': 'How many?', 'Answer': 51.0}
ASDIV = {'Body': 'Six.', 'Question': 'How many?', 'Answer': '15 (balls)'}


@pytest.mark.parametrize(
    'form, row, question, answer, solution, options',
    [
        ('gsm8k', GSM8K, 'Two and two?', '4', 'It is 2+2=4.\nFinal answer: 4', ()),
        (
            'math',
            MATH,
            'Half of $x$?',
            MATH_ANSWER,
            f'{MATH["solution"]}\nFinal answer: ${MATH_ANSWER}$',
            (),
        ),
        ('arc', ARC, 'Hot?', 'B', None, ('ice', 'steam', 'sand')),
        ('arc', _columns(['1', '2'], '2'), 'Hot?', 'B', None, ('ice', 'steam')),
        ('arc', _columns([0, 1], 0), 'Hot?', 'A', None, ('ice', 'steam')),  # as TFDS has it
        ('arc', INSTRUCTION, 'Hot?', 'B', None, ('ice', 'hot steam')),
        ('svamp', SVAMP, 'He had 3. How many?', '51', None, ()),
        ('mawps', {'input': 'How many ?', 'target': 2.5}, 'How many ?', '2.5', None, ()),
        ('mawps', {'sQuestion': 'How many ?', 'lSolutions': [43.0]}, 'How many ?', '43', None, ()),
        ('asdiv', ASDIV, 'Six. How many?', '15 (balls)', None, ()),
    ],
)
def test_a_row_is_read_as_its_authors_wrote_it(form, row, question, answer, solution, options):
    assert published.read(form, row) == (question, answer, solution, options)


@pytest.mark.parametrize(
    'form, row',
    [
        ('gsm8k', {'question': 'Q', 'answer': 'no mark'}),
        ('gsm8k', {'q': 'Q'}),
        ('math', {'problem': 'Q', 'solution': 'no box'}),
        ('svamp', {'Body': None, 'Question': 'Q', 'Answer': 1}),
        ('arc', {'question': {'stem': 'Q', 'choices': CHOICES}, 'answerKey': 'E'}),
        ('arc', {'question': {'stem': 'Q', 'choices': CHOICES[:1]}, 'answerKey': 'A'}),
        ('asdiv', {'Body': 'Q', 'Question': 'Q'}),
    ],
)
def test_a_row_of_another_form_is_refused(form, row):
    with pytest.raises(ValueError):
        published.read(form, row)


@pytest.mark.parametrize(
    'row, empty',
    [
        ({'question': '', 'answer': '#### 1'}, 'question'),
        ({'question': 'Q', 'answer': 'So. ####'}, 'answer'),
    ],
)
def test_a_row_with_an_empty_text_is_refused_by_the_name_of_the_text(row, empty):
    with pytest.raises(ValueError, match=f'the {empty} is empty'):
        published.read('gsm8k', row)


def _prompt(tmp_path, form, row):
    """The prompt of a set with one row."""
    path = tmp_path / 'set.jsonl'
    path.write_text(json.dumps(row))
    (prompt,) = prompts.problems(None, None, jax.random.key(0), source=str(path), form=form)
    return prompt


@pytest.mark.parametrize(
    'form, row, response, right',
    [
        ('gsm8k', GSM8K, 'So it is four.\nFinal answer: 4.', 1),
        ('gsm8k', GSM8K, 'Final answer: $4.00', 1),
        ('gsm8k', GSM8K, '4', 0),
        ('gsm8k', GSM8K, 'Final answer: 44', 0),
        ('math', MATH, r'Thus \boxed{\frac{x}{2}}. Final answer: $\boxed{\frac{x}{2}}$', 1),
        ('math', MATH, r'Final answer: $0.5x$', 1),
        ('math', MATH, r'It is $\boxed{x/\sqrt{2}}$', 0),
        ('math', MATH, 'half', 0),
        ('arc', ARC, 'Final answer: (B) steam', 1),
        ('arc', ARC, 'Final answer: **b**', 1),
        ('arc', ARC, 'Final answer: Because', 0),
        ('arc', ARC, 'Final answer: A', 0),
    ],
)
def test_a_response_is_judged_by_its_forms_own_rule(tmp_path, form, row, response, right):
    assert scorers.correctness(_prompt(tmp_path, form, row), Response(response)) == right


@pytest.mark.parametrize('form, row', [('gsm8k', GSM8K), ('math', MATH)])
def test_the_sets_own_solution_is_right(tmp_path, form, row):
    prompt = _prompt(tmp_path, form, row)
    assert scorers.correctness(prompt, Response(prompt.meta['responses'][0])) == 1.0
