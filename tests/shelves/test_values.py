"""CD-Q and CD-FUDGE find the true values of a world that is a table (arXiv 2310.17022)."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import of_tokens, packed
from toy_training import train
from toys import SMALL, prompt, toy

from selfrew.engine import logprobs
from selfrew.shelves import losses
from selfrew.types import Example, Response

KEY = jax.random.key(0)
END, LONGEST = 2, 3  # tokens 0 and 1 go on; the third token is the end for sure


def _world():
    """(prefixes, the law of the next token [prefixes 3], every response, its reward)."""
    rng = np.random.default_rng(0)
    prefixes = [p for n in range(LONGEST) for p in itertools.product((0, 1), repeat=n)]
    law = rng.dirichlet(np.ones(3), len(prefixes))
    for i, prefix in enumerate(prefixes):
        if len(prefix) == LONGEST - 1:
            law[i] = 0.0, 0.0, 1.0
    responses = [(*prefix, END) for prefix in prefixes]
    return prefixes, law, responses, rng.normal(size=len(responses))


def _chance(response, prefixes, law):
    steps = [(prefixes.index(response[:t]), token) for t, token in enumerate(response)]
    return float(np.prod([law[step] for step in steps])), steps


def _true_values():
    """[prefixes 3] The expected reward behind each next token, from all responses."""
    prefixes, law, responses, rewards = _world()
    values = np.zeros(law.shape)
    for i, prefix in enumerate(prefixes):
        for token in range(3):
            begun, mass, total = (*prefix, token), 0.0, 0.0
            for response, reward in zip(responses, rewards):
                if response[: len(begun)] == begun:
                    rest = [
                        law[prefixes.index(response[:t]), response[t]]
                        for t in range(len(begun), len(response))
                    ]
                    mass, total = mass + np.prod(rest), total + np.prod(rest) * reward
            values[i, token] = total / mass if mass else np.nan
    return values


def _table_of(loss):
    """[prefixes 3] The table of values that gradient descent on a loss ends with, in expectation
    over all responses.
    """
    prefixes, law, responses, rewards = _world()
    chances, steps = zip(*(_chance(response, prefixes, law) for response in responses))
    numbers = [[np.zeros(len(response))] for response in responses]
    out, batch = packed(numbers, numbers, scores=[[reward] for reward in rewards])
    place = [[np.array([3 * prefix + token for prefix, token in own])] for own in steps]
    index_PS = np.asarray(of_tokens(batch, place)).astype(int)
    chance_B = np.array(chances, np.float32)

    def mean_loss(table):
        expect = jnp.sum(law * table, axis=1)
        value_PS = table.reshape(-1)[index_PS] * batch.mask
        fields = {'value': value_PS, 'expect': expect[index_PS // 3] * batch.mask}
        loss_B, _ = loss(out._replace(**fields), batch, KEY)
        return jnp.sum(chance_B * loss_B)

    # How often each entry is met, so that rare ones learn as fast.
    visits = np.full(law.shape, 1e-9)
    for chance, own in zip(chances, steps):
        for step in own:
            visits[step] += chance

    def descend(_, table):
        return table - 0.5 * jax.grad(mean_loss)(table) / visits

    start = jnp.zeros(law.shape, jnp.float32)
    return np.asarray(jax.lax.fori_loop(0, 100, descend, start))


@pytest.mark.parametrize('loss', [losses.cd_q, losses.cd_fudge], ids=lambda loss: loss.__name__)
def test_a_table_learns_the_true_values(loss):
    """Every next token that can come: its expected reward, to 1e-3 of rewards of size 1. Paired
    with the expectation at the same place, CD-Q would be more than 0.1 off.
    """
    true = _true_values()
    _, law, _, _ = _world()
    can_come = law > 0
    np.testing.assert_allclose(_table_of(loss)[can_come], true[can_come], atol=1e-3)


def _same_place(out, batch, key):
    """CD-Q with the expectation at a token's own place, the mistake that a table shows."""
    return losses.cd_q(out._replace(expect=jnp.roll(out.expect, 1, axis=1)), batch, key)


def test_paired_at_the_same_place_a_table_learns_something_else():
    _, law, _, _ = _world()
    error = np.abs(_table_of(_same_place) - _true_values())[law > 0]
    assert error.max() > 0.1


def _one(values, scores, ended=None, expect=None):
    """(out, batch) of one example with these values of tokens [n][t]."""
    expect = values if expect is None else expect
    given = [[np.array(pair) for pair in zip(values, expect)]]
    numbers = [[np.zeros(len(v)) for v in values]]
    ended = None if ended is None else [ended]
    return packed(numbers, numbers, scores=[scores], ended=ended, values=given)


