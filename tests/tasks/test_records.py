"""Files of other kinds than JSON lines are read, and a broken one is refused."""

import json

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
