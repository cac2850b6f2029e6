"""Losses: values by hand from the papers' equations, gradients, and the shelf's contract."""

import functools
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import RATIO, packed, random_tokens
from toy_training import step
from toys import docs, toy

from selfrew.engine import logprobs, loss_contract, packing, train_step
from selfrew.running import binding
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
        'scores': np.full((B, N), np.nan, np.float32),
        'labels': np.full((B, N), np.nan, np.float32),
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


# Options that a loss does not have by default.
PARTS = [functools.partial(losses.apo_zero), functools.partial(losses.sft)]
OPTIONS = {'sum': {'losses': PARTS, 'weights': (1.0, 0.2)}}
LOSSES = {
    name: functools.partial(getattr(losses, name), **OPTIONS.get(name, {}))
    for name in binding.part_names('loss', losses)
}


def test_the_readme_has_a_row_for_every_loss_and_no_other():
    readme = (pathlib.Path(__file__).parents[2] / 'README.md').read_text()
    table = readme.split('### Losses')[1].split('\n\n')[1].splitlines()[2:]
    named = [re.findall(r'`(\w+)`', row.split('|')[1]) for row in table]
    losses_named = {name for row in named for name in row if name in LOSSES}
    assert losses_named == set(LOSSES)
    parameters = inspect.signature(losses.dpo).parameters
    assert all(row[0] in LOSSES for row in named)
    assert all(row[1] in parameters for row in named if row[0] == 'dpo' and len(row) > 1)


def test_the_losses_marked_reference_free_never_look_at_the_reference():
    marked = {name for name, loss in LOSSES.items() if loss_contract.is_reference_free(loss)}
    assert marked == {
        *('sft', 'simpo', 'orpo', 'cringe', 'pairwise_cringe'),
        *('cd_fudge', 'cd_q'),
    }
    policy, ref = random_tokens(4, 3)
    out, batch = packed(policy, ref)
    unknown = batch._replace(ref_logp=np.full_like(batch.ref_logp, np.nan), ref_token_logp=None)
    for name in marked:
        with_reference = LOSSES[name](out, batch, KEY)
        jax.tree.map(np.testing.assert_array_equal, with_reference, LOSSES[name](out, unknown, KEY))


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


@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_keeps_the_contract(name):
    """loss_B [B], finite, metrics of [B]; under jit; another order of the examples gives the same
    in that order.
    """
    loss, B, N = LOSSES[name], 5, 3
    policy, ref = random_tokens(B, N)
    order = np.random.default_rng(0).permutation(B)
    out, batch = packed(policy, ref)
    loss_B, metrics = jax.jit(lambda out, batch: loss(out, batch, KEY))(out, batch)
    assert loss_B.shape == (B,) and loss_B.dtype == jnp.float32 and np.all(np.isfinite(loss_B))
    assert metrics
    for value in metrics.values():
        assert value.shape == (B,) and np.all(np.isfinite(value))
    moved_B, moved = loss(*packed([policy[i] for i in order], [ref[i] for i in order]), KEY)
    _assert_near(moved_B, loss_B[order])
    assert moved.keys() == metrics.keys()
    for key, value in moved.items():
        _assert_near(value, metrics[key][order])
    # a batch of nothing but filling
    zeros = jax.tree.map(np.zeros_like, (out, batch._replace(labels=np.nan * batch.labels)))
    assert all(np.all(np.isfinite(value)) for value in jax.tree.leaves(loss(*zeros, KEY)))


@pytest.mark.parametrize('name', LOSSES)
def test_the_gradient_of_every_loss_is_finite_and_not_zero(name):
    """By each response's log-prob; by each token's, and its value, where the loss reads those."""
    out, batch = packed(*random_tokens(4, 3, seed=2))

    def mean_loss(logp, token_logp, value):
        fields = {'logp': logp, 'token_logp': token_logp, 'value': value}
        return jnp.mean(LOSSES[name](out._replace(**fields), batch, KEY)[0])

    grads = jax.grad(mean_loss, argnums=(0, 1, 2))(out.logp, out.token_logp, out.value)
    assert all(np.all(np.isfinite(grad)) for grad in grads)
    assert max(float(jnp.max(jnp.abs(grad))) for grad in grads) > 1e-5
    if loss_contract.takes_mismatched(LOSSES[name]):
        assert np.all(grads[0][:, -1] == 0)


