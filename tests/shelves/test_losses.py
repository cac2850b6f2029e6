"""Losses: values by hand from the papers' equations, gradients, and the shelf's contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfrew.engine import loss_contract
from selfrew.run import binding
from selfrew.shelves import losses
from selfrew.types import Batch, Forward

KEY = jax.random.key(0)
REWARDS = 'rewards/chosen', 'rewards/rejected', 'rewards/margins', 'rewards/accuracies'


def _batch(ref_logp, real=None, weight=None, lengths=None):
    B, N = np.shape(ref_logp)
    real = np.ones(B) if real is None else real
    columns = {
        'weight': np.array(np.ones(B) if weight is None else weight, np.float32),
        'real': np.array(real, np.float32),
        'index': np.arange(B, dtype=np.int32),
        'count': np.float32(np.sum(real)),
        'lengths': np.array(np.ones(N) if lengths is None else lengths, np.float32),
        'ref_logp': np.array(ref_logp, np.float32),
    }
    return Batch(**{name: columns.get(name) for name in Batch._fields})


def _out(logp, length=None):
    length = np.full(np.shape(logp), 20.0) if length is None else length
    return Forward(jnp.array(logp, jnp.float32), jnp.array(length, jnp.float32))


# A winner of 20 tokens and a loser of 25 with ratios 1 and -1.5, so that the margin is 2.5 β; a
# response to explore with ratio 0.5.
PAIR, REF, LENGTH = [[-10.0, -14.0, -9.0]], [[-11.0, -12.5, -9.5]], [[20.0, 25.0, 18.0]]


def _dpo(N: int, **options):
    """The loss and metrics of the first N responses above."""
    return losses.dpo(_out([PAIR[0][:N]], [LENGTH[0][:N]]), _batch([REF[0][:N]]), KEY, **options)


def _gradient(loss, out, batch, **options):
    """The gradient of the mean loss by logp [B N]."""

    def mean_loss(logp):
        return jnp.mean(loss(out._replace(logp=logp), batch, KEY, **options)[0])

    return jax.grad(mean_loss)(out.logp)


def _near(value):
    """Equal up to the rounding of a few float32 operations. The smallest term that a test adds
    (exploring, 5e-6 of 0.68) is three times as large.
    """
    return pytest.approx(value, rel=2e-6)


def _assert_near(array, expected):
    """Equal up to rounding, relative to the largest value: some are differences."""
    atol = 1e-5 * np.max(np.abs(expected))
    np.testing.assert_allclose(array, expected, rtol=0.0, atol=atol)


@pytest.mark.parametrize(
    'N, options, value',
    [
        (2, {}, 0.57593942),  # -log σ(0.25)
        (2, {'smoothing': 0.1}, 0.60093942),  # + 0.1 · 0.25, since -log σ(-m) = m - log σ(m)
        (2, {'nll': 1.0}, 1.07593942),  # + 10 / 20
        (3, {'beta': 0.01, 'explore': 1e-3}, 0.68073030),  # -log σ(0.025) + 1e-3 · 0.01 · 0.5
        (3, {}, 0.57593942),  # a third response counts only where it is explored
    ],
)
def test_dpo_and_its_extensions_have_the_values_of_their_equations(N, options, value):
    assert float(_dpo(N, **options)[0][0]) == _near(value)


def test_the_weight_of_an_example_multiplies_the_whole_loss_of_scpo():
    # 0.75 · (-log σ(0.5 · 2.5) + 10 / 20) = 0.75 · (0.25192908 + 0.5)
    loss_B, _ = _dpo(2, beta=0.5, nll=1.0)
    assert 0.75 * float(loss_B[0]) == _near(0.56394681)


def test_dpo_leaves_the_weight_to_the_update_that_takes_the_mean():
    out = _out([PAIR[0][:2]])
    plain, _ = losses.dpo(out, _batch([REF[0][:2]], weight=[1.0]), KEY)
    weighted, _ = losses.dpo(out, _batch([REF[0][:2]], weight=[0.25]), KEY)
    assert float(plain[0]) == float(weighted[0])


def test_dpo_starts_at_log_2_with_margin_0():
    loss_B, metrics = losses.dpo(_out(PAIR), _batch(PAIR), KEY, beta=0.3)
    assert float(loss_B[0]) == _near(np.log(2)) and float(metrics['rewards/margins'][0]) == 0.0
    assert float(metrics['rewards/accuracies'][0]) == 0.5  # a margin of 0 says nothing


@pytest.mark.parametrize(
    'loss', [losses.dpo, losses.ipo, functools.partial(losses.ipo, average=True)]
)
@pytest.mark.parametrize(
    ('more', 'right'),
    [(0.0, 0.5), (2e-4, 0.5), (-2e-4, 0.5), (1e-2, 1.0), (-1e-2, 0.0)],
)
def test_a_margin_of_rounding_is_half_right_and_a_real_one_is_not(loss, more, right):
    """Of 45 tokens, rounding is up to 2e-4 · √45 = 1.3e-3 nats."""
    shifted = [[PAIR[0][0] + more, *PAIR[0][1:]]]
    _, metrics = loss(_out(shifted, [[25.0, 20.0, 9.0]]), _batch(PAIR), KEY)
    assert float(metrics['rewards/accuracies'][0]) == right


def test_dpo_reports_rewards_and_log_probabilities_of_both():
    _, metrics = _dpo(3, beta=0.1, explore=1e-3)
    rewards = [float(metrics[name][0]) for name in REWARDS]
    assert rewards == [_near(0.1), _near(-0.15), _near(0.25), 1.0]
    logps = [float(metrics[f'logps/{name}'][0]) for name in ('chosen', 'rejected', 'explored')]
    assert logps == [-10.0, -14.0, -9.0]
    assert float(metrics['nll'][0]) == _near(0.5)
    assert float(metrics['dpo'][0]) == _near(-np.log(1 / (1 + np.exp(-0.25))))
    assert [float(metrics[f'lengths/{n}'][0]) for n in ('chosen', 'rejected')] == [20.0, 25.0]


def test_a_swapped_pair_has_the_negative_margin_and_loses():
    loss_B, metrics = losses.dpo(_out([PAIR[0][1::-1]]), _batch([REF[0][1::-1]]), KEY)
    assert float(metrics['rewards/margins'][0]) == _near(-0.25)
    assert float(metrics['rewards/accuracies'][0]) == 0.0
    assert float(loss_B[0]) == _near(0.57593942 + 0.25)  # -log σ(-m) = m - log σ(m)


def test_dpo_raises_the_winner_and_lowers_the_loser_alike():
    grad = _gradient(losses.dpo, _out(PAIR), _batch(REF))
    # β σ(-margin) = 0.1 σ(-0.25), down for the winner: a step against the gradient raises it
    slope = 0.1 / (1 + np.exp(0.25))
    _assert_near(grad, [[-slope, slope, 0.0]])


def test_smoothing_turns_the_gradient_where_the_margin_is_too_sure():
    # σ(margin) = 0.99 is beyond 1 - ε = 0.9, so that the winner is pushed down again
    out, batch = _out([[-10.0, -60.0]]), _batch([[-10.0, -10.0]])
    assert _gradient(losses.dpo, out, batch)[0, 0] < 0
    assert _gradient(losses.dpo, out, batch, smoothing=0.1)[0, 0] > 0


def test_exploring_lowers_the_third_response_and_touches_no_other():
    out, batch = _out(PAIR), _batch(REF)
    plain = _gradient(losses.dpo, out, batch, beta=0.5)
    explored = _gradient(losses.dpo, out, batch, beta=0.5, explore=0.2)
    _assert_near(explored - plain, [[0.0, 0.0, 0.1]])  # + αβ: descent lowers its logp


def test_nll_touches_the_winner_alone_by_its_own_length():
    out, batch = _out(PAIR, LENGTH), _batch(REF)
    plain = _gradient(losses.dpo, out, batch)
    anchored = _gradient(losses.dpo, out, batch, nll=3.0)
    _assert_near(anchored - plain, [[-3.0 / 20, 0.0, 0.0]])


@pytest.mark.parametrize(
    'mean, value',
    [
        ('token', 16 / 23),  # (10 + 6) / (20 + 3)
        ('sequence', 1.25),  # (10 / 20 + 6 / 3) / 2
        ('sum', 8.0),  # (10 + 6) / 2
    ],
)
def test_sft_takes_the_mean_that_was_asked_for(mean, value):
    logp = [[-10.0, -1.0], [-6.0, -1.0], [0.0, 0.0]]
    out = _out(logp, [[20.0, 9.0], [3.0, 9.0], [0.0, 0.0]])
    real = np.array([1, 1, 0], np.float32)  # the last example is filling
    batch = _batch(np.full((3, 2), np.nan), real=real, lengths=[23, 18])
    loss_B, metrics = losses.sft(out, batch, KEY, mean=mean)
    assert float(jnp.sum(loss_B * real) / 2) == _near(value)
    _assert_near(metrics['nll'], [0.5, 2.0, 0.0])


def test_sft_raises_the_best_response_alone():
    grad = _gradient(losses.sft, _out(PAIR * 2), _batch(REF * 2))
    assert np.all(grad[:, 0] < 0) and np.all(grad[:, 1:] == 0)


@pytest.mark.parametrize(
    'options, value',
    [
        ({}, 6.25),  # (2.5 - 1 / 0.2)²
        ({'average': True}, 23.91210),  # (1 / 20 + 1.5 / 25 - 5)²
        ({'tau': 0.2}, 0.0),  # the margin is 1 / 0.4 already
    ],
)
def test_ipo_has_the_value_of_its_equation(options, value):
    loss_B, _ = losses.ipo(_out(PAIR, LENGTH), _batch(REF), KEY, **options)
    assert float(loss_B[0]) == pytest.approx(value, rel=2e-6, abs=1e-9)


def test_ipo_widens_a_margin_below_its_target_and_narrows_one_above():
    below = _gradient(losses.ipo, _out(PAIR), _batch(REF), tau=0.1)  # 2.5 of 5 nats
    above = _gradient(losses.ipo, _out(PAIR), _batch(REF), tau=0.5)  # 2.5 of 1 nat
    # ± 2 (h - 1 / (2 τ)); the third response takes no part
    _assert_near(below, [[-5.0, 5.0, 0.0]])
    _assert_near(above, [[3.0, -3.0, 0.0]])


def test_the_losses_marked_reference_free_never_look_at_the_reference():
    shelf = [getattr(losses, name) for name in binding.part_names('loss', losses)]
    marked = [loss for loss in shelf if loss_contract.is_reference_free(loss)]
    assert losses.sft in marked and losses.dpo not in marked
    for loss in marked:
        with_reference = loss(_out(PAIR), _batch(REF), KEY)
        without = loss(_out(PAIR), _batch(np.full((1, 3), np.nan)), KEY)
        jax.tree.map(np.testing.assert_array_equal, with_reference, without)


def test_what_a_loss_cannot_do_is_refused():
    with pytest.raises(ValueError, match='wants 2 responses an example, got 1'):
        _dpo(1)
    with pytest.raises(ValueError, match='ipo wants 2 responses an example, got 1'):
        losses.ipo(_out([[-10.0]]), _batch([[-11.0]]), KEY)
    for tau in (0.0, -1.0, float('nan')):
        with pytest.raises(ValueError, match='want more than 0'):
            losses.ipo(_out(PAIR), _batch(REF), KEY, tau=tau)
        with pytest.raises(ValueError, match=r'\.tau: .*want more than 0'):
            binding.bind('loss', {'name': 'ipo', 'tau': tau}, 'loss')
    with pytest.raises(ValueError, match='wants 3 responses an example, got 2'):
        _dpo(2, explore=0.1)
    with pytest.raises(ValueError, match="no mean 'tokens'; there are: token, sequence, sum"):
        losses.sft(_out(PAIR), _batch(REF), KEY, mean='tokens')
    with pytest.raises(AssertionError, match='[Rr]ank'):
        losses.sft(_out([-10.0]), _batch([[-11.0]]), KEY)


@pytest.mark.parametrize('name', binding.part_names('loss', losses))
def test_every_loss_keeps_the_contract(name):
    """loss_B [B], finite, metrics of [B]; under jit; another order of the examples gives the same
    in that order.
    """
    loss, rng, B, N = getattr(losses, name), np.random.default_rng(0), 5, 3
    logp, ref = -rng.uniform(5, 50, (B, N)), -rng.uniform(5, 50, (B, N))
    length = rng.integers(1, 40, (B, N))
    order = rng.permutation(B)
    loss_B, metrics = jax.jit(loss)(_out(logp, length), _batch(ref), KEY)
    assert loss_B.shape == (B,) and loss_B.dtype == jnp.float32 and np.all(np.isfinite(loss_B))
    assert metrics
    for value in metrics.values():
        assert value.shape == (B,) and np.all(np.isfinite(value))
    moved_B, moved = loss(_out(logp[order], length[order]), _batch(ref[order]), KEY)
    _assert_near(moved_B, loss_B[order])
    assert moved.keys() == metrics.keys()
    for key, value in moved.items():
        _assert_near(value, metrics[key][order])
    zeros = np.zeros((B, N))  # a batch of nothing but filling
    empty = loss(_out(zeros, zeros), _batch(zeros, real=np.zeros(B)), KEY)
    assert all(np.all(np.isfinite(value)) for value in jax.tree.leaves(empty))
