"""Prompts: the built-in tasks against the test's own computation, the user's data good and bad, the
contract.
"""

import json
import logging
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from selfrew import tasks
from selfrew.run import binding
from selfrew.shelves import prompts, scorers
from selfrew.tasks import answers, rising, templates, word_problems
from selfrew.types import Example, Prompt, Response, Rollout, ask, from_json, to_json

SHARED = pathlib.Path(__file__).parents[3] / 'shared'
BOTH = ('word_problems', 'rising')
SOLVED = 'Final answer: '


def _key(seed=0):
    return jax.random.key(seed)


def _task(seed=0, n=1000, names=BOTH, **options):
    return prompts.task(None, None, _key(seed), tasks=names, n=n, **options)


# --- an own reading of the problems -----------------------------------------------------------------------------------

GAINED = 'finds', 'buys', 'gets', 'wins', 'picks'


def _totals(problem: str) -> list[int]:
    """The total after each sentence of a word problem, the first one's included."""
    first, *others, question = re.findall(r'[^.?]+[.?]', problem)
    totals = [int(re.search(r'\d+', first)[0])]
    name = first.split()[0]
    assert question.split() == ['How', 'many', first.split()[-1].rstrip('.'), 'does', name, 'have?']
    for sentence in others:
        assert sentence.split()[0] == name
        amount = int(re.search(r'\d+', sentence)[0])
        totals.append(totals[-1] + (amount if sentence.split()[1] in GAINED else -amount))
    return totals


def _wanted(problem: str) -> tuple[int, int, int]:
    """How many numbers a problem asks for, and from where to where."""
    said = (
        r'Give \w+ (\d) numbers from (\d+) to (\d+) for the \w+, each larger than the one before\.'
    )
    return tuple(map(int, re.fullmatch(said, problem).groups()))


def _grade(problem: str, response: str) -> float:
    """The grade by the docstrings of the tasks."""
    said = response.rpartition(SOLVED)[2]
    if not problem.startswith('Give'):
        totals = _totals(problem)
        return 5.0 if int(said) == totals[-1] else 2.0 if int(said) in totals[1:-1] else 1.0
    count, low, high = _wanted(problem)
    numbers = list(map(int, said.split(', ')))
    if sorted(set(numbers)) != numbers or numbers[0] < low or numbers[-1] > high:
        return 1.0
    return 5.0 if len(numbers) == count else 2.0


# --- built-in tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', tasks.TASKS)
def test_train_and_held_out_never_overlap(name):
    train, heldout = (
        {p.text for seed in range(3) for p in _task(seed, names=(name,), split=split)}
        for split in ('train', 'heldout')
    )
    assert len(train) > 2000 < len(heldout)  # nearly all of 3 · 1000 are different
    assert not train & heldout
    # seed data are training data, the judge's test is held out
    for make, where in (
        (prompts.demonstrations, 'train'),
        (prompts.verdicts, 'train'),
        (prompts.ranked, 'heldout'),
    ):
        found = [p.text for p in make(None, None, _key(7), tasks=(name,), n=100)]
        inside = [
            re.search(r'^Question: (.*)$', t, re.M)[1] if make is prompts.verdicts else t
            for t in found
        ]
        assert all(tasks.is_held_out(t) == (where == 'heldout') for t in inside)


def test_the_problems_of_a_draw_are_different_and_the_tasks_come_in_turn():
    found = _task(n=2000)
    assert len({p.text for p in found}) == len({p.id for p in found}) == 2000
    assert [p.meta['task'] for p in found[:4]] == ['word_problems', 'rising'] * 2
    assert len(_task(n=7)) == 7


def test_one_key_gives_the_same_prompts_and_another_gives_others():
    assert _task(3, answers=True) == _task(3, answers=True)
    assert len({p.id for p in _task(3)} & {p.id for p in _task(4)}) < 20


def test_word_problems_are_solved_as_their_sentences_say():
    found = _task(n=2000, names=('word_problems',), answers=True)
    for p in found:
        totals = _totals(p.text)
        assert (
            p.answer == totals[-1]
            and all(0 <= t <= word_problems.LARGEST for t in totals)
            and 2 <= len(totals) <= 5
        )
        assert word_problems.grade(p, f'{SOLVED}{totals[-1]}') == 5.0
        assert [left for left, _, _ in p.meta['steps']] == totals[:-1]
    assert {len(_totals(p.text)) for p in found} == {2, 3, 4, 5}