def _lower(loss, logp, ref=REF, length=LENGTH, **options):
    """The loss of the pair with other log-probs."""
    return float(loss(_out(logp, length), _batch(ref), KEY, **options)[0][0])


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


# The pair has ratios 1 and -1.5, a margin of 2.5, and 20 and 25 tokens. Values with eight digits
# are published or computed independently in float64.
@pytest.mark.parametrize(
    'loss, options, value',
    [
        (losses.hinge, {}, 0.75),  # 1 - 0.25
        (losses.hinge, {'beta': 0.5}, 0.0),  # 1 - 1.25 < 0
        (losses.robust_dpo, {}, 0.54468942),  # (0.9 · 0.57593942 - 0.1 · 0.82593942) / 0.8
        (losses.dpop, {}, 0.57593942),  # the winner has not fallen
        (losses.dpo, {'average': True}, -np.log(_sigmoid(0.1 * (1 / 20 + 1.5 / 25)))),
        (losses.dpo, {'length': 0.01}, -np.log(_sigmoid(0.25 + 0.01 * (20 - 25)))),
        (losses.simpo, {}, 1.22697610),  # -log σ(2 (-0.5 + 0.56) - 1)
        (losses.orpo, {}, 0.56228249),
        (losses.apo_zero, {}, _sigmoid(-0.1) + _sigmoid(-0.15)),
        (losses.apo_down, {}, _sigmoid(0.1) + _sigmoid(-0.25)),
        (losses.sppo, {'beta': 0.1}, (1 - 5) ** 2 + (-1.5 + 5) ** 2),
        (losses.sppo, {}, (1 - 500) ** 2 + (-1.5 + 500) ** 2),
        (losses.nca, {}, -np.log(_sigmoid(0.1)) - np.log(_sigmoid(-0.1) * _sigmoid(0.15)) / 2),
        (
            losses.exo,
            {'smoothing': 0.1},
            _sigmoid(0.25) * np.log(_sigmoid(0.25) / 0.9)
            + _sigmoid(-0.25) * np.log(_sigmoid(-0.25) / 0.1),
        ),
        (
            losses.discopop,
            {},
            _sigmoid(-5.0) * -np.log(_sigmoid(0.25)) + _sigmoid(5.0) * np.exp(-0.25),
        ),
    ],
)
def test_a_loss_has_the_value_of_its_equation(loss, options, value):
    loss_B, metrics = loss(_out(PAIR, LENGTH), _batch(REF), KEY, **options)
    assert float(loss_B[0]) == pytest.approx(value, rel=3e-6, abs=1e-7)
    assert set(REWARDS) <= set(metrics)


def test_dpop_lowers_the_margin_of_a_winner_that_has_fallen():
    assert _lower(losses.dpop, [[-12.0, -14.0, -9.0]]) == _near(4.95705844)
    # -log σ(0.1 (-1 + 1.5 - 10)), λ 10
    assert _lower(losses.dpop, [[-12.0, -14.0, -9.0]], penalty=10.0) == _near(
        -np.log(_sigmoid(0.1 * (0.5 - 10)))
    )


def test_a_longer_winner_is_taken_to_say_less_by_r_dpo():
    longer, shorter = [[25.0, 20.0, 9.0]], [[20.0, 25.0, 9.0]]

    def slope(length):
        grad = _gradient(losses.dpo, _out(PAIR, length), _batch(REF), length=0.1)
        return -float(grad[0, 0])

    plain = -float(_gradient(losses.dpo, _out(PAIR, longer), _batch(REF))[0, 0])
    assert slope(longer) < plain < slope(shorter)


