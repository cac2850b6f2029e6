"""Metrics are in order, of one try of each turn, and cannot hurt a run."""

import os
import sys
import time
import types

import pytest

from selfrew.running import metrics_log
from selfrew.running.metrics_log import MetricsLog, read_rows


def _rows(workdir):
    return [(row['turn'], row['step']) for row in read_rows(str(workdir / 'metrics.jsonl'))]


def test_from_round_100_on_turns_compare_as_numbers(tmp_path):
    log = MetricsLog(str(tmp_path), tensorboard=False)
    turns = ['02', '11', '99', '99~evals', '100']
    for step, turn in enumerate(turns):
        log.start_turn(turn)
        log.write(turn, step, {'loss': 1.0})
    assert _rows(tmp_path) == list(zip(turns, range(5)))
    log.start_turn('99')
    assert _rows(tmp_path) == [('02', 0), ('11', 1)]


def test_a_turn_that_goes_on_keeps_its_lines_up_to_the_step(tmp_path):
    log = MetricsLog(str(tmp_path), tensorboard=False)
    for turn, step in (('01', 0), ('01', 1), ('02', 2), ('02', 3), ('02', 4), ('03', 5)):
        log.write(turn, step, {'loss': 1.0})
    log.start_turn('02', 4)
    assert _rows(tmp_path) == [('01', 0), ('01', 1), ('02', 2), ('02', 3)]


def test_each_line_has_its_time_and_damaged_lines_are_left_out(tmp_path):
    log = MetricsLog(str(tmp_path), tensorboard=False)
    log.write('01', 0, {'loss': float('nan')})
    with open(tmp_path / 'metrics.jsonl', 'ab') as file:
        file.write(b'\xff\xfe\n[1]\n{"turn": "01"}\n{"turn": "01", "step": 7')
    (row,) = read_rows(str(tmp_path / 'metrics.jsonl'))
    assert row['loss'] is None and time.strptime(row['time'], '%Y-%m-%dT%H:%M:%S%z')


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboardX.proto import event_pb2  # noqa: PLC0415 (of this test alone)

    log = MetricsLog(str(tmp_path))
    log.write('01', 3, {'rewards/chosen': 0.5, 'unread/no mark': 1, 'score': float('nan')})
    log.close()
    (name,) = os.listdir(tmp_path / 'tensorboard')
    data, values = (tmp_path / 'tensorboard' / name).read_bytes(), {}
    while data:
        size = int.from_bytes(data[:8], 'little')
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        values |= {v.tag: (event.step, v.simple_value) for v in event.summary.value}
        data = data[16 + size :]
    assert values == {'rewards/chosen': (3, 0.5), 'unread/no_mark': (3, 1.0)}


@pytest.mark.parametrize('when', ['at the start', 'later'])
def test_a_full_disk_ends_tensorboard_and_not_the_run(tmp_path, monkeypatch, caplog, when):
    """/dev/full is a disk without room."""
    from tensorboardX.event_file_writer import EventsWriter  # noqa: PLC0415 (of this test alone)

    monkeypatch.setattr(metrics_log.TensorBoard, 'FLUSH_SECONDS', 0.0)
    if when == 'at the start':
        (tmp_path / 'tensorboard').write_text('a file in its place')
    log = MetricsLog(str(tmp_path))
    if when == 'later':
        monkeypatch.setattr(EventsWriter, 'flush', _no_room)
    begun = time.monotonic()
    for step in range(50):
        log.write('01', step, {'loss': 1.0})
    log.close()
    assert len(_rows(tmp_path)) == 50 and time.monotonic() - begun < 5.0
    told = [r.getMessage() for r in caplog.records if 'TensorBoard gets no more' in r.getMessage()]
    assert len(told) == 1 and 'the run goes on' in told[0]


def _no_room(_):
    with open('/dev/full', 'w') as file:
        file.write('x')


def test_without_tensorboard_nothing_is_written_for_it(tmp_path):
    log = MetricsLog(str(tmp_path), tensorboard=False)
    log.write('01', 0, {'loss': 1.0})
    log.close()
    assert os.listdir(tmp_path) == ['metrics.jsonl']


class _Run:
    def __init__(self, fails):
        self.fails, self.logged, self.is_finished = fails, [], False

    def log(self, numbers):
        if self.fails:
            raise RuntimeError('no network')
        self.logged.append(numbers)

    def finish(self):
        self.is_finished = True


@pytest.mark.parametrize('fails', [False, True])
def test_wandb_gets_the_numbers_and_cannot_hurt(tmp_path, monkeypatch, caplog, fails):
    run, asked = _Run(fails), []
    module = types.SimpleNamespace(init=lambda **fields: asked.append(fields) or run)
    monkeypatch.setitem(sys.modules, 'wandb', module)
    log = MetricsLog(str(tmp_path / 'w'), tensorboard=False, wandb='project')
    os.makedirs(tmp_path / 'w')
    log.write('01', 0, {'loss': 1.0, 'name': 'text'})
    log.write('01', 1, {'loss': 2.0})
    log.close()
    assert asked[0]['project'] == 'project' and asked[0]['name'] == 'w'
    if fails:
        assert 'W&B gets no more metrics (RuntimeError: no network)' in caplog.text
    else:
        assert run.logged == [{'loss': 1.0, 'update': 0}, {'loss': 2.0, 'update': 1}]
    assert run.is_finished != fails


def test_a_project_without_the_package_is_told_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    log = MetricsLog(str(tmp_path), tensorboard=False, wandb='project')
    log.write('01', 0, {'loss': 1.0})
    assert 'W&B gets no more metrics' in caplog.text and len(_rows(tmp_path)) == 1
