"""What is not finite stops the training at its update, and is neither saved, loaded nor sampled."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import pairs, train
from toys import prompt, toy

from selfrew.engine import finite, generate, trainer
from selfrew.shelves import losses, optimizers
from selfrew.types import State

DPO = functools.partial(losses.dpo, beta=0.1)


def _poisoned(params, name='mlp_norm', value=math.nan):
    """The parameters with one number replaced."""
    blocks = params['blocks']
    name = name if name in blocks else sorted(blocks)[0]
    leaf = blocks[name]
    index = (0,) * leaf.ndim
    return params | {'blocks': blocks | {name: leaf.at[index].set(value)}}, name


def loss_of(out, batch, key, *, bad_index: int, bad: float):
    """A loss that is `bad` for one example of the turn, and the log-likelihood for others."""
    del key
    nll_B = -out.logp[:, 0]
    return jnp.where(batch.index == bad_index, bad, nll_B), {'nll': nll_B}


@pytest.mark.parametrize('value', [math.nan, math.inf], ids=['nan', 'inf'])
def test_a_loss_that_is_not_finite_names_its_update_and_its_examples(value):
    lm, params = toy()
    loss = functools.partial(loss_of, bad_index=5, bad=value)
    with pytest.raises(finite.NotFinite) as raised:
        train(lm, params, pairs(12), loss, batch=2)
    problem = raised.value
    assert 'loss' in problem.what and 5 in problem.indices and len(problem.indices) == 2


def test_the_update_before_is_reported_and_the_one_after_is_not():
    lm, params = toy()
    loss = functools.partial(loss_of, bad_index=5, bad=math.nan)
    state, rows = State(jax.tree.map(jnp.copy, params), None, 0, 0), []
    options = {'optimizer': optimizers.adamw, 'lr': 1e-2, 'batch': 1, 'row_length': 64}

    def report(step, metrics):
        rows.append((step, metrics))

    with pytest.raises(finite.NotFinite) as raised:
        trainer.train(lm, state, pairs(12), jax.random.key(0), loss, report, **options)
    assert [step for step, _ in rows] == list(range(raised.value.step))
    assert not any(name.startswith('not finite') for _, metrics in rows for name in metrics)


def test_micro_batches_are_checked_too():
    lm, params = toy()
    loss = functools.partial(loss_of, bad_index=3, bad=math.nan)
    with pytest.raises(finite.NotFinite) as raised:
        train(lm, params, pairs(8), loss, batch=4, accumulate=2)
    assert 3 in raised.value.indices and len(raised.value.indices) == 4


def test_a_rate_that_overflows_the_parameters_stops_at_that_update():
    """The first update makes parameters, or the gradient after it, infinite."""
    lm, params = toy()
    sgd = functools.partial(optimizers.sgd, clip=math.inf)
    with pytest.raises(finite.NotFinite) as raised:
        train(lm, params, pairs(8), losses.sft, lr=3e38, optimizer=sgd)
    assert raised.value.step is not None and raised.value.step <= 1


@pytest.mark.parametrize('sizes', [{'fsdp': 8}, {'tensor': 2, 'fsdp': 4}], ids=str)
def test_a_sharded_model_is_checked_whole(sizes):
    lm, params = toy(**sizes)
    with pytest.raises(finite.NotFinite):
        train(lm, params, pairs(8), losses.sft, lr=3e38)


def test_parameters_that_are_not_finite_stop_before_the_first_update():
    lm, params = toy()
    bad, _ = _poisoned(params)
    with pytest.raises(finite.NotFinite) as raised:
        train(lm, bad, pairs(4), DPO)
    assert raised.value.step is None and raised.value.indices == [0, 1, 2, 3]


def test_finite_training_is_not_stopped():
    lm, params = toy()
    _, totals, rows = train(lm, params, pairs(8), DPO)
    assert totals['steps'] == len(rows) == 2


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf], ids=str)
def test_the_parameter_that_is_not_finite_is_named(value):
    _, params = toy()
    finite.check_params(params, 'here')
    bad, name = _poisoned(params, value=value)
    with pytest.raises(ValueError, match=f'there: parameters .* blocks/{name}'):
        finite.check_params(bad, 'there')


def test_a_model_whose_logits_are_not_finite_is_not_sampled():
    lm, params = toy()
    bad, _ = _poisoned(params)
    keys = generate.request_keys(jax.random.key(0), ['p'], [0])
    tokens = [lm.text.prompt_tokens(prompt([3, 4]))]
    with pytest.raises(ValueError, match='the logits of the model are not finite'):
        generate.generate(lm, bad, tokens, keys, max_tokens=4)


def test_only_the_column_of_responses_that_exist_is_checked():
    column = np.array([[-1.0, np.nan], [-2.0, -3.0]], np.float32)
    finite.check_column(column, [0, 1], [1, 2])
    with pytest.raises(finite.NotFinite) as raised:
        finite.check_column(column, [0, 1], [2, 2])
    assert raised.value.indices == [0]