def test_rising_numbers_can_be_found_and_many_are_right():
    for p in _task(n=2000, names=('rising',), answers=True):
        count, low, high = _wanted(p.text)
        assert p.answer == {'count': count, 'low': low, 'high': high} and 3 <= count <= 6
        assert 0 <= low <= high - 20 and high <= word_problems.LARGEST
        for numbers in (
            range(low, low + count),
            range(high - count + 1, high + 1),
        ):  # the bounds belong to the range
            assert rising.grade(p, SOLVED + ', '.join(map(str, numbers))) == 5.0


def test_grades_and_verdicts_agree_with_an_own_computation():
    rng, seen = np.random.default_rng(0), set()
    for p in _task(n=2000, answers=True):
        module = tasks.get(p.meta['task'])
        response = tasks.demonstrate(p, rng, evenly=True)
        grade, verdict = module.grade(p, response), module.worked_verdict(p, response)
        assert grade == _grade(p.text, response), (p.text, response)
        assert answers.score(Response(verdict), low=0.0, high=5.0) == grade
        assert scorers.correctness(p, response) == float(grade == 5.0)
        truth = _totals(p.text)[-1] if module is word_problems else _wanted(p.text)[0]
        assert f'Expected {truth}, found ' in verdict
        seen.add((p.meta['task'], grade))
    assert seen == {(name, grade) for name in BOTH for grade in (1.0, 2.0, 5.0)}


@pytest.mark.parametrize(
    'name, response, grade',
    [
        ('word_problems', '', 0.0),
        ('word_problems', 'It is 12.', 0.0),
        ('word_problems', 'Final answer: many', 0.0),
        ('word_problems', 'Final answer: -1', 1.0),
        ('word_problems', 'Final answer: 123456', 1.0),
        ('rising', '', 0.0),
        ('rising', '16, 17, 18', 0.0),
        ('rising', 'Final answer: ', 0.0),
        ('rising', 'Final answer: nothing', 1.0),
        ('rising', 'Final answer: 16, ²', 1.0),
    ],
)
def test_what_answers_nothing_is_graded_low(name, response, grade):
    for p in _task(n=20, names=(name,), answers=True):
        assert tasks.get(name).grade(p, response) == grade
        assert tasks.get(name).worked_verdict(p, response).endswith(f'Score: {grade:.0f}')


def test_a_number_that_is_not_larger_does_not_fit():
    (p,) = _task(n=1, names=('rising',), answers=True)
    for numbers in ([20] * p.answer['count'], range(30, 30 - p.answer['count'], -1)):
        assert rising.grade(p, SOLVED + ', '.join(map(str, numbers))) == 1.0


def _demonstrated(name, n=4000):
    found = prompts.demonstrations(None, None, _key(5), tasks=(name,), n=n)
    return [(p.text, p.meta['responses'][0]) for p in found]


def test_the_demonstrator_of_word_problems_is_as_lazy_as_it_says():
    sums = r'(\d+) ([+-]) (\d+) = (\d+)\.'
    several = short = slipped = 0
    for problem, response in (shown := _demonstrated('word_problems')):
        lines = [
            (int(a) + int(f'{sign}{b}') == int(c)) for a, sign, b, c in re.findall(sums, response)
        ]
        steps = len(_totals(problem)) - 1
        several += steps > 1
        short += len(lines) < steps
        assert len(lines) in (steps, max(steps - 1, 1))
        slipped += False in lines
        assert all(lines) or len(lines) == steps  # one flaw at a time
    # standard errors: √(0.25 / 3000) < 0.01 and √(0.16 / 2500) = 0.008
    assert short / several == pytest.approx(tasks.STOPS_EARLY, abs=0.04)
    # every problem meets the same draw; one of a single step cannot be cut short
    assert slipped / len(shown) == pytest.approx((1 - tasks.STOPS_EARLY) * tasks.SLIPS, abs=0.02)


def test_the_demonstrator_of_rising_numbers_is_as_lazy_as_it_says():
    short = wrong = 0
    for problem, response in (shown := _demonstrated('rising')):
        count, numbers = _wanted(problem)[0], response.removeprefix(SOLVED).split(', ')
        short += len(numbers) < count
        wrong += _grade(problem, response) == 1.0
        assert len(numbers) in (count, count - 1)
    assert short / len(shown) == pytest.approx(tasks.STOPS_EARLY, abs=0.04)
    assert wrong / (len(shown) - short) == pytest.approx(tasks.SLIPS, abs=0.035)