def test_the_losses_have_the_values_of_their_equations():
    values, expect = [[0.5, 1.0, 2.0], [3.0]], [[9.0, 0.25, 1.5], [9.0]]
    out, batch = _one(values, (4.0, 1.0), expect=expect)
    # ½ (0.25² + 0.5² + 2²) with targets 0.25, 1.5, 4; ½ (3 − 1)²; their mean
    loss, metrics = losses.cd_q(out, batch, KEY)
    assert float(loss[0]) == pytest.approx((0.5 * (0.0625 + 0.25 + 4.0) + 2.0) / 2)
    assert float(metrics['values/final_error'][0]) == pytest.approx((4.0 + 4.0) / 2)
    # ½ (3.5² + 3² + 2²) and ½ 2²
    loss, _ = losses.cd_fudge(out, batch, KEY)
    assert float(loss[0]) == pytest.approx((0.5 * (12.25 + 9.0 + 4.0) + 2.0) / 2)


def test_a_response_that_was_cut_or_has_no_verdict_has_no_reward_at_its_end():
    values, expect = [[0.5, 1.0], [3.0, 2.0], [1.0]], [[9.0, 0.25], [9.0, 1.0], [9.0]]
    for scores, ended in (
        ((4.0, 7.0, 1.0), (True, False, True)),
        ((4.0, np.nan, 1.0), (True, True, True)),
    ):
        out, batch = _one(values, scores, ended, expect)
        loss, metrics = losses.cd_q(out, batch, KEY)
        # targets 0.25, 4; 1.0 and none; 1.0: mean over three responses
        expected = (0.5 * (0.0625 + 9.0) + 0.5 * 4.0 + 0.0) / 3
        assert float(loss[0]) == pytest.approx(expected)
        assert float(metrics['values/rewarded'][0]) == pytest.approx(2 / 3)
        # CD-FUDGE has nothing to regress the second one on
        loss, _ = losses.cd_fudge(out, batch, KEY)
        assert float(loss[0]) == pytest.approx((0.5 * (12.25 + 9.0) + 0.0) / 2)


def test_no_gradient_flows_through_the_expectation():
    out, batch = _one([[0.5, 1.0, 2.0]], (4.0,))
    grad = jax.grad(lambda e: losses.cd_q(out._replace(expect=e), batch, KEY)[0].sum())(out.expect)
    assert not np.any(grad)


# --- in the engine --------------------------------------------------------------------------------


def _examples():
    finishes = 'stop', 'length'
    return [
        Example(
            prompt([3, 4, 40 + i], f'p{i}'),
            (Response(f'10 {30 + i}'), Response(f'20 {30 + i} 5', finish=finishes[i % 2])),
            (1.0, 0.0),
        )
        for i in range(8)
    ]


def test_trained_alone_the_head_learns_and_not_a_bit_of_the_rest_changes():
    lm, params = toy(dataclasses.replace(SMALL, value_head=True))
    loss = functools.partial(losses.cd_q)
    state, _, rows = train(lm, params, _examples(), loss, only='value', epochs=8, lr=3e-2)
    assert rows[-1][1]['values/final_error'] < 0.25 * rows[0][1]['values/final_error']
    assert not np.array_equal(state.params['value'], params['value'])
    same = jax.tree.map(np.array_equal, params | {'value': 0}, state.params | {'value': 0})
    assert all(jax.tree.leaves(same))
    moments = [x.shape for x in jax.tree.leaves(state.opt) if x.ndim]
    assert set(moments) == {params['value'].shape}


@pytest.mark.slow
def test_with_adapters_the_expectation_is_under_the_model_without_them():
    """It is that of the plain model with the same hidden states for values: computed apart."""
    config = dataclasses.replace(SMALL, value_head=True, lora=2)
    lm, params = toy(config)
    blocks = {
        name: x + 0.3 if name.endswith('_lora_b') else x for name, x in params['blocks'].items()
    }
    head = jax.random.normal(jax.random.key(1), params['value'].shape)
    params = params | {'blocks': blocks, 'value': head}
    hidden = jax.random.normal(jax.random.key(2), (2, 1, 5, SMALL.width))
    target = jnp.arange(5)[None] + 7
    measured = logprobs.measure(
        lm.module, params, hidden[0], target, base_hidden_PSD=hidden[1], expect=True
    )
    law = jax.nn.softmax(hidden[1] @ params['head'])
    np.testing.assert_allclose(
        measured['expect'], jnp.sum(law * (hidden[0] @ head), axis=-1), rtol=1e-4, atol=1e-4
    )
    # and in a real update, where the adapters learn: the law of M_0 stays the law
    state, _, rows = train(lm, params, _examples(), functools.partial(losses.cd_q), epochs=2)
    assert np.isfinite(rows[-1][1]['loss'])
    assert not np.array_equal(state.params['blocks']['q_lora_a'], blocks['q_lora_a'])
