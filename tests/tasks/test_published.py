"""Published problem sets: rows as their authors write them, prompts, verdicts, and the sets
themselves where they are.
"""

import json
import os
import pathlib

import jax
import pytest

from selfrew.shelves import prompts, scorers
from selfrew.tasks import published, records

KEY = jax.random.key(0)
DATA = pathlib.Path(__file__).parents[3] / 'shared' / 'data'

GSM8K = {'question': 'Two and two?', 'answer': 'It is 2+2=<<2+2=4>>4.\n#### 4'}
MATH = {
    'problem': 'Half of $x$?',
    'solution': r'We get $\frac{x}{2}$, so $\boxed{\frac{x}{\sqrt{4}}}$.',
    'level': 'Level 1',
}
CHOICES = [
    {'label': 'A', 'text': 'ice'},
    {'label': 'B', 'text': 'steam '},
    {'label': 'C', 'text': 'sand'},
]


@pytest.mark.parametrize(
    'form, row, expected',
    [
        ('gsm8k', GSM8K, ('Two and two?', '4', 'It is 2+2=4.\nFinal answer: 4', ())),
        (
            'math',
            MATH,
            (
                'Half of $x$?',
                r'\frac{x}{\sqrt{4}}',
                MATH['solution'] + '\n' + r'Final answer: $\frac{x}{\sqrt{4}}$',
                (),
            ),
        ),
        (
            'arc',
            {'question': {'stem': 'Hot?', 'choices': CHOICES}, 'answerKey': 'B'},
            ('Hot?', 'B', None, ('ice', 'steam', 'sand')),
        ),
        (
            'arc',
            {
                'question': 'Hot?',
                'choices': {'text': ['ice', 'steam'], 'label': ['1', '2']},
                'answerKey': '2',
            },
            ('Hot?', 'B', None, ('ice', 'steam')),
        ),
        (
            'arc',
            {
                'question': 'Hot?',
                'choices': {'text': ['ice', 'steam'], 'label': [0, 1]},
                'answerKey': 0,
            },  # as TFDS has it
            ('Hot?', 'A', None, ('ice', 'steam')),
        ),
        (
            'arc',
            {
                'instruction': 'Choose: Hot?\n\nAnswer1: ice Answer2: hot steam\n\nAnswer format: answer1/answer2',
                'answer': 'answer2',
            },
            ('Hot?', 'B', None, ('ice', 'hot steam')),
        ),
        (
            'svamp',
            {'Body': 'He had 3', 'Question': 'How many?', 'Answer': 51.0},
            ('He had 3. How many?', '51', None, ()),
        ),
        ('mawps', {'input': 'How many ?', 'target': 2.5}, ('How many ?', '2.5', None, ())),
        (
            'mawps',
            {'sQuestion': 'How many ?', 'lSolutions': [43.0]},
            ('How many ?', '43', None, ()),
        ),
        (
            'asdiv',
            {'Body': 'Six.', 'Question': 'How many?', 'Answer': '15 (balls)'},
            ('Six. How many?', '15', None, ()),
        ),
    ],
)
def test_a_row_is_read_as_its_authors_wrote_it(form, row, expected):
    assert published.read(form, row) == expected


