"""Prompts from the user's files and from tensorflow-datasets: what a row may be, and how bad rows
are reported and refused.
"""

import copy
import dataclasses
import functools
import json
import logging
import pathlib
import subprocess
import sys

import data_sets
import jax
import numpy as np
import pytest

from selfrew.shelves import prompts, scorers
from selfrew.shelves.prompts.rows import draw
from selfrew.types import Prompt, Response, Rollout, from_json, user_prompt

MARK = 'Final answer: '
USER = {'role': 'user', 'content': 'of user'}
SYSTEM = {'role': 'system', 'content': 'of system'}
ASSISTANT = {'role': 'assistant', 'content': 'of assistant'}


def _records(source, seed=0, **options):
    return prompts.records(None, None, jax.random.key(seed), source=str(source), **options)


def test_a_row_is_a_string_or_a_chat(write_rows):
    chat = [SYSTEM, USER, ASSISTANT, USER]
    path = write_rows(
        {'prompt': 'What is 2 + 2?', 'answer': 4, 'id': 'sum', 'other': 'x'},
        {'prompt': chat},
        {'messages': [USER, ASSISTANT]},
        {'prompt': 'Hi', 'response': 'Hello'},
        {'prompt': [USER | {'name': 'Jon'}]},
    )
    text, long_chat, answered_chat, answered_text, named = _records(path)
    assert text == Prompt('sum', ({'role': 'user', 'content': 'What is 2 + 2?'},), 4, {})
    assert long_chat == Prompt(f'{path}:line 2', tuple(chat), None, {})
    # the last turn is a given response
    assert answered_chat.messages == (USER,)
    assert answered_chat.meta == {'responses': ['of assistant']}
    assert answered_text.meta == {'responses': ['Hello']}
    assert named.messages == (USER,)


def test_the_fields_are_named_by_the_config(write_rows):
    path = write_rows({'question': 'Q?', 'truth': 'A', 'answer': 'B'})
    (prompt,) = _records(path, prompt='question', answer='truth')
    assert (prompt.text, prompt.answer) == ('Q?', 'A')


ROLES = 'there are: system, user, assistant'
NO_CHAT = 'neither a string nor a list of messages'
NO_USER_TURN = 'no user turn to answer, or an empty one'
NO_TEXT = 'the given response is empty or not a text'
BAD_ROWS = {
    b'{"prompt": "open': 'not JSON',
    b'': None,  # an empty line is no row
    b'["a list"]': 'want an object, got list',
    b'{"question": "Q?"}': "no field 'prompt' and no messages; there are: question",
    b'{"prompt": null}': 'no field',
    b'{"prompt": 7}': NO_CHAT,
    b'{"prompt": ["Q?"]}': NO_CHAT,
    b'{"prompt": [{"role": "human", "content": "Q?"}]}': f"'prompt': no role 'human'; {ROLES}",
    b'{"messages": [{"role": "tool", "content": "Q?"}]}': f"no role 'tool'; {ROLES}",
    b'{"prompt": [{"role": null, "content": "Q?"}]}': NO_CHAT,
    b'{"prompt": [{"role": "user", "content": null}]}': NO_CHAT,
    b'{"prompt": ""}': NO_USER_TURN,
    b'{"prompt": "  \\n"}': NO_USER_TURN,
    b'{"prompt": []}': NO_USER_TURN,
    b'{"prompt": [{"role": "system", "content": "Q?"}]}': NO_USER_TURN,
    b'{"prompt": [{"role": "assistant", "content": "A"}]}': NO_USER_TURN,
    b'{"prompt": "Q?", "response": " "}': NO_TEXT,
    b'{"prompt": "Q?", "response": 4}': NO_TEXT,
    b'{"prompt": "caf\xe9"}': 'not JSON in UTF-8',
}


def test_bad_rows_are_named_by_their_line_skipped_and_counted(write_rows, caplog):
    path = write_rows({'prompt': 'first'}, *BAD_ROWS, {'prompt': 'last'})
    reasons = [(line, reason) for line, reason in enumerate(BAD_ROWS.values(), 2) if reason]
    with caplog.at_level(logging.WARNING):
        good = _records(path, max_bad=len(reasons))
    assert [prompt.text for prompt in good] == ['first', 'last']
    assert [p.id for p in good] == [f'{path}:line 1', f'{path}:line {len(BAD_ROWS) + 2}']
    *skipped, total = [record.getMessage() for record in caplog.records]
    assert len(skipped) == len(reasons)
    for message, (line, reason) in zip(skipped, reasons):
        assert f'{path}, line {line}: ' in message and reason in message
    assert f'{len(reasons)} rows of {path} skipped, 2 read' in total