def test_orpo_of_likely_and_of_unlikely_responses_is_finite_with_its_gradient():
    for winner, loser in ((-1e-9, -1e-3), (-1e-3, 0.0), (-2000.0, -10.0), (0.0, 0.0)):
        out = _out([[winner, loser]], [[20.0, 20.0]])
        assert np.isfinite(losses.orpo(out, _batch([[0.0, 0.0]]), KEY)[0]).all()
        assert np.isfinite(_gradient(losses.orpo, out, _batch([[0.0, 0.0]]))).all()


def test_ld_dpo_counts_the_tokens_beyond_the_shorter_length_by_a_share():
    """Ratios of the winner's tokens 0.1, 0.2, 0.4 and of the loser's 0.3: with α 0.25, the first
    counts, the rest by a quarter.
    """
    policy, ref = [[[-1.0, -1.0, -1.0], [-2.0]]], [[[-1.1, -1.2, -1.4], [-2.3]]]
    out, batch = packed(policy, ref)

    def value(tail):
        return float(losses.ld_dpo(out, batch, KEY, beta=1.0, tail=tail)[0][0])

    assert value(0.25) == pytest.approx(-np.log(_sigmoid(0.1 + 0.25 * 0.6 - 0.3)), rel=1e-5)
    assert value(0.0) == pytest.approx(-np.log(_sigmoid(0.1 - 0.3)), rel=1e-5)
    assert value(1.0) == pytest.approx(float(losses.dpo(out, batch, KEY, beta=1.0)[0][0]), rel=1e-5)


# --- KTO ------------------------------------------------------------------------------------------


def _kto(ratios, labels, real=None, **options):
    """(loss_B, metrics) of examples with these ratios; the last of each is mismatched."""
    ratio = np.array(ratios, np.float32)
    batch = _batch(np.zeros_like(ratio), real=real)
    batch = batch._replace(labels=np.array(labels, np.float32))
    return losses.kto(_out(ratio), batch, KEY, **options)


@pytest.mark.parametrize('label, value', [(1.0, 0.48250714), (0.0, 0.45512111)])
def test_kto_has_the_value_of_its_equation(label, value):
    ratio = 1.0 if label else -1.5
    loss_B, metrics = _kto([[ratio, 0.3]], [[label, np.nan]])
    assert float(loss_B[0]) == _near(value) and float(metrics['kl'][0]) == _near(0.3)


def test_kto_takes_the_kl_of_all_real_examples_and_never_below_0():
    ratios, labels = [[1.0, 0.5], [-1.5, 0.1], [9.0, 99.0]], [[1.0, np.nan], [0, np.nan], [1, 1]]
    loss_B, metrics = _kto(ratios, labels, real=[1, 1, 0])
    assert float(metrics['kl'][0]) == _near(0.3)
    np.testing.assert_allclose(loss_B[:2], [0.48250714, 0.45512111], rtol=2e-6)
    loss_B, metrics = _kto([[1.0, -7.0]], [[1.0, np.nan]])
    assert float(metrics['kl'][0]) == 0.0 and float(loss_B[0]) == _near(_sigmoid(-0.1))


def test_kto_of_a_pair_is_the_mean_of_both_and_weights_count_each_side():
    loss_B, _ = _kto([[1.0, -1.5, 0.3]], [[np.nan] * 3])
    assert float(loss_B[0]) == _near((0.48250714 + 0.45512111) / 2)
    loss_B, _ = _kto([[1.0, -1.5, 0.3]], [[np.nan] * 3], desirable=2.0, undesirable=3.0)
    assert float(loss_B[0]) == _near((2 * 0.48250714 + 3 * 0.45512111) / 2)
    loss_B, _ = _kto([[1.0, -1.5, 0.3]], [[0.0, 1.0, np.nan]])  # labels decide before the place
    assert float(loss_B[0]) == _near((_sigmoid(0.07) + _sigmoid(0.18)) / 2)


# --- sums -----------------------------------------------------------------------------------------


def _bound(*entries, weights):
    return binding.bind('loss', {'name': 'sum', 'losses': [*entries], 'weights': weights}, 'loss')


