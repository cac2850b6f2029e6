"""Files of other kinds than JSON lines are read, and a broken one is refused."""

import gzip
import json
import random

import pytest

from selfrew.tasks import published, records


def _answers(path, form) -> list[str]:
    problems = records.read_records(str(path), lambda _, row: published.read(form, row), 0)
    return [problem.answer for problem in problems]


def test_a_json_array_is_read_row_by_row(tmp_path):
    rows = [{'question': 'Two and two?', 'answer': f'So.\n#### {i}'} for i in (4, 5)]
    path = tmp_path / 'set.json'
    path.write_text(json.dumps(rows))
    assert _answers(path, 'gsm8k') == ['4', '5']
    places = records.read_records(str(path), lambda place, _: place, 0)
    assert places == ['row 0', 'row 1']


def test_asdivs_xml_is_read_problem_by_problem(tmp_path):
    path = tmp_path / 'set.xml'
    body = '<Body>B.</Body><Question>Q?</Question><Answer>2 (a)</Answer>'
    path.write_text(f'<P><Problem ID="1">{body}</Problem></P>')
    assert _answers(path, 'asdiv') == ['2 (a)']


def test_a_torn_json_array_is_refused(tmp_path):
    path = tmp_path / 'set.json'
    path.write_text('[1,')
    with pytest.raises(ValueError, match='is not a JSON array'):
        records.read_records(str(path), lambda _, row: row, 0)


# --- damaged files ---


def _prompts(path):
    return records.read_records(str(path), lambda _, row: row['prompt'], 10)


ROWS = ''.join(json.dumps({'prompt': f'{i} ' * 200}) + '\n' for i in range(200)).encode()


def test_a_compressed_file_that_was_cut_short_is_refused_with_the_last_row(tmp_path):
    path = tmp_path / 'rows.jsonl.gz'
    data = gzip.compress(ROWS)
    path.write_bytes(data)
    assert len(_prompts(path)) == 200
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r'rows.jsonl.gz is damaged: it cannot be read after line'):
        _prompts(path)


def test_sixty_flipped_bits_of_a_compressed_file_are_all_found(tmp_path):
    """But for the ten bytes before the data, of which some (time, system) say nothing about it."""
    path, data, rng = tmp_path / 'rows.jsonl.gz', gzip.compress(ROWS, mtime=0), random.Random(0)
    for _ in range(60):
        bit = rng.randrange(80, 8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r'rows.jsonl.gz'):
            _prompts(path)


@pytest.mark.parametrize(
    ('name', 'data', 'words'),
    [
        ('x.xml', b'<P><Problem>', 'x.xml is damaged: it cannot be read at its start'),
        ('x.xml', b'<?xml version="1.0" encoding="nope"?><P/>', 'x.xml is'),
        ('x.json', b'[' * 100_000, 'x.json is not a JSON array'),
        ('x.json', b'["\xff"]', 'x.json is not a JSON array'),
        ('x.jsonl.gz', b'no gzip', 'x.jsonl.gz is damaged'),
        ('x.jsonl', b'[' * 100_000, 'x.jsonl, line 1: not JSON'),
        ('x.jsonl', b'{"a": ' * 900 + b'1' + b'}' * 900, 'x.jsonl'),
        ('x.jsonl', b'{"prompt": "\\ud800"}', 'half of a surrogate pair'),
        ('x.jsonl', b'{"prompt": "x", "extra": {"deep": ["\\udfff"]}}', "field 'extra'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_damaged_file_or_row_is_told(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError) as told:
        _prompts(path)
    assert words in str(told.value)