def test_good_rows_are_read_without_a_warning(write_rows, caplog):
    with caplog.at_level(logging.WARNING):
        _records(write_rows({'prompt': 'Q?'}))
    assert not caplog.records


def test_more_bad_rows_than_allowed_refuse_the_source(write_rows):
    path = write_rows({'prompt': 'Q?'}, {}, {'prompt': ''}, b'{')
    assert len(_records(path, max_bad=3)) == 1
    message = 'more than max_bad=2 bad rows in .*; the first: .*line 2: no field'
    with pytest.raises(ValueError, match=message):
        _records(path, max_bad=2)
    with pytest.raises(ValueError, match='more than max_bad=0'):
        _records(path, max_bad=0)


def test_a_source_without_a_prompt_is_refused(write_rows, tmp_path):
    for rows in ((), (b'', b'  ')):
        with pytest.raises(ValueError, match='no prompt in .*rows.jsonl: it is empty'):
            _records(write_rows(*rows))
    message = 'no prompt in .*; the first bad row: .*line 1: .*an empty one'
    with pytest.raises(ValueError, match=message):
        _records(write_rows({'prompt': ''}))
    message = "no prompt file '.*nowhere.jsonl'.*; give a JSONL file or tfds"
    with pytest.raises(FileNotFoundError, match=message):
        _records(tmp_path / 'nowhere.jsonl')
    with pytest.raises(FileNotFoundError):
        _records(tmp_path)  # a folder


def test_only_a_newline_ends_a_line(write_rows):
    strange = 'a\u2028b\u2029c\x85def'
    raw = json.dumps({'prompt': strange}, ensure_ascii=False).encode()
    assert raw.count('\u2028'.encode()) == 1  # as itself, not as an escape
    path = write_rows(raw, {'prompt': 'Q?'}, b'{"prompt":\r"windows"}\r')
    first, second, third = _records(path)
    assert first.text == strange
    assert second.id.endswith('line 2')
    assert third.text == 'windows'


def test_a_repeated_id_is_told_apart_by_its_row(write_rows):
    path = write_rows({'prompt': 'a', 'id': 1}, {'prompt': 'b', 'id': 1})
    assert [prompt.id for prompt in _records(path)] == ['1', '1 (line 2)']


def test_rows_that_break_the_reader_are_bad_rows(write_rows, caplog):
    rows = (
        b'\xef\xbb\xbf{"prompt": "first"}',
        b'{"prompt": "\\ud83d hi"}',
        b'{"prompt": 1' + b'0' * 5000 + b'}',
        b'[' * 100_000,
    )
    good = _records(write_rows(*rows, {'prompt': 'Q?'}))
    assert [prompt.text for prompt in good] == ['first', 'Q?']
    assert [f'line {n}' in caplog.text for n in (1, 2, 3, 4)] == [False, True, True, True]


@pytest.mark.parametrize('count, size', [(61_135, 20_378), (9, 3), (11, 3)])
def test_portions_have_one_size_and_share_nothing(count, size):
    """61,135 rows in three are 20,378 each, as in SELM; the last row is in none."""
    rows = [user_prompt(str(i), 'Q?') for i in range(count)]
    parts = [draw(rows, None, 'rows', jax.random.key(0), portion=k, portions=3) for k in (1, 2, 3)]
    assert [len(part) for part in parts] == [size] * 3
    assert [prompt for part in parts for prompt in part] == rows[: 3 * size]


def test_a_portion_is_taken_of_one_side_and_drawn_from(write_rows):
    path = write_rows(*({'prompt': f'{word}?', 'id': word} for word in 'abcdefghijklmnopqrst'))
    side = [prompt.id for prompt in _records(path, split='train', heldout=0.3)]
    parts = [
        [p.id for p in _records(path, split='train', heldout=0.3, portion=k, portions=2)]
        for k in (1, 2)
    ]
    half = len(side) // 2
    assert half > 2 and parts == [side[:half], side[half : 2 * half]]
    drawn = [p.id for p in _records(path, split='train', heldout=0.3, portion=2, portions=2, n=2)]
    assert len(drawn) == 2 and set(drawn) < set(parts[1])
    with pytest.raises(ValueError, match='20 prompts of .* do not make 21 portions'):
        _records(path, portion=3, portions=21)


@pytest.mark.parametrize('count', [0, -1])
def test_no_prompts_at_all_is_refused(write_rows, count):
    with pytest.raises(ValueError, match=f'n={count}'):
        _records(write_rows({'prompt': 'Q?'}), n=count)


