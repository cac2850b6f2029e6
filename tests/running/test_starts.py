"""Each start of a run says what it ran with; a resumed run says what differs."""

import json

from selfrew.running import starts


def test_a_start_is_recorded_and_the_next_one_compared_with_it(tmp_path, monkeypatch):
    path = tmp_path / 'starts.jsonl'
    assert starts.record(str(tmp_path), 3, []) == []
    (row,) = starts.read(str(path))
    assert row['seed'] == 3 and row['changes'] == [] and row['cores'] >= 1
    assert {'python', 'jax', 'jaxlib', 'orbax-checkpoint'} <= set(row['versions'])
    assert {'time', 'host', 'command', 'commit', 'device', 'devices', 'processes'} <= set(row)
    assert starts.record(str(tmp_path), 3, ['mesh.fsdp: 1 → 4']) == []
    assert starts.read(str(path))[1]['changes'] == ['mesh.fsdp: 1 → 4']
    monkeypatch.setattr(starts, '_cores', lambda: 99)
    (difference,) = starts.record(str(tmp_path), 3, [])
    assert difference == f'cores {row["cores"]} → 99'


def test_a_damaged_line_is_left_out(tmp_path):
    path = tmp_path / 'starts.jsonl'
    path.write_bytes(b'\xff{\n3\n' + json.dumps({'cores': 1}).encode() + b'\n{"cores"')
    assert starts.read(str(path)) == [{'cores': 1}]