@pytest.mark.parametrize(
    'form, row',
    [
        ('gsm8k', {'question': 'Q', 'answer': 'no mark'}),
        ('gsm8k', {'q': 'Q'}),
        ('gsm8k', {'question': '', 'answer': '#### 1'}),
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


def _source(tmp_path, *found) -> str:
    path = tmp_path / 'set.jsonl'
    path.write_text('\n'.join(map(json.dumps, found)))
    return str(path)


@pytest.mark.parametrize(
    'form, row, said, right',
    [
        ('gsm8k', GSM8K, 'So it is four.\nFinal answer: 4.', 1),
        ('gsm8k', GSM8K, 'Final answer: $4.00', 1),
        ('gsm8k', GSM8K, '4', 0),
        ('gsm8k', GSM8K, 'Final answer: 44', 0),
        ('math', MATH, r'Thus \boxed{\frac{x}{2}}. Final answer: $\boxed{\frac{x}{2}}$', 1),
        ('math', MATH, r'Final answer: $0.5x$', 1),
        ('math', MATH, r'It is $\boxed{x/\sqrt{2}}$', 0),
        ('math', MATH, 'half', 0),
        (
            'arc',
            {'question': {'stem': 'Hot?', 'choices': CHOICES}, 'answerKey': 'B'},
            'Final answer: (B) steam',
            1,
        ),
        (
            'arc',
            {'question': {'stem': 'Hot?', 'choices': CHOICES}, 'answerKey': 'B'},
            'Final answer: **b**',
            1,
        ),
        (
            'arc',
            {'question': {'stem': 'Hot?', 'choices': CHOICES}, 'answerKey': 'B'},
            'Final answer: Because',
            0,
        ),
        (
            'arc',
            {'question': {'stem': 'Hot?', 'choices': CHOICES}, 'answerKey': 'B'},
            'Final answer: A',
            0,
        ),
    ],
)
def test_the_verdict_is_the_forms_own(tmp_path, form, row, said, right):
    if form == 'math':
        pytest.importorskip('math_verify')
    (prompt,) = prompts.problems(None, None, KEY, source=_source(tmp_path, row), form=form)
    assert scorers.correctness(prompt, said) == right


def test_a_reference_is_right_by_its_own_form(tmp_path):
    for form, row in (('gsm8k', GSM8K), ('math', MATH)):
        (prompt,) = prompts.problems(None, None, KEY, source=_source(tmp_path, row), form=form)
        assert scorers.correctness(prompt, prompt.meta['responses'][0]) == 1.0


def test_prompts_ask_in_the_published_format_and_in_a_users_words(tmp_path):
    row = {'question': {'stem': 'Hot?', 'choices': CHOICES}, 'answerKey': 'B'}
    (prompt,) = prompts.problems(None, None, KEY, source=_source(tmp_path, row), form='arc')
    assert prompt.text.endswith('Question: Hot?\n(A) ice\n(B) steam\n(C) sand\nSolution:')
    assert 'Final answer: (letter of the option)' in prompt.text and prompt.id.startswith('arc/')
    mine = tmp_path / 'mine.jinja'
    mine.write_text('Q: {{ question }} A:')
    (prompt,) = prompts.problems(
        None, None, KEY, source=_source(tmp_path, row), form='arc', template=str(mine)
    )
    assert prompt.text == 'Q: Hot? A:'


def test_solved_examples_are_shown_and_not_asked(tmp_path):
    found = [{'problem': f'{i} and 1?', 'solution': rf'Add: \boxed{{{i + 1}}}'} for i in range(6)]
    source = _source(tmp_path, *found)
    asked = prompts.problems(None, None, KEY, source=source, form='math', shots=source, shown=4)
    assert [p.answer for p in asked] == ['5', '6']
    for p in asked:
        assert p.text.count('Final answer: $') == 4 and p.text.endswith(
            f'{int(p.answer) - 1} and 1?\nSolution:'
        )


def test_without_answers_nothing_shows_the_truth(tmp_path):
    (prompt,) = prompts.problems(
        None, None, KEY, source=_source(tmp_path, GSM8K), form='gsm8k', answers=False
    )
    assert prompt.answer is None and 'responses' not in prompt.meta


def test_files_of_other_kinds_are_read(tmp_path):
    path = tmp_path / 'set.json'
    path.write_text(json.dumps([GSM8K, GSM8K | {'question': 'And?'}]))
    found = prompts.problems(None, None, KEY, source=str(path), form='gsm8k')
    assert [p.answer for p in found] == ['4', '4'] and len({p.id for p in found}) == 2
    path = tmp_path / 'set.xml'
    path.write_text(
        '<P><Problem ID="1"><Body>B.</Body><Question>Q?</Question><Answer>2 (a)</Answer></Problem></P>'
    )
    assert (
        records.read_records(str(path), lambda _, row: published.read('asdiv', row), 0)[0].answer
        == '2'
    )
    path.with_suffix('.json').write_text('[1,')
    with pytest.raises(ValueError, match='is not a JSON array'):
        records.read_records(str(path.with_suffix('.json')), lambda _, row: row, 0)


@pytest.mark.skipif(not DATA.is_dir(), reason='the data sets are not here')
@pytest.mark.parametrize(
    'form, file, count',
    [
        ('gsm8k', 'gsm8k/train.jsonl.gz', 7473),
        ('gsm8k', 'gsm8k/test.jsonl', 1319),
        ('svamp', 'svamp/svamp_dev_700.jsonl', 700),
        ('asdiv', 'asdiv/ASDiv.xml', 2305),
        ('mawps', 'mawps/multiarith.jsonl', 600),
        ('arc', 'arc/arc_challenge_test.json', 1172),
    ],
)
def test_the_sets_are_read_to_the_last_row(form, file, count):
    found = prompts.problems(None, None, KEY, source=os.path.join(DATA, file), form=form)
    assert len(found) == count == len({p.id for p in found})
    for p in found[::7]:
        assert scorers.correctness(p, f'So.\nFinal answer: {p.answer}') == 1.0
        assert all(scorers.correctness(p, given) == 1.0 for given in p.meta.get('responses', ()))
        assert scorers.correctness(p, 'Final answer: none') == 0.0