def test_a_subsample_is_drawn_by_the_key_without_replacement(write_rows):
    path = write_rows(*({'prompt': str(i)} for i in range(50)))
    drawn = [int(prompt.text) for prompt in _records(path, n=20)]
    assert len(set(drawn)) == 20 and drawn == sorted(drawn) and drawn != list(range(20))
    assert [int(prompt.text) for prompt in _records(path, n=20)] == drawn
    assert [int(prompt.text) for prompt in _records(path, seed=1, n=20)] != drawn
    assert len(_records(path, n=50)) == len(_records(path, n=51)) == len(_records(path)) == 50


GSM8K = data_sets.FOLDER / 'gsm8k' / 'test.jsonl'


@pytest.mark.skipif(not GSM8K.is_file(), reason='GSM8K is not here')
def test_gold_solutions_of_gsm8k_are_right_and_those_of_others_wrong():
    problems = _records(GSM8K, prompt='question', max_bad=0)
    assert len(problems) == 1319
    numbers = [problem.answer.split('#### ')[1] for problem in problems]
    gold, others = [], []
    for problem, number in zip(problems, numbers):
        gold.append(Rollout(problem, (Response(problem.answer), Response(f'{MARK}{number}'))))
    for problem, next_problem in zip(problems, problems[1:]):
        others.append(Rollout(problem, (Response(next_problem.answer),)))
    key = jax.random.key(0)
    judged = scorers.exact_answer(None, None, gold, key)
    assert all(judgement.scores == (1.0, 1.0) for judgement in judged)
    judged = scorers.exact_answer(None, None, others, key)
    is_same = [number == next_number for number, next_number in zip(numbers, numbers[1:])]
    assert [judgement.scores[0] for judgement in judged] == [float(flag) for flag in is_same]


# --- tensorflow-datasets ---


@pytest.fixture(scope='module')
def tiny_sums(tmp_path_factory):
    """The folder of a data set 'tiny_sums' of five rows, written as array_record."""
    import tensorflow_datasets as tfds  # noqa: PLC0415 - takes seconds, and one test needs it

    class TinySums(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            text = tfds.features.Text()
            fields = {'prompt': text, 'response': text, 'answer': np.int64}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(fields))

        def _split_generators(self, manager):
            return {'train': self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                prompt, response = f'Qué es {i} + {i}?', f'{MARK}{2 * i}'
                yield i, {'prompt': prompt, 'response': response, 'answer': 2 * i}

    folder = str(tmp_path_factory.mktemp('tfds'))
    TinySums(data_dir=folder, file_format='array_record').download_and_prepare()
    return folder


# --- what becomes of odd rows ---

HALF_PAIR = '\\ud800'


@pytest.mark.parametrize(
    'row',
    [
        '{"prompt": "a%s"}',
        '{"prompt": "Q?", "answer": "a%s"}',
        '{"prompt": "Q?", "answer": ["a", "%s"]}',
        '{"prompt": "Q?", "id": "a%s"}',
        '{"prompt": "Q?", "response": "a%s"}',
        '{"prompt": "Q?", "notes": {"by": ["a%s"]}}',
        '{"prompt": "Q?", "a%s": 1}',
        '{"prompt": [{"role": "user", "content": "Q?", "name": "a%s"}]}',
    ],
)
def test_half_a_surrogate_pair_anywhere_makes_a_row_bad(tmp_path, row, caplog):
    path = tmp_path / 'rows.jsonl'
    path.write_text('{"prompt": "Good?"}\n' + row % HALF_PAIR)
    (prompt,) = _records(path)
    assert prompt.text == 'Good?' and 'line 2: the field' in caplog.text
    with pytest.raises(ValueError, match='more than max_bad=0 bad rows.*half of a surrogate pair'):
        _records(path, max_bad=0)


@pytest.mark.parametrize('answer', [[], {'a': 1}, ['a', {'b': 1}], [[1]]], ids=str)
def test_a_truth_that_is_no_answer_makes_a_row_bad(write_rows, answer):
    path = write_rows({'prompt': 'Q?', 'answer': answer})
    with pytest.raises(ValueError, match='want a text, a number or a list of these'):
        _records(path)


def test_any_of_a_list_of_accepted_answers_is_right(write_rows):
    (prompt,) = _records(write_rows({'prompt': 'Capital?', 'answer': ['Rome', 'Roma', 42]}))
    for said, right in (('Rome', 1), ('Roma', 1), ('42', 1), ('Milan', 0), ('Rome or Roma', 0)):
        assert scorers.correctness(prompt, Response(f'Final answer: {said}')) == right


def test_a_response_that_was_cut_has_not_concluded(write_rows):
    (prompt,) = _records(write_rows({'prompt': 'Q?', 'answer': 4}))
    assert scorers.correctness(prompt, Response('Final answer: 4')) == 1
    assert scorers.correctness(prompt, Response('Final answer: 4', finish='length')) == 0


def test_ids_that_occur_twice_are_made_distinct_aloud(write_rows, caplog):
    ids = 'a', 'a', 'a (line 4)', 'a'  # the third is what the fourth would become
    path = write_rows(*({'prompt': f'Q{i}?', 'id': id} for i, id in enumerate(ids)))
    read = [prompt.id for prompt in _records(path)]
    assert read == ['a', 'a (line 2)', 'a (line 4)', 'a (line 4) 2']
    assert "2 ids occur more than once, first 'a'" in caplog.text


def test_ids_of_several_entries_are_made_distinct_aloud(write_rows, caplog):
    path = str(write_rows({'prompt': 'Q?', 'id': 'a'}))
    source = functools.partial(prompts.records, source=path)
    mixed = prompts.mixture(None, None, jax.random.key(0), prompts=(source, source, source))
    assert [prompt.id for prompt in mixed] == ['a', 'a (entry 1)', 'a (entry 2)']
    assert "2 ids occur in more than one entry, first 'a'" in caplog.text


def test_a_prompt_that_the_chat_template_refuses_is_a_bad_row(write_rows, tiny, caplog):
    lm, params = tiny
    tokenizer = copy.deepcopy(lm.text.tokenizer)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        '{{ messages[0].content }}'
    )
    strict = dataclasses.replace(lm, text=dataclasses.replace(lm.text, tokenizer=tokenizer))
    path = str(write_rows({'prompt': [SYSTEM, USER]}, {'prompt': 'Good?'}))

    def read(model, **options):
        return prompts.records(model, params, jax.random.key(0), source=path, **options)

    (prompt,) = read(strict)
    assert prompt.text == 'Good?'
    assert 'line 1: prompt' in caplog.text and 'no system turn' in caplog.text
    with pytest.raises(ValueError, match='more than max_bad=0 bad rows'):
        read(strict, max_bad=0)
    folding = dataclasses.replace(strict, text=dataclasses.replace(strict.text, fold_system=True))
    assert len(read(folding, max_bad=0)) == 2