def test_prompts_without_answers_carry_no_truth():
    for p in _task(n=200):
        assert p.answer is None and p.meta == {'task': p.meta['task']}
    for make in (prompts.demonstrations, prompts.verdicts):
        for p in make(None, None, _key(), tasks=BOTH, n=200):
            assert (
                p.answer is None
                and p.meta.keys() == {'task', 'responses'}
                and len(p.meta['responses']) == 1
            )
    shown = _task(n=200, answers=True)
    assert [p.id for p in shown] == [p.id for p in _task(n=200)] and all(
        p.answer is not None for p in shown
    )


def test_worked_verdicts_conclude_with_the_true_grade_of_the_response_they_were_shown():
    grades = set()
    for p in prompts.verdicts(None, None, _key(), tasks=BOTH, n=500, template='check'):
        problem, response = re.search(
            r'^Question: (.*)\nAnswer: ((?:.|\n)*)$', p.text, re.M
        ).groups()
        assert p.text == templates.render('check', prompt=problem, response=response)
        (verdict,) = p.meta['responses']
        grades.add(grade := answers.score(Response(verdict), low=0.0, high=5.0))
        assert grade == _grade(problem, response)
    assert grades == {1.0, 2.0, 5.0}


def test_ranked_responses_have_true_grades_and_never_all_the_same():
    for p in prompts.ranked(None, None, _key(), tasks=BOTH, n=300, responses=4):
        assert (
            len(p.meta['responses']) == len(p.meta['grades']) == 4
            and len(set(p.meta['grades'])) > 1
        )
        assert p.meta['grades'] == [_grade(p.text, r) for r in p.meta['responses']]


def test_tasks_and_splits_that_do_not_exist_are_refused():
    with pytest.raises(KeyError, match="no task named 'puzzles'; there are: word_problems, rising"):
        _task(names=('puzzles',))
    with pytest.raises(ValueError, match="no split 'test'; there are: train, heldout"):
        _task(split='test')
    with pytest.raises(ValueError, match='there are: word_problems, rising'):
        _task(names=())


# --- the user's data --------------------------------------------------------------------------------------------------


def _records(source, seed=0, **options):
    return prompts.records(None, None, _key(seed), source=str(source), **options)


@pytest.fixture
def file(tmp_path):
    """Writes rows, each a value for JSON or bytes as they are, a line each; returns the path."""

    def write(*rows):
        path = tmp_path / 'rows.jsonl'
        lines = [
            row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()
            for row in rows
        ]
        path.write_bytes(b'\n'.join(lines) + b'\n')
        return path

    return write


USER, SYSTEM, ASSISTANT = (
    {'role': r, 'content': f'of {r}'} for r in ('user', 'system', 'assistant')
)


def test_a_row_is_a_string_or_a_chat(file):
    chat = [SYSTEM, USER, ASSISTANT, USER]
    path = file(
        {'prompt': 'What is 2 + 2?', 'answer': 4, 'id': 'sum', 'other': 'x'},
        {'prompt': chat},
        {'messages': [USER, ASSISTANT]},
        {'prompt': 'Hi', 'response': 'Hello'},
        {'prompt': [USER | {'name': 'Jon'}]},
    )
    one, two, three, four, five = _records(path)
    assert one == Prompt('sum', ({'role': 'user', 'content': 'What is 2 + 2?'},), 4, {})
    assert (
        two.messages == tuple(chat)
        and two.answer is None
        and two.meta == {}
        and two.id == f'{path}:line 2'
    )
    assert three.messages == (USER,) and three.meta == {
        'responses': ['of assistant']
    }  # the last turn
    assert four.meta == {'responses': ['Hello']} and five.messages == (USER,)


def test_the_fields_are_named_by_the_config(file):
    (found,) = _records(
        file({'question': 'Q?', 'truth': 'A', 'answer': 'B'}), prompt='question', answer='truth'
    )
    assert (found.text, found.answer) == ('Q?', 'A')


