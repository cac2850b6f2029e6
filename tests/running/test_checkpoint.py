"""A damaged state is named, and the one before is used; states within a training come and go."""

import os
import pathlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfrew.engine import train_state
from selfrew.running import checkpoint, stage
from selfrew.types import State

ADAM = optax.adam(1e-3)


def _state(tiny, scale: float) -> State:
    lm, params = tiny
    scaled = jax.tree.map(lambda x: scale * x, params)
    return train_state.begin_round(lm, State(scaled, None, jnp.int32(3), jnp.int32(1)), ADAM)


def _flip(path: pathlib.Path, rng) -> None:
    data = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_bit_flip_in_any_file_is_found_and_the_state_before_is_used(tmp_path, tiny):
    lm, params = tiny
    folders = [stage.Folder(str(tmp_path), name) for name in ('01', '02')]
    for folder, scale in zip(folders, (2.0, 3.0)):
        os.makedirs(folder.path)
        checkpoint.save(lm, folder, _state(tiny, scale))
    state, rng, said = tmp_path / 'rounds' / '02' / 'state', random.Random(0), []
    files = sorted(path for path in state.rglob('*') if path.is_file() and path.stat().st_size)
    assert len(files) >= 5
    for path in files:
        data = path.read_bytes()
        _flip(path, rng)
        assert not checkpoint.is_sound(folders[1])
        path.write_bytes(data)
    assert checkpoint.is_sound(folders[1])
    _flip(files[-1], rng)
    assert checkpoint.last_sound(folders, said.append) == 0
    assert len(said) == 1 and f'{files[-1]} was changed' in said[0] and 'not used' in said[0]
    assert not stage.Folder(str(tmp_path), '02').has('state')
    restored = checkpoint.restore(lm, folders[0], ADAM, params)
    jax.tree.map(np.testing.assert_array_equal, restored, _state(tiny, 2.0))


def test_states_within_a_training_keep_the_last_ones_and_pass_over_a_damaged_one(tmp_path, tiny):
    lm, params = tiny
    folder, said = stage.Folder(str(tmp_path), '01'), []
    os.makedirs(folder.path)
    saves = checkpoint.TrainingSaves(folder, said.append)
    assert saves.updates == 0
    for updates in (10, 20, 30):
        saves.write(lm, _state(tiny, float(updates)), updates, 2, wait=False)
    saves.finish()
    assert sorted(folder.manifest) == ['update/000000020', 'update/000000030']
    assert sorted(os.listdir(tmp_path / 'rounds/01/update')) == ['000000020', '000000030']
    again = checkpoint.TrainingSaves(stage.Folder(str(tmp_path), '01'), said.append)
    assert again.updates == 30 and not said
    jax.tree.map(np.testing.assert_array_equal, again.restore(lm, ADAM, params), _state(tiny, 30.0))
    (tmp_path / 'rounds/01/update/000000030/_METADATA').unlink()
    damaged = stage.Folder(str(tmp_path), '01')
    again = checkpoint.TrainingSaves(damaged, said.append)
    assert again.updates == 20 and '000000030/_METADATA is missing' in said[0]
    again.delete()
    assert damaged.manifest == {} and not os.path.exists(tmp_path / 'rounds/01/update')


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, tiny, monkeypatch):
    lm, _ = tiny
    folder = stage.Folder(str(tmp_path), '01')
    os.makedirs(folder.path)
    usage = type('usage', (), {'free': 1000})
    monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(OSError, match='No space left on device .*1,000 free.*rounds/01/state'):
        checkpoint.save(lm, folder, _state(tiny, 1.0))
    saves = checkpoint.TrainingSaves(folder, print)
    with pytest.raises(OSError, match='rounds/01/update/000000001'):
        saves.write(lm, _state(tiny, 1.0), 1, 2, wait=True)
    assert os.listdir(folder.path) == ['update'] and not os.listdir(f'{folder.path}/update')


def test_a_state_that_cannot_be_written_is_told_with_its_path(tmp_path, tiny):
    """The folder for it is a file."""
    lm, _ = tiny
    folder = stage.Folder(str(tmp_path), '01')
    os.makedirs(folder.path)
    pathlib.Path(folder.path, 'update').write_text('')
    saves = checkpoint.TrainingSaves(folder, print)
    with pytest.raises(OSError, match='rounds/01/update'):
        saves.write(lm, _state(tiny, 1.0), 1, 2, wait=True)
        saves.finish()
