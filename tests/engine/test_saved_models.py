"""Another model is found by its name: a folder, or a run, of which the last state counts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfrew.engine import saved_models, train_state
from selfrew.models import language_model
from selfrew.running import checkpoint, stage
from selfrew.types import State

ADAM = optax.adam(1e-3)


def _write_run(workdir, lm, params, turns, **model):
    """Writes what a run leaves behind: its config, and a state for each turn, scaled."""
    config = {'model': {'folder': 'tiny', **model}, 'mesh': {'data': 1}}
    (workdir / 'config.json').write_text(json.dumps(config))
    (workdir / 'rounds' / '00').mkdir(parents=True)
    for turn, scale in turns.items():
        count = jnp.int32(1)
        state = train_state.begin_round(lm, State(params, None, count, count), ADAM)
        trained = jax.tree.map(lambda x, scale=scale: x * scale, state.params)
        checkpoint.save(lm, stage.Folder(str(workdir), turn), state._replace(params=trained))


def _assert_equal(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_of_a_run_the_last_state_is_loaded(tmp_path, tiny):
    lm, params = tiny
    _write_run(tmp_path, lm, params, {'01': 2.0, '02': 3.0, '02-rehearsal': 4.0})
    stage.Folder(str(tmp_path), '03').mark_done('prompts', {})  # an unfinished turn
    saved_models.check(str(tmp_path))
    assert saved_models.locate(str(tmp_path)).endswith('02-rehearsal/state')
    sharded, _ = language_model.load(folder='tiny', fsdp=2)
    for like in (lm, sharded):
        other, loaded = saved_models.load(str(tmp_path), like)
        assert other.mesh == like.mesh == loaded['embed'].sharding.mesh
        _assert_equal(loaded, jax.tree.map(lambda x: x * 4.0, params))


def test_of_a_run_with_adapters_these_are_loaded(tmp_path, tiny):
    lm, params = language_model.load(folder='tiny', lora=2)
    _write_run(tmp_path, lm, params, {'01': 1.5}, lora=2)
    other, loaded = saved_models.load(str(tmp_path), tiny[0])
    assert other.config.lora == 2
    trained = train_state.trainable_params(lm, params)
    scaled = jax.tree.map(lambda x: x * 1.5, trained)
    _assert_equal(loaded, train_state.with_trainable(params, scaled))


def test_a_folder_is_loaded_on_the_mesh_and_with_the_dtypes_of_the_other_model():
    like, _ = language_model.load(
        folder='tiny', fsdp=2, dtype='bfloat16', params='bfloat16', max_length=64
    )
    lm, params = saved_models.load('tiny', like)
    assert lm.mesh == like.mesh and lm.config.max_length == 64
    assert lm.module.dtype == jnp.bfloat16 and params['embed'].dtype == jnp.bfloat16
    assert saved_models.context_length('tiny') > 64


def test_what_is_no_model_is_refused(tmp_path, tiny):
    with pytest.raises(
        FileNotFoundError, match="no model folder 'nowhere'.*or the folder of a run"
    ):
        saved_models.check('nowhere')
    (tmp_path / 'rounds').mkdir()
    with pytest.raises(ValueError, match='no config.json: it is not a run'):
        saved_models.check(str(tmp_path))
    (tmp_path / 'config.json').write_text(json.dumps({'model': {'folder': 'tiny'}}))
    with pytest.raises(ValueError, match='no turn has a saved state'):
        saved_models.check(str(tmp_path))
    (tmp_path / 'config.json').write_text(json.dumps({'model': {'folder': 'gone'}}))
    with pytest.raises(FileNotFoundError, match="the base of the run .*: no model folder 'gone'"):
        saved_models.check(str(tmp_path))


def test_a_state_that_is_not_finite_is_refused(tmp_path, tiny, monkeypatch):
    lm, params = tiny
    monkeypatch.setattr(checkpoint.finite, 'check_params', lambda *_: None)
    _write_run(tmp_path, lm, params, {'01': float('nan')})
    monkeypatch.undo()
    with pytest.raises(ValueError, match='01/state'):
        saved_models.load(str(tmp_path), lm)
