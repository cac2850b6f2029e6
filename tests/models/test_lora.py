"""Adapters change nothing until they are trained; then they alone change; merged, they are the
trained model.
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
from selfrew.models import decoder, language_model
from selfrew.run import checkpoint, stage
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
    params = params | {
        'blocks': params['blocks'] | decoder.init_adapters(lm.module, jax.random.key(0))
    }
    return lm, jax.tree.map(jax.device_put, params, lm.param_shardings())


def _trained(lm, params, lr=1e-2):
    rows = []
    state, _ = trainer.train(
        lm,
        State(jax.tree.map(jnp.copy, params), None, 0, 0),
        PAIRS,
        jax.random.key(0),
        functools.partial(losses.dpo, beta=0.5),
        lambda i, m: rows.append(m),
        optimizer=ADAMW,
        lr=lr,
        batch=4,
        epochs=3,
        row_length=64,
    )
    return state, rows


def _hidden(module, params):
    tokens = jnp.arange(3, 15)[None]
    return module.apply(
        {'params': params}, tokens, tokens - 3, jnp.tril(jnp.ones((1, 12, 12), bool))
    )[0]


def test_fresh_adapters_change_no_bit():
    lm, params = _fresh()
    plain = decoder.make_module(SMALL)
    bare = decoder.merge_adapters(lm.module, params)
    assert jax.tree.structure(bare) == jax.tree.structure(decoder.abstract_params(plain)[0])
    jax.tree.map(
        np.testing.assert_array_equal,
        bare['blocks'],
        {n: params['blocks'][n] for n in bare['blocks']},
    )
    np.testing.assert_array_equal(_hidden(lm.module, params), _hidden(plain, bare))


@pytest.mark.parametrize('mesh', [{}, {'fsdp': 4, 'tensor': 2}], ids=['one', 'mesh'])
def test_training_starts_at_ln_two_and_changes_the_adapters_alone(mesh):
    lm, params = _fresh(**mesh)
    state, rows = _trained(lm, params)
    assert (
        rows[0]['loss'] == pytest.approx(math.log(2), abs=1e-6)
        and rows[0]['rewards/margins'] == 0.0
    )
    assert rows[-1]['loss'] < 0.6
    for name, before in params['blocks'].items():
        assert (
            np.asarray(before) != np.asarray(state.params['blocks'][name])
        ).any() == name.endswith(decoder.LORA)
    for name in set(params) - {'blocks'}:
        np.testing.assert_array_equal(params[name], state.params[name])
    moments = [leaf for leaf in jax.tree.leaves(state.opt) if leaf.ndim]
    assert sum(m.size for m in moments) == 2 * sum(
        x.size for x in jax.tree.leaves(train_state.trainable(lm, params))
    )


def test_merged_adapters_are_the_model_that_was_trained():
    lm, params = _fresh()
    state, _ = _trained(lm, params)
    bare = decoder.merge_adapters(lm.module, state.params)
    want = _hidden(lm.module, state.params)
    np.testing.assert_allclose(_hidden(decoder.make_module(SMALL), bare), want, atol=1e-5)
    assert np.abs(want - _hidden(lm.module, params)).max() > 1e-2
    # alpha / rank = 6 / 3
    a, b = (state.params['blocks'][f'q{end}'][0] for end in decoder.LORA)
    np.testing.assert_allclose(
        bare['blocks']['q'][0], params['blocks']['q'][0] + 2.0 * a @ b, atol=1e-6
    )


def test_a_state_with_adapters_is_small_and_comes_back(tmp_path):
    lm, params = _fresh()
    state, _ = _trained(lm, params)
    folder = stage.Folder(str(tmp_path), '01')
    checkpoint.save(lm, folder, state)
    again = checkpoint.restore(lm, folder, train_state.cached_optimizer(ADAMW), params)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    names = (tmp_path / 'rounds/01/state/_METADATA').read_text()
    assert 'gate_lora_a' in names and "'gate'" not in names and 'embed' not in names


def test_a_loaded_model_has_fresh_adapters_and_answers_as_without(tiny):
    lm, params = language_model.load(folder='tiny', lora=4, fsdp=2)
    assert lm.config.lora == 4 and params['blocks']['gate_lora_a'].shape[-1] == 4
    assert not params['blocks']['gate_lora_b'].any() and params['blocks']['gate_lora_a'].any()
    jax.tree.map(
        lambda a, s: np.testing.assert_(a.sharding.is_equivalent_to(s, a.ndim)),
        params,
        lm.param_shardings(),
    )
    jax.tree.map(np.testing.assert_array_equal, decoder.merge_adapters(lm.module, params), tiny[1])
    with pytest.raises(ValueError, match='lora=-1'):
        language_model.load(folder='tiny', lora=-1)


# --- parameters kept in bfloat16 --------------------------------------------------------------------------------------


def test_small_updates_of_bfloat16_parameters_add_up_in_a_float32_copy():
    """Steps of 1e-4 on weights of 0.2 are below bfloat16's resolution (about 1e-3 there): ten of
    them are not.
    """
    lm, params = toy()
    half = dataclasses.replace(lm, stored='bfloat16')
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    examples, sgd = PAIRS[:2], functools.partial(optimizers.rmsprop, clip=1e9)
    train = functools.partial(
        trainer.train,
        key=jax.random.key(0),
        loss=losses.sft,
        report=lambda *_: None,
        optimizer=sgd,
        batch=2,
        epochs=40,
        row_length=64,
    )
    state, _ = train(half, State(jax.tree.map(jnp.copy, narrow), None, 0, 0), examples, lr=1e-4)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.bfloat16.dtype}
    assert {x.dtype for x in jax.tree.leaves(state.opt['master'])} == {np.dtype('float32')}
    jax.tree.map(
        lambda p, m: np.testing.assert_array_equal(p, m.astype(p.dtype)),
        state.params,
        state.opt['master'],
    )
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    exact, _ = train(lm, State(wide, None, 0, 0), examples, lr=1e-4)
    moved = np.asarray(exact.params['blocks']['up'] - narrow['blocks']['up'].astype(jnp.float32))
    found = np.asarray(
        state.opt['master']['blocks']['up'] - narrow['blocks']['up'].astype(jnp.float32)
    )
    assert np.abs(moved).max() > 1e-3
    assert np.corrcoef(moved.ravel(), found.ravel())[0, 1] > 0.9
