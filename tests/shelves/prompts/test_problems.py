"""Prompts from published problem sets: how they are asked, what they show, and the sets themselves
where they are here.
"""

import json

import data_sets
import jax
import pytest

from selfrew.shelves import prompts, scorers
from selfrew.types import Response

ARC = {
    'question': {
        'stem': 'Hot?',
        'choices': [
            {'label': 'A', 'text': 'ice'},
            {'label': 'B', 'text': 'steam '},
            {'label': 'C', 'text': 'sand'},
        ],
    },
    'answerKey': 'B',
}
GSM8K = {'question': 'Two and two?', 'answer': 'It is 2+2=<<2+2=4>>4.\n#### 4'}


def _problems(source, **options):
    return prompts.problems(None, None, jax.random.key(0), source=str(source), **options)


def test_prompts_ask_in_the_published_format_and_in_a_users_words(tmp_path, write_rows):
    (prompt,) = _problems(write_rows(ARC), form='arc')
    assert prompt.text.endswith('Question: Hot?\n(A) ice\n(B) steam\n(C) sand\nSolution:')
    assert 'Final answer: (letter of the option)' in prompt.text and prompt.id.startswith('arc/')
    template = tmp_path / 'template.jinja'
    template.write_text('Q: {{ question }} A:')
    (prompt,) = _problems(write_rows(ARC), form='arc', template=str(template))
    assert prompt.text == 'Q: Hot? A:'


def test_solved_examples_are_shown_and_not_asked(write_rows):
    rows = [{'problem': f'{i} and 1?', 'solution': rf'Add: \boxed{{{i + 1}}}'} for i in range(6)]
    source = write_rows(*rows)
    asked = _problems(source, form='math', shots=source, shown=4)
    assert [prompt.answer for prompt in asked] == ['5', '6']
    for prompt in asked:
        assert prompt.text.count('Final answer: $') == 4
        assert prompt.text.endswith(f'{int(prompt.answer) - 1} and 1?\nSolution:')


def test_without_answers_nothing_shows_the_truth(write_rows):
    (prompt,) = _problems(write_rows(GSM8K), form='gsm8k', answers=False)
    assert prompt.answer is None and 'responses' not in prompt.meta


def test_a_json_array_is_read_and_its_prompts_have_distinct_ids(tmp_path):
    path = tmp_path / 'set.json'
    path.write_text(json.dumps([GSM8K, GSM8K | {'question': 'And?'}]))
    problems = _problems(path, form='gsm8k')
    assert [prompt.answer for prompt in problems] == ['4', '4']
    assert len({prompt.id for prompt in problems}) == 2


def test_a_form_that_does_not_exist_is_refused(write_rows):
    with pytest.raises(KeyError, match="no form named 'gsm9k'; there are: gsm8k, math"):
        _problems(write_rows(GSM8K), form='gsm9k')


@pytest.mark.skipif(not data_sets.FOLDER.is_dir(), reason='the data sets are not here')
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
    problems = _problems(data_sets.FOLDER / file, form=form)
    assert len(problems) == count == len({prompt.id for prompt in problems})
    for prompt in problems[::7]:
        right = [f'So.\nFinal answer: {prompt.answer}', *prompt.meta.get('responses', ())]
        assert all(scorers.correctness(prompt, Response(response)) == 1.0 for response in right)
        assert scorers.correctness(prompt, Response('Final answer: none')) == 0.0