BAD = {
    b'{"prompt": "open': 'not JSON',
    b'': None,  # an empty line is no row
    b'["a list"]': 'want an object, got list',
    b'{"question": "Q?"}': "no field 'prompt' and no messages; there are: question",
    b'{"prompt": null}': 'no field',
    b'{"prompt": 7}': 'neither a string nor a list of messages',
    b'{"prompt": ["Q?"]}': 'neither a string nor a list of messages',
    b'{"prompt": [{"role": "human", "content": "Q?"}]}': 'neither a string nor a list of messages',
    b'{"prompt": [{"role": "user", "content": null}]}': 'neither a string nor a list of messages',
    b'{"prompt": ""}': 'no user turn to answer, or an empty one',
    b'{"prompt": "  \\n"}': 'no user turn to answer, or an empty one',
    b'{"prompt": []}': 'no user turn to answer, or an empty one',
    b'{"prompt": [{"role": "system", "content": "Q?"}]}': 'no user turn to answer, or an empty one',
    b'{"prompt": [{"role": "assistant", "content": "A"}]}': 'no user turn to answer, or an empty one',
    b'{"prompt": "Q?", "response": " "}': 'the given response is not a text',
    b'{"prompt": "Q?", "response": 4}': 'the given response is not a text',
    b'{"prompt": "caf\xe9"}': 'not JSON in UTF-8',
}


def test_bad_rows_are_named_by_their_line_skipped_and_counted(file, caplog):
    path = file({'prompt': 'first'}, *BAD, {'prompt': 'last'})
    reasons = [(line, reason) for line, reason in enumerate(BAD.values(), 2) if reason]
    with caplog.at_level(logging.WARNING):
        found = _records(path, max_bad=len(reasons))
    assert [(p.text, p.id) for p in found] == [
        ('first', f'{path}:line 1'),
        ('last', f'{path}:line {len(BAD) + 2}'),
    ]
    *skipped, total = [record.getMessage() for record in caplog.records]
    assert len(skipped) == len(reasons)
    for message, (line, reason) in zip(skipped, reasons):
        assert f'{path}, line {line}: ' in message and reason in message
    assert f'{len(reasons)} rows of {path} skipped, 2 read' in total


def test_good_rows_are_read_without_a_word(file, caplog):
    with caplog.at_level(logging.WARNING):
        _records(file({'prompt': 'Q?'}))
    assert not caplog.records


def test_more_bad_rows_than_allowed_refuse_the_source(file):
    path = file({'prompt': 'Q?'}, {}, {'prompt': ''}, b'{')
    assert len(_records(path, max_bad=3)) == 1
    with pytest.raises(
        ValueError, match='more than max_bad=2 bad rows in .*; the first: .*line 2: no field'
    ):
        _records(path, max_bad=2)
    with pytest.raises(ValueError, match='more than max_bad=0'):
        _records(path, max_bad=0)


def test_a_source_without_a_prompt_is_refused(file, tmp_path):
    for rows in ((), (b'', b'  ')):
        with pytest.raises(ValueError, match='no prompt in .*rows.jsonl: it is empty'):
            _records(file(*rows))
    with pytest.raises(
        ValueError, match='no prompt in .*; the first bad row: .*line 1: .*an empty one'
    ):
        _records(file({'prompt': ''}))
    with pytest.raises(
        FileNotFoundError, match="no prompt file '.*nowhere.jsonl'.*; give a JSONL file or tfds"
    ):
        _records(tmp_path / 'nowhere.jsonl')
    with pytest.raises(FileNotFoundError):
        _records(tmp_path)  # a folder


def test_only_a_newline_ends_a_line(file):
    strange = 'a\u2028b\u2029c\x85d\x0be\u000cf'
    raw = json.dumps(
        {'prompt': strange.replace('\x0b', '').replace('\x0c', '')}, ensure_ascii=False
    ).encode()
    one, two, three = _records(file(raw, {'prompt': 'Q?'}, b'{"prompt":\r"windows"}\r'))
    assert (
        one.text == 'a\u2028b\u2029c\x85def'
        and two.id.endswith('line 2')
        and three.text == 'windows'
    )
    assert raw.count('\u2028'.encode()) == 1  # as itself, not as an escape


def test_a_repeated_id_is_told_apart_by_its_row(file):
    one, two = _records(file({'prompt': 'a', 'id': 1}, {'prompt': 'b', 'id': 1}))
    assert (one.id, two.id) == ('1', '1 (line 2)')