def test_a_sum_is_the_weighted_sum_with_the_metrics_of_all():
    out, batch = packed(*random_tokens(3, 2))
    loss = _bound({'name': 'dpo', 'beta': 0.2}, {'name': 'sft'}, weights=(0.5, 2.0))
    dpo_B, dpo_metrics = losses.dpo(out, batch, KEY, beta=0.2)
    sft_B, _ = losses.sft(out, batch, KEY)
    loss_B, metrics = loss(out, batch, KEY)
    _assert_near(loss_B, 0.5 * dpo_B + 2.0 * sft_B)
    _assert_near(metrics['losses/sft'], sft_B)
    _assert_near(metrics['losses/dpo'], dpo_B)
    assert set(dpo_metrics) <= set(metrics)


def test_a_sum_asks_for_what_any_of_its_losses_asks_for():
    loss = _bound({'name': 'ld_dpo'}, {'name': 'cringe', 'contrast': 3}, weights=(1.0, 1.0))
    assert loss_contract.requested_fields(loss) == {'token_logp': True, 'contrast': 3}
    assert not loss_contract.is_reference_free(loss)
    assert not loss_contract.takes_mismatched(loss)
    loss = _bound({'name': 'simpo'}, {'name': 'sft'}, weights=(1.0, 1.0))
    assert loss_contract.is_reference_free(loss)


def test_only_those_losses_of_a_sum_that_ask_for_mismatched_responses_see_them():
    policy, ref = random_tokens(3, 3, seed=4)
    loss = _bound({'name': 'kto'}, {'name': 'dpo'}, {'name': 'sft'}, weights=(1.0, 1.0, 1.0))
    assert loss_contract.takes_mismatched(loss)
    out, batch = packed(policy, ref)
    pairs = packed([row[:2] for row in policy], [row[:2] for row in ref])
    expected = losses.kto(out, batch, KEY)[0] + losses.dpo(*pairs, KEY)[0]
    _assert_near(loss(out, batch, KEY)[0], expected + losses.sft(*pairs, KEY)[0])
    # of singles, no loss takes the mismatched response for a loser
    out, batch = packed([row[:2] for row in policy], [row[:2] for row in ref])
    with pytest.raises(ValueError, match='wants 2 responses an example, got 1'):
        loss(out, batch, KEY)


@pytest.mark.parametrize(
    'entry, message',
    [
        ({'losses': [{'name': 'sft'}], 'weights': (1.0, 2.0)}, '1 losses and 2 weights'),
        ({'losses': [], 'weights': ()}, '0 losses and 0 weights'),
        ({'losses': [{'name': 'sft'}] * 2, 'weights': (1.0, 1.0)}, 'each at most once'),
        ({'losses': [{'name': 'sft'}], 'weights': ('x',)}, 'want numbers'),
        ({'losses': [{'name': 'stf'}], 'weights': (1.0,)}, "no losses named 'stf'"),
        (
            {'losses': [{'name': 'cringe'}, {'name': 'pairwise_cringe'}], 'weights': (1.0, 1.0)},
            'contrast=1 and contrast=5; want the same',
        ),
    ],
)
def test_a_sum_that_cannot_be_is_refused_when_it_is_bound(entry, message):
    with pytest.raises(ValueError, match=message):
        binding.bind('loss', {'name': 'sum'} | entry, 'round.loss')


@pytest.mark.parametrize(
    'entry, message',
    [
        ({'name': 'robust_dpo', 'smoothing': 0.5}, 'want less than 0.5'),
        ({'name': 'exo', 'smoothing': 0.0}, 'want more than 0'),
        ({'name': 'ld_dpo', 'tail': 1.5}, 'want at least 0 and at most 1'),
        ({'name': 'ld_dpo', 'token_logp': False}, 'want True'),
        ({'name': 'discopop', 'tau': 0.0}, 'want more than 0'),
        ({'name': 'cringe', 'contrast': 0}, 'want at least 1'),
        ({'name': 'pairwise_cringe', 'gate_tau': 0.0}, 'want more than 0'),
        ({'name': 'pairwise_cringe', 'margin_norm': 'token'}, 'there are: sum, mean'),
        ({'name': 'dpop', 'penalty': -1.0}, 'want at least 0'),
    ],
)
def test_wrong_options_are_refused_when_a_loss_is_bound(entry, message):
    with pytest.raises(ValueError, match=message):
        binding.bind('loss', entry, 'round.loss')


