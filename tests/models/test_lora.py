"""Fresh adapters change nothing, training changes them alone, and merging keeps the trained model.

Parameters kept in bfloat16 are trained through a float32 copy.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import SMALL, prompt, toy

from selfrew.engine import train_state, trainer
from selfrew.models import decoder, language_model, lora
from selfrew.running import checkpoint, stage
from selfrew.shelves import losses, optimizers
from selfrew.types import Example, Response, State

LORA = dataclasses.replace(SMALL, lora=3, lora_alpha=6.0)
ADAMW = functools.partial(optimizers.adamw, clip=1.0)
PAIRS = [
    Example(
        prompt([3, 4, 40 + i], f'p{i}'),
        (Response(f'10 {30 + i}'), Response(f'20 {30 + i}')),
        (1.0, 0.0),
    )
    for i in range(4)
]


def _fresh(**mesh):
    """The toy with adapters as lm.load makes them."""
    lm, params = toy(LORA, **mesh)
    adapters = lora.init_adapters(lm.abstract_params(), jax.random.key(0))
    params = params | {'blocks': params['blocks'] | adapters}
    return lm, jax.tree.map(jax.device_put, params, lm.param_shardings())


def _trained(lm, params, lr=1e-2):
    """(state, metrics of each step) after three epochs of DPO."""
    steps = []
    state, _ = trainer.train(
        lm,
        State(jax.tree.map(jnp.copy, params), None, 0, 0),
        PAIRS,
        jax.random.key(0),
        functools.partial(losses.dpo, beta=0.5),
        lambda _, metrics: steps.append(metrics),
        optimizer=ADAMW,
        lr=lr,
        batch=4,
        epochs=3,
        row_length=64,
    )
    return state, steps


def _hidden(module, params):
    tokens, causal = jnp.arange(3, 15)[None], jnp.tril(jnp.ones((1, 12, 12), bool))
    return module.apply({'params': params}, tokens, tokens - 3, causal)[0]


def _assert_near(actual, expected, tolerance):
    """Every value is within `tolerance` times the largest of the expected values."""
    atol = tolerance * float(np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def test_fresh_adapters_change_no_bit():
    lm, params = _fresh()
    plain = decoder.make_module(SMALL)
    merged = lora.merge_adapters(lm.config, params)
    assert jax.tree.structure(merged) == jax.tree.structure(decoder.abstract_params(plain)[0])
    for name, matrix in merged['blocks'].items():
        np.testing.assert_array_equal(matrix, params['blocks'][name])
    np.testing.assert_array_equal(_hidden(lm.module, params), _hidden(plain, merged))


@pytest.mark.parametrize('mesh', [{}, {'fsdp': 4, 'tensor': 2}], ids=['one', 'mesh'])
def test_training_starts_at_ln_two_and_changes_the_adapters_alone(mesh):
    lm, params = _fresh(**mesh)
    state, steps = _trained(lm, params)
    # Log-probs of responses are of order 10 nats and rounded to 1e-6 of that.
    assert steps[0]['loss'] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[0]['rewards/margins'] == pytest.approx(0.0, abs=1e-5)
    assert steps[-1]['loss'] < 0.6
    for name, before in params['blocks'].items():
        has_changed = (np.asarray(before) != np.asarray(state.params['blocks'][name])).any()
        assert has_changed == lora.is_adapter(name)
    for name in set(params) - {'blocks'}:
        np.testing.assert_array_equal(params[name], state.params[name])
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt) if leaf.ndim)
    trained = sum(leaf.size for leaf in jax.tree.leaves(train_state.trainable_params(lm, params)))
    assert moments == 2 * trained


def test_merged_adapters_are_the_model_that_was_trained():
    lm, params = _fresh()
    state, _ = _trained(lm, params)
    merged = lora.merge_adapters(lm.config, state.params)
    expected = _hidden(lm.module, state.params)
    _assert_near(_hidden(decoder.make_module(SMALL), merged), expected, 1e-5)
    assert np.abs(expected - _hidden(lm.module, params)).max() > 1e-2
    # alpha / rank = 6 / 3
    down, up = [state.params['blocks'][f'q{suffix}'][0] for suffix in lora.SUFFIXES]
    _assert_near(merged['blocks']['q'][0], params['blocks']['q'][0] + 2.0 * down @ up, 2e-6)


def test_a_state_with_adapters_is_small_and_comes_back(tmp_path):
    lm, params = _fresh()
    state, _ = _trained(lm, params)
    folder = stage.Folder(str(tmp_path), '01')
    checkpoint.save(lm, folder, state)
    restored = checkpoint.restore(lm, folder, train_state.cached_optimizer(ADAMW), params)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    names = (tmp_path / 'rounds/01/state/_METADATA').read_text()
    assert 'gate_lora_a' in names and "'gate'" not in names and 'embed' not in names


def test_a_loaded_model_has_fresh_adapters_and_answers_as_without(tiny):
    lm, params = language_model.load(folder='tiny', lora=4, fsdp=2)
    assert lm.config.lora == 4 and params['blocks']['gate_lora_a'].shape[-1] == 4
    assert not params['blocks']['gate_lora_b'].any() and params['blocks']['gate_lora_a'].any()
    jax.tree.map(
        lambda leaf, where: np.testing.assert_(leaf.sharding.is_equivalent_to(where, leaf.ndim)),
        params,
        lm.param_shardings(),
    )
    merged = lora.merge_adapters(lm.config, params)
    jax.tree.map(np.testing.assert_array_equal, merged, tiny[1])
    with pytest.raises(ValueError, match='lora=-1'):
        language_model.load(folder='tiny', lora=-1)


# --- parameters kept in bfloat16 --------------------------------------------------------


@pytest.mark.slow
def test_small_updates_of_bfloat16_parameters_add_up_in_a_float32_copy():
    """A step of 1e-4 on weights of 0.2 is below bfloat16's resolution, about 1e-3; ten are not."""
    lm, params = toy()
    bf16_lm = dataclasses.replace(lm, param_dtype='bfloat16')
    bf16_params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    train = functools.partial(
        trainer.train,
        examples=PAIRS[:2],
        key=jax.random.key(0),
        loss=losses.sft,
        report=lambda *_: None,
        optimizer=functools.partial(optimizers.rmsprop, clip=1e9),
        lr=1e-4,
        batch=2,
        epochs=40,
        row_length=64,
    )
    state, _ = train(bf16_lm, State(jax.tree.map(jnp.copy, bf16_params), None, 0, 0))
    master = state.opt['master']
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.bfloat16.dtype}
    assert {leaf.dtype for leaf in jax.tree.leaves(master)} == {np.dtype('float32')}
    jax.tree.map(
        lambda stored, wide: np.testing.assert_array_equal(stored, wide.astype(stored.dtype)),
        state.params,
        master,
    )
    wide_params = jax.tree.map(lambda x: x.astype(jnp.float32), bf16_params)
    exact, _ = train(lm, State(wide_params, None, 0, 0))
    start = np.asarray(bf16_params['blocks']['up'].astype(jnp.float32))
    exact_change = np.asarray(exact.params['blocks']['up']) - start
    change = np.asarray(master['blocks']['up']) - start
    assert np.abs(exact_change).max() > 1e-3
    assert np.corrcoef(exact_change.ravel(), change.ravel())[0, 1] > 0.9
