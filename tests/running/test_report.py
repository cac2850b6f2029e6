"""The table and the curve show whatever evaluations a run has."""

import json
import os
import pathlib

import pytest

from selfrew.running import report

README = pathlib.Path(__file__).parents[2] / 'README.md'


def _evaluation(value, low, high, **others) -> dict:
    return {'value': value, 'low': low, 'high': high, **others}


def _write_rounds(workdir, *rounds) -> str:
    """Writes what a run leaves of each round: (evaluations, its turn's statistics or None)."""
    for number, (evaluations, stats) in enumerate(rounds):
        folder = workdir / 'rounds' / f'{number:02d}'
        folder.mkdir(parents=True)
        (folder / 'evals.json').write_text(json.dumps(evaluations))
        if stats is not None:
            (folder / 'turn.json').write_text(json.dumps(stats))
    return str(workdir)


def _quickstart_round(accuracy, low, high, judge, length) -> dict:
    return {
        'accuracy': _evaluation(accuracy, low, high, n=1000, length=length),
        'judge': _evaluation(judge, judge - 0.01, judge + 0.01, parse_failures=0.0),
    }


def _turn(pairs, ties, unparsed, seconds, tokens_per_s) -> dict:
    return {
        'pairs': pairs,
        'ties': ties,
        'parse_failures': unparsed,
        'gap': 1e-7,
        'seconds': seconds,
        'tokens_per_s': tokens_per_s,
    }


def test_the_table_of_accuracy_and_judge_is_that_of_the_readme(tmp_path):
    workdir = _write_rounds(
        tmp_path,
        (_quickstart_round(0.351, 0.322, 0.381, 0.671, 13.9), None),
        (_quickstart_round(0.925, 0.907, 0.940, 0.671, 15.7), _turn(760, 0.06, 0.001, 9, 23726)),
        (_quickstart_round(0.930, 0.912, 0.944, 0.671, 15.9), _turn(811, 0.03, 0.001, 6, 25348)),
        (_quickstart_round(0.892, 0.871, 0.910, 0.666, 16.0), _turn(766, 0.05, 0.0, 10, 22211)),
    )
    assert f'```\n{report.write_report(workdir)}\n```' in README.read_text()
    rows = json.loads((tmp_path / 'summary.json').read_text())['rounds']
    assert rows[3]['judge_high'] == pytest.approx(0.676) and rows[3]['pairs'] == 766
    assert os.path.getsize(tmp_path / 'curve.png') > 0


ROUNDS = (
    {
        'wins': _evaluation(0.5, 0.402, 0.598, length=20.25, opponent_length=20.0),
        'mean_score': _evaluation(3.25, 3.0, 3.5, length=21.0),
        'words': _evaluation(1234.5, None, None),
    },
    {
        'wins': _evaluation(0.625, 0.5, 0.75, length=22.0, opponent_length=20.0),
        'mean_score': _evaluation(None, None, None, length=21.0),
        'words': _evaluation(1240.0, None, None),
    },
)
TABLE = """
round   wins   from     to  mean_score   from     to   words  length  pairs
    0  0.500  0.402  0.598       3.250  3.000  3.500  1234.5    20.2      –
    1  0.625  0.500  0.750           –      –      –  1240.0    22.0      7
"""


def test_each_evaluation_has_columns_named_as_in_the_config(tmp_path):
    workdir = _write_rounds(tmp_path, (ROUNDS[0], None), (ROUNDS[1], {'pairs': 7}))
    assert report.write_report(workdir) == TABLE.strip('\n')
    assert os.path.getsize(tmp_path / 'curve.png') > 0


def test_shares_are_plotted_together_and_everything_else_apart(tmp_path):
    more = {'accuracy': _evaluation(0.0, 0.0, 1.0), 'nothing': _evaluation(None, None, None)}
    workdir = _write_rounds(tmp_path, (ROUNDS[0] | more, None), (ROUNDS[1] | more, None))
    rows = report.read_rounds(workdir)
    assert report.evaluation_names(rows) == ['accuracy', 'wins', 'mean_score', 'words', 'nothing']
    assert report.curve_groups(rows) == [['accuracy', 'wins'], ['mean_score'], ['words']]


def test_without_evaluations_there_is_no_curve(tmp_path):
    workdir = _write_rounds(tmp_path, ({}, None), ({}, {'pairs': 3}))
    assert report.write_report(workdir).splitlines() == [
        'round  pairs',
        '    0      –',
        '    1      3',
    ]
    assert not (tmp_path / 'curve.png').exists()


def test_where_no_evaluation_has_a_value_a_curve_is_drawn_all_the_same(tmp_path):
    workdir = _write_rounds(tmp_path, ({'wins': _evaluation(None, None, None)}, None))
    assert report.write_report(workdir).splitlines() == ['round', '    0']
    assert report.curve_groups(report.read_rounds(workdir)) == []
    assert os.path.getsize(tmp_path / 'curve.png') > 0


def test_rounds_from_100_on_come_after_round_99(tmp_path):
    for number in (0, 9, 11, 99, 100, 101):
        folder = tmp_path / 'rounds' / f'{number:02d}'
        folder.mkdir(parents=True)
        (folder / 'evals.json').write_text('{"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}')
    rounds = [row['round'] for row in report.read_rounds(str(tmp_path))]
    assert rounds == [0, 9, 11, 99, 100, 101]
    lines = report.write_report(str(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines] == ['round', '0', '9', '11', '99', '100', '101']