# --- Cringe ---------------------------------------------------------------------------------------


def test_cringe_is_the_mean_over_the_tokens_in_either_mask():
    """Of 3 + 1 tokens of winners and 2 + 2 of losers, each contrast RATIO times the log-prob."""
    policy = [[[-1.0, -2.0, -3.0], [-4.0, -5.0]], [[-6.0], [-7.0, -8.0]]]
    out, batch = packed(policy, policy)
    loss_B, metrics = losses.cringe(out, batch, KEY, alpha=0.5)
    expected = (6 + 6 + 0.5 * RATIO * (9 + 15)) / 8
    assert float(jnp.mean(loss_B)) == _near(expected)
    _assert_near(metrics['nll'], [2.0, 6.0])
    _assert_near(metrics['contrast'], RATIO * np.array([4.5, 7.5]))


def test_cringe_of_singles_goes_by_the_label_and_one_without_is_positive():
    policy = [[[-1.0, -2.0]], [[-3.0]], [[-4.0]]]
    out, batch = packed(policy, policy, labels=[[1.0], [0.0], [np.nan]])
    loss_B, _ = losses.cringe(out, batch, KEY, alpha=2.0)
    _assert_near(loss_B, np.array([3.0, 2.0 * RATIO * 3.0, 4.0]) * 3 / 4)


def test_filling_has_no_share_of_cringes_tokens():
    policy = [[[-1.0, -2.0], [-3.0]], [[-9.0], [-9.0]]]
    out, batch = packed(policy, policy, real=[1, 0])
    batch = batch._replace(lengths=np.array([2.0, 1.0], np.float32))
    loss_B, _ = losses.cringe(out, batch, KEY)
    assert float(loss_B[0]) == _near((3.0 + RATIO * 3.0) / 3)


def _pairwise(**options):
    out, batch = _out(PAIR, LENGTH), _batch(REF, lengths=[20.0, 25.0, 18.0])
    out = out._replace(contrast=jnp.array([[7.0, 30.0, 1.0]]))
    return losses.pairwise_cringe(out, batch, KEY, **options)


@pytest.mark.parametrize(
    'options, gate',
    [
        ({'margin': 0.0, 'gate_tau': 10.0}, _sigmoid(-0.4)),  # M = -10 + 14
        ({'margin': 4.0, 'gate_tau': 0.1}, 0.5),
        ({'margin': 0.0, 'gate_tau': 1.0, 'margin_norm': 'mean'}, _sigmoid(-0.06)),
        ({}, _sigmoid(-1.4)),  # (-10 - 4) / 10
    ],
)
def test_the_gate_of_pairwise_cringe_closes_as_the_margin_grows(options, gate):
    loss_B, metrics = _pairwise(alpha=0.1, **options)
    assert float(metrics['gate'][0]) == _near(gate)
    assert float(loss_B[0]) == _near(gate * (10.0 + 0.1 * 30.0) / 45)


def test_a_gate_that_is_not_detached_widens_the_margin_too():
    out, batch = _out(PAIR, LENGTH), _batch(REF, lengths=[20.0, 25.0, 18.0])
    out = out._replace(contrast=jnp.array([[7.0, 30.0, 1.0]]))
    options = {'alpha': 0.1, 'margin': 0.0, 'gate_tau': 10.0}
    detached = _gradient(losses.pairwise_cringe, out, batch, detach_gate=True, **options)
    gate = _sigmoid(-0.4)
    _assert_near(detached, [[-gate / 45, 0.0, 0.0]])  # the contrast has a gradient of its own
    slope = gate * (1 - gate) / 10 * 13.0 / 45  # of the gate, times L_Bin
    whole = _gradient(losses.pairwise_cringe, out, batch, **options)
    _assert_near(whole, [[-gate / 45 - slope, slope, 0.0]])


