"""Prompts from published problem sets: how they are asked, what they show, and the sets themselves
where they are here.
"""

import json

import data_sets
import jax
import pytest

from selfrew.running import binding
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


BODY = 'Each pack of {} costs {} dollars.'
TOPICS = 'dvds apples pears books pens chairs tables lamps cups plates coins stamps'.split()


def _svamp_rows(price, question):
    return [
        {'Body': BODY.format(topic, price), 'Question': question, 'Answer': 1.0} for topic in TOPICS
    ]


def test_a_split_parts_a_file_and_twins_in_other_files_are_on_the_same_side(tmp_path, write_rows):
    rows = _svamp_rows(76, 'How much do you pay?')
    source = write_rows(*rows)
    every = _problems(source, form='svamp')
    sides = [
        _problems(source, form='svamp', split=split, heldout=0.3) for split in ('train', 'heldout')
    ]
    assert all(sides) and len(every) == len(TOPICS)
    assert sorted(p.id for side in sides for p in side) == sorted(p.id for p in every)
    # Another file, in another order and form, with other numbers and another question.
    twins = [
        {'input': BODY.format(topic, 3) + ' What do two packs cost?', 'target': 6.0}
        for topic in reversed(TOPICS)
    ]
    path = tmp_path / 'twins.json'
    path.write_text(json.dumps(twins))
    for split, side in zip(('train', 'heldout'), sides):
        twin_side = _problems(path, form='mawps', split=split, heldout=0.3)
        topics = [
            [topic for topic in TOPICS for p in prompts_ if f'pack of {topic} ' in p.text]
            for prompts_ in (side, twin_side)
        ]
        assert topics[0] == topics[1] != []


def test_what_is_shown_is_on_the_side_of_training(write_rows):
    source = write_rows(*_svamp_rows(76, 'How much do you pay?'))
    held_out = _problems(source, form='svamp', split='heldout', heldout=0.3)
    options = {'form': 'svamp', 'shots': source, 'shown': 3, 'heldout': 0.3}
    template = 'question'  # shows {{ shots }}
    asked = _problems(source, split='heldout', template=template, **options)
    assert len(asked) == len(held_out)  # none of them is shown
    questions = [p.text for p in held_out]
    assert not any(text in prompt.text[: -len(text)] for prompt in asked for text in questions)


def test_an_unknown_split_and_an_empty_side_are_refused(write_rows):
    source = write_rows(GSM8K)
    with pytest.raises(ValueError, match="no split 'test'; there are: train, heldout"):
        _problems(source, form='gsm8k', split='test')
    with pytest.raises(ValueError, match='none of its 1 rows is asked for'):
        _problems(source, form='gsm8k', split='heldout')
    assert len(_problems(source, form='gsm8k', split='train')) == 1


@pytest.mark.parametrize('share', [0.0, 1.0, -0.1, 5])
def test_a_share_out_of_range_is_refused_when_the_config_is_bound(share, write_rows):
    entry = {'name': 'problems', 'source': write_rows(GSM8K), 'form': 'gsm8k', 'heldout': share}
    with pytest.raises(ValueError, match='heldout=.*: want more than 0 and less than 1'):
        binding.bind('prompts', entry, 'round.prompts')
    with pytest.raises(ValueError, match="no split 'test'"):
        binding.bind('prompts', entry | {'heldout': 0.1, 'split': 'test'}, 'round.prompts')
