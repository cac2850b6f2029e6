"""Files of a run are whole or not there, and what is damaged is named."""

import errno
import json
import os
import pathlib

import pytest

from selfrew.engine import run_files


@pytest.mark.parametrize(
    ('earlier', 'later'),
    [('01', '02'), ('02', '11'), ('11', '99'), ('99', '100'), ('100', '101'), ('999', '1000')],
)
def test_turns_are_in_the_order_of_their_numbers(earlier, later):
    names = [later, f'{earlier}~evals', f'{earlier}-rehearsal', earlier]
    in_order = sorted(names, key=run_files.turn_order)
    assert in_order == [earlier, f'{earlier}-rehearsal', f'{earlier}~evals', later]


def test_a_full_disk_is_told_with_the_path_and_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / 'file.json'
    run_files.write_atomic(str(path), b'before')

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left on device: .*file.json') as caught:
        run_files.write_atomic(str(path), b'after')
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b'before' and os.listdir(tmp_path) == ['file.json']


def test_a_folder_that_is_a_file_is_told_with_its_path(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file'):
        run_files.write_atomic(str(tmp_path / 'file' / 'x.json'), b'')


@pytest.mark.parametrize('data', [b'', b'{', b'\xff\xfe', b'[' * 100_000, b'{"a": 1} x'])
def test_damaged_json_is_named_with_what_to_do(tmp_path, data):
    path = tmp_path / 'x.json'
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r'x\.json is damaged \(.*\); do this'):
        run_files.read_json(str(path), 'do this')


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'd' / 'deep').mkdir(parents=True)
    (tmp_path / 'd' / 'a').write_bytes(b'abc')
    (tmp_path / 'd' / 'deep' / 'b').write_bytes(bytes(1000))
    return tmp_path / 'd'


def test_every_single_bit_of_a_state_is_checked(folder):
    files = run_files.checksums(str(folder))
    assert set(files) == {'a', os.path.join('deep', 'b')}
    assert run_files.damage(str(folder), files) is None
    for name in files:
        path = folder / name
        data = path.read_bytes()
        for bit in {0, 1, 8 * len(data) // 2, 8 * len(data) - 1}:
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            problem = run_files.damage(str(folder), files)
            assert problem == f'{path} was changed after it was written'
        path.write_bytes(data)


def test_a_missing_and_an_added_file_are_damage(folder):
    files = run_files.checksums(str(folder))
    (folder / 'a').rename(folder / 'c')
    assert run_files.damage(str(folder), files) == f'{folder / "a"} is missing'
    (folder / 'c').rename(folder / 'a')
    (folder / 'c').write_text('')
    assert f'{folder / "c"} was added' in (run_files.damage(str(folder), files) or '')


def test_a_state_of_before_there_were_checksums_is_only_looked_for(folder):
    assert run_files.damage(str(folder), None) is None
    assert 'is missing' in (run_files.damage(str(folder / 'none'), None) or '')


@pytest.mark.parametrize('text', ['[]', '{"state": 1}', '{"state": null}', '3'])
def test_a_manifest_of_another_form_is_damaged(tmp_path, text):
    path = pathlib.Path(tmp_path, 'manifest.json')
    path.write_text(text)
    with pytest.raises(
        ValueError, match=f'manifest.json is damaged .* delete the folder {tmp_path}'
    ):
        run_files.read_manifest(str(path))
    path.write_text(json.dumps({'state': {'step': 1}}))
    assert run_files.read_manifest(str(path)) == {'state': {'step': 1}}
    assert run_files.read_manifest(str(tmp_path / 'none.json')) == {}