def test_rows_that_break_the_reader_are_bad_rows(file, caplog):
    good = {'prompt': 'Q?'}
    rows = (
        b'\xef\xbb\xbf{"prompt": "first"}',
        b'{"prompt": "\\ud83d hi"}',
        b'{"prompt": 1' + b'0' * 5000 + b'}',
    )
    first, last = _records(file(*rows, b'[' * 100_000, good))
    assert (first.text, last.text) == ('first', 'Q?')
    assert [f'line {n}' in caplog.text for n in (1, 2, 3, 4)] == [False, True, True, True]


@pytest.mark.parametrize('n', [0, -1])
def test_no_prompts_at_all_is_refused(file, n):
    with pytest.raises(ValueError, match=f'n={n}'):
        _records(file({'prompt': 'Q?'}), n=n)
    with pytest.raises(ValueError, match=f'n={n}'):
        _task(n=n)


def test_a_ranking_wants_two_responses():
    with pytest.raises(ValueError, match='responses=1'):
        prompts.ranked(None, None, _key(), tasks=('rising',), n=1, responses=1)


def test_a_subsample_is_drawn_by_the_key_without_replacement(file):
    path = file(*({'prompt': str(i)} for i in range(50)))
    found = [int(p.text) for p in _records(path, n=20)]
    assert len(set(found)) == 20 and found == sorted(found) and found != list(range(20))
    assert [int(p.text) for p in _records(path, n=20)] == found
    assert [int(p.text) for p in _records(path, seed=1, n=20)] != found
    assert len(_records(path, n=50)) == len(_records(path, n=51)) == len(_records(path)) == 50


def test_gold_solutions_of_gsm8k_are_right_and_those_of_others_wrong():
    path = SHARED / 'data/gsm8k/test.jsonl'
    if not path.is_file():
        pytest.skip(f'{path.name} of GSM8K is not here')
    found = _records(path, prompt='question', max_bad=0)
    assert len(found) == 1319
    gold = [
        Rollout(p, (Response(p.answer), Response(f'{SOLVED}{p.answer.split("#### ")[1]}')))
        for p in found
    ]
    assert all(j.scores == (1.0, 1.0) for j in scorers.exact_answer(None, None, gold, _key()))
    others = [Rollout(p, (Response(q.answer),)) for p, q in zip(found, found[1:])]
    same = [
        a.answer.split('#### ')[1] == b.answer.split('#### ')[1] for a, b in zip(found, found[1:])
    ]
    assert [j.scores[0] for j in scorers.exact_answer(None, None, others, _key())] == [
        float(s) for s in same
    ]


