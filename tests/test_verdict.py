"""The command that prints verdicts: a line for each row, and bad rows by name."""

import json

import pytest

from selfrew import verdict


@pytest.fixture
def verdicts_on(tmp_path, capsys):
    """form, rows (dicts, or text as it is) -> (printed lines, standard error)."""

    def run(form, *rows):
        path = tmp_path / 'rows.jsonl'
        path.write_text('\n'.join(r if isinstance(r, str) else json.dumps(r) for r in rows))
        verdict.main([f'--form={form}', f'--file={path}'])
        printed = capsys.readouterr()
        return [json.loads(line) for line in printed.out.splitlines()], printed.err

    return run


@pytest.mark.parametrize(
    'form, row, right, said, key',
    [
        ('gsm8k', {'truth': '42', 'response': 'Final answer: 42 km.'}, True, '42 km.', '42'),
        ('gsm8k', {'truth': 42, 'response': '#### 42'}, True, '42', '42'),
        ('gsm8k', {'truth': '42', 'response': 'It is 42.'}, False, None, None),
        ('math', {'truth': '\\frac12', 'response': '\\boxed{0.5}'}, True, '0.5', '1/2'),
        ('svamp', {'truth': 51.0, 'response': 'Final answer: 51'}, True, '51', '51'),
        ('mawps', {'truth': 5e-05, 'response': 'Final answer: 5e-05'}, True, '5e-05', '1/20000'),
        ('asdiv', {'truth': '9 (eggs)', 'response': 'Final answer: 9'}, True, '9', '9'),
        ('records', {'truth': ['Rome', 'Roma'], 'response': 'Answer: Roma'}, True, 'Roma', 'roma'),
        (
            'arc',
            {'truth': 'B', 'response': 'Final answer: water', 'options': ['air', 'water']},
            True,
            'water',
            'B',
        ),
        ('gsm8k', {'truth': 4, 'response': '#### 4', 'finish': 'length'}, False, None, None),
    ],
)
def test_an_answer_is_judged_by_its_form(verdicts_on, form, row, right, said, key):
    assert verdicts_on(form, row) == ([{'right': right, 'said': said, 'key': key}], '')


def test_a_judges_words_are_read(verdicts_on):
    scores, _ = verdicts_on('score', {'verdict': 'Score: 8', 'low': 1, 'high': 10})
    nothing, _ = verdicts_on('score', {'verdict': 'Score: 8'})  # of 0 to 5
    winners, _ = verdicts_on('winner', {'verdict': 'Winner: B'}, {'verdict': 'Winner: tie'})
    assert scores == [{'value': 8.0}] and nothing == [{'value': None}]
    assert winners == [{'value': 0.0}, {'value': 0.5}]


def test_bad_rows_are_named_and_the_others_judged(verdicts_on):
    good = {'truth': '4', 'response': 'Final answer: 4'}
    rows = 'no JSON', '[]', {'truth': '4'}, {'response': 'x'}, good
    lines, errors = verdicts_on('gsm8k', *rows)
    assert len(lines) == len(rows) and lines[-1]['right'] is True
    assert all(line['right'] is None and line['error'] for line in lines[:-1])
    for number in range(1, len(rows)):
        assert f'bad row, line {number}: ' in errors


def test_a_file_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        verdict.main(['--form=gsm8k', '--file=nowhere.jsonl'])
    assert ended.value.code == 1 and 'nowhere.jsonl' in capsys.readouterr().err


def test_a_form_that_does_not_exist_is_refused_with_the_choices(capsys):
    with pytest.raises(SystemExit):
        verdict.main(['--form=gsm9k', '--file=rows.jsonl'])
    assert "'gsm8k', 'math', 'arc'" in capsys.readouterr().err