def test_pairwise_cringe_without_a_loser_is_refused():
    with pytest.raises(ValueError, match='pairwise_cringe wants 2 responses an example, got 1'):
        losses.pairwise_cringe(_out([[-10.0]]), _batch([[-11.0]]), KEY)


def _contrast(logits, target, candidates, seed=0):
    """[M] from logits [M V]."""
    keys = jax.random.split(jax.random.key(seed), len(logits))
    logits = jnp.array(logits, jnp.float32)
    return logprobs.contrast(logits, jnp.array(target), keys, candidates)


def test_the_contrast_of_a_token_has_the_golden_value():
    # s* = 2.0 is the largest other logit, s = 1.5: -log σ(0.5)
    assert float(_contrast([[1.5, 2.0, -1.0]], [0], 1)[0]) == _near(0.47407698)
    # where the target is the largest itself, the next one is drawn: -log σ(1.5 - 2)
    assert float(_contrast([[1.5, 2.0, -1.0]], [1], 1)[0]) == _near(0.97407698)


def test_each_of_the_likeliest_others_is_drawn_as_often_as_the_softmax_of_the_logits_says():
    """Of k = 2, whether the target is among the largest or not; anew with every key."""
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    for target, drawn, left in ((0, (1, 2), 3), (3, (0, 1), 2)):
        values = np.asarray(_contrast(np.tile(logits, (4000, 1)), [target] * 4000, 2))
        expected = np.log1p(np.exp(logits[target] - logits))
        near = np.isclose(values[:, None], expected[None], rtol=1e-4)
        shares = near.mean(axis=0)
        odds = np.exp(logits[list(drawn)])
        np.testing.assert_allclose(shares[list(drawn)], odds / odds.sum(), atol=0.03)
        assert shares[left] == 0 and near.any(axis=1).all()


def test_the_contrast_moves_both_logits():
    def value(logits):
        return _contrast(logits, [0], 1)[0]

    grad = jax.grad(value)(jnp.array([[1.5, 2.0, -1.0]]))
    slope = _sigmoid(-0.5)
    _assert_near(grad, [[slope, -slope, 0.0]])


@pytest.mark.slow
def test_cringe_is_the_published_computation_on_a_batch_of_logits():
    """In numpy, from logits, with k = 1, whose draw is certain; over positives and negatives of
    different lengths, whatever micro-batch they lie in.
    """
    rng, (lm, params), alpha = np.random.default_rng(3), toy(), 0.7
    labels = rng.random(6) < 0.5
    assert 0 < labels.sum() < 6
    documents = [
        doc._replace(weight=1.0, labels=(float(label),))
        for doc, label in zip(docs(6, responses=1), labels)
    ]
    positions = sum(doc.response_length for doc in documents)
    total = 0.0
    for doc in documents:
        tokens = jnp.array([[*doc.prompt, *doc.responses[0]]])
        length = tokens.shape[1]
        mask = jnp.tril(jnp.ones((1, length, length), bool))
        hidden, _ = lm.module.apply({'params': params}, tokens, jnp.arange(length)[None], mask)
        logits = np.asarray(hidden[0] @ params['head'], np.float64)[len(doc.prompt) - 1 : -1]
        for row, target in zip(logits, doc.responses[0]):
            if doc.labels[0]:
                total += np.log(np.exp(row).sum()) - row[target]
            else:
                others = np.delete(row, target)
                total += alpha * np.log1p(np.exp(row[target] - others.max()))
    loss = functools.partial(losses.cringe, alpha=alpha, contrast=1)
    for accumulate in (1, 3):
        (batch,) = packing.batches(documents, batch=6, row_length=64, parts=accumulate)
        stacked = train_step.stack_micro_batches(batch, accumulate)
        assert step(lm, params, stacked, loss).loss == pytest.approx(total / positions, rel=1e-5)