# --- tensorflow-datasets ----------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def sums(tmp_path_factory):
    """A data set 'tiny_sums' of five rows, written as array_record and registered with
    tensorflow-datasets.
    """
    import tensorflow_datasets as tfds

    class TinySums(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            fields = {
                'prompt': tfds.features.Text(),
                'response': tfds.features.Text(),
                'answer': np.int64,
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(fields))

        def _split_generators(self, manager):
            return {'train': self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                yield (
                    i,
                    {
                        'prompt': f'Qué es {i} + {i}?',
                        'response': f'{SOLVED}{2 * i}',
                        'answer': 2 * i,
                    },
                )

    folder = str(tmp_path_factory.mktemp('tfds'))
    TinySums(data_dir=folder, file_format='array_record').download_and_prepare()
    return folder


READ = """
import json, jax
read = prompts.records(None, None, jax.random.key(0), source='tfds:tiny_sums/train')
some = prompts.records(None, None, jax.random.key(0), source='tfds:tiny_sums/train[:3]')
import sys
assert 'tensorflow' not in sys.modules
print(json.dumps([to_json(p) for p in read + some]))
"""


def test_a_data_set_on_disk_is_read_without_its_code_and_without_tensorflow(sums, monkeypatch):
    """In a process of its own, which knows the folder by TFDS_DATA_DIR and nothing of the builder's
    class.
    """
    monkeypatch.setenv('TFDS_DATA_DIR', sums)
    printed = subprocess.run(
        [sys.executable, '-c', READ], capture_output=True, text=True, check=False
    )
    assert printed.returncode == 0, printed.stderr
    found = [from_json(Prompt, row) for row in json.loads(printed.stdout.splitlines()[-1])]
    assert len(found) == 5 + 3
    assert (
        sorted(p.answer for p in found[:5]) == [0, 2, 4, 6, 8]
        and len({p.id for p in found[:5]}) == 5
    )
    for p in found:
        assert p.text == f'Qué es {p.answer // 2} + {p.answer // 2}?'
        assert p.meta == {'responses': [f'{SOLVED}{p.answer}']}
        assert scorers.correctness(p, p.meta['responses'][0]) == 1.0


def test_a_data_set_needs_its_split():
    with pytest.raises(ValueError, match='want tfds:name/split, got .*tiny_sums'):
        _records('tfds:tiny_sums')


# --- the shelf --------------------------------------------------------------------------------------------------------

ARGUMENTS = {
    'task': {'tasks': BOTH, 'n': 6, 'answers': True},
    'demonstrations': {'tasks': BOTH, 'n': 6},
    'verdicts': {'tasks': BOTH, 'n': 6},
    'ranked': {'tasks': BOTH, 'n': 6},
    'records': {},
    'mixture': {
        'prompts': [
            {'name': name, 'tasks': BOTH, 'n': 3} for name in ('demonstrations', 'verdicts')
        ]
    },
    'problems': {'form': 'gsm8k', 'n': 6},
    'trees': {'part': 'ift', 'n': 6},
    'examples': {'n': 6},
    'judged': {
        'prompts': {'name': 'demonstrations', 'tasks': BOTH, 'n': 6},
        'sampler': {'name': 'given'},
        'template': 'check',
    },
    'crossed': {
        'prompts': {'name': 'demonstrations', 'tasks': BOTH, 'n': 6},
        'sampler': {'name': 'given'},
    },
    'self_instruct': {
        'prompts': {'name': 'task', 'tasks': BOTH, 'n': 8},
        'n': 6,
        'max_tokens': 8,
        'template': 'check',
    },
}
ANSWERED = {'text': 'Yes.', 'rank': 0, 'lang': 'en'}
ROWS = {
    'records': lambda i: {'prompt': f'Q{i}?', 'answer': i},
    'problems': lambda i: {'question': f'Q{i}?', 'answer': f'So. #### {i}'},
    'trees': lambda i: {'prompt': {'text': f'Q{i}?', 'lang': 'en', 'replies': [ANSWERED]}},
    'examples': lambda i: to_json(Example(ask(str(i), f'Q{i}?'), (Response('Yes.'),))),
}


@pytest.mark.parametrize('name', binding.part_names('prompts', prompts))
def test_every_source_of_prompts_keeps_the_contract(name, file, tiny, tmp_path, monkeypatch):
    """A list of Prompts with ids of their own, each asked by a user, each a JSON line; a function
    of the key.
    """
    entry = {'name': name} | ARGUMENTS[name]
    if name in ROWS:
        entry['source'] = str(file(*map(ROWS[name], range(6 if name == 'records' else 40))))
    if name == 'self_instruct':  # the tiny base has no ideas
        entry['template'] = str(tmp_path / 'short.jinja')
        (tmp_path / 'short.jinja').write_text('{{ tasks[0] }}')
        said = [f'{word} ' * 5 for word in 'cats dogs birds trees words vowels'.split()]
        monkeypatch.setattr(
            prompts.generate, 'generate', lambda *a, **k: [Response('\n1. '.join(said))]
        )
    source = binding.bind('prompts', entry, 'here')
    found = source(*tiny, _key(1))
    assert found == source(*tiny, _key(1)) and len(found) == 6 == len({p.id for p in found})
    for p in found:
        assert isinstance(p, Prompt) and p.messages[-1]['role'] == 'user' and p.text.strip()
        assert from_json(Prompt, json.loads(json.dumps(to_json(p)))) == p
        assert len(tiny[0].text.prompt_tokens(p)) > 3
        assert all(isinstance(r, str) and r for r in p.meta.get('responses', ()))


def test_a_mixture_is_its_parts_one_after_the_other_each_with_draws_of_its_own():
    entry = {'name': 'demonstrations', 'tasks': ('rising',), 'n': 3}
    found = binding.bind('prompts', {'name': 'mixture', 'prompts': (entry, entry)}, 'here')(
        None, None, _key()
    )
    one, two = (
        prompts.demonstrations(None, None, jax.random.fold_in(_key(), i), tasks=('rising',), n=3)
        for i in range(2)
    )
    assert found == one + two and one != two