READ = """
import json, sys
import jax
from selfrew.shelves import prompts
from selfrew.types import to_json
key = jax.random.key(0)
whole = prompts.records(None, None, key, source='tfds:tiny_sums/train')
part = prompts.records(None, None, key, source='tfds:tiny_sums/train[:3]')
assert 'tensorflow' not in sys.modules
print(json.dumps([to_json(prompt) for prompt in whole + part]))
"""


def test_a_data_set_on_disk_is_read_without_its_code_and_without_tensorflow(tiny_sums, monkeypatch):
    """In another process, which knows the folder by TFDS_DATA_DIR and not the builder's class."""
    monkeypatch.setenv('TFDS_DATA_DIR', tiny_sums)
    command = [sys.executable, '-c', READ]
    printed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    read = [from_json(Prompt, row) for row in json.loads(printed.stdout.splitlines()[-1])]
    assert len(read) == 5 + 3
    assert sorted(prompt.answer for prompt in read[:5]) == [0, 2, 4, 6, 8]
    assert len({prompt.id for prompt in read[:5]}) == 5
    for prompt in read:
        assert prompt.text == f'Qué es {prompt.answer // 2} + {prompt.answer // 2}?'
        assert prompt.meta == {'responses': [f'{MARK}{prompt.answer}']}
        assert scorers.correctness(prompt, Response(prompt.meta['responses'][0])) == 1.0


def test_a_data_set_needs_its_split():
    with pytest.raises(ValueError, match='want tfds:name/split, got .*tiny_sums'):
        _records('tfds:tiny_sums')


def test_a_split_is_decided_by_the_first_user_turn(write_rows):
    topics = 'dvds apples pears books pens chairs tables lamps cups plates coins stamps'.split()
    turn = [{'role': 'user', 'content': f'Write about {topic} now.'} for topic in topics]
    path = write_rows(*[{'prompt': [SYSTEM, ask], 'id': t} for ask, t in zip(turn, topics)])
    plain = write_rows_beside(
        path, [{'prompt': ask['content'], 'id': ask['content']} for ask in turn]
    )
    sides = {
        split: [_records(source, split=split, heldout=0.4) for source in (path, plain)]
        for split in ('train', 'heldout')
    }
    for chats, texts in sides.values():
        assert [c.messages[-1]['content'] for c in chats] == [t.text for t in texts] != []
    assert sum(len(chats) for chats, _ in sides.values()) == len(topics)


def write_rows_beside(path, rows) -> str:
    """Writes rows, a line each, beside another file, and returns the path."""
    other = pathlib.Path(path).with_name('others.jsonl')
    other.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(other)
