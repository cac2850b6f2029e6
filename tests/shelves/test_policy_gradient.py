"""RLOO and GRPO: gradients against the exact objective, clipping by hand, groups as they come."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import of_tokens, packed
from toy_training import train
from toys import prompt, toy

from selfrew.engine import logprobs, trainer
from selfrew.shelves import losses, optimizers, pairs
from selfrew.types import Example, Judgement, Response, Rollout, State

KEY = jax.random.key(0)
RESPONSES = [(0,), (1, 0), (1, 1)]  # of a policy over two tokens, which ends after token 0
REWARDS = np.array([0.3, -1.0, 2.0])
THETA, REFERENCE = np.array([0.4, -0.7]), np.array([-0.2, 0.5])  # logits of token 1, by place


def _token_logps(theta):
    """The log-probs of each response's tokens."""
    places = jax.nn.log_sigmoid(-theta), jax.nn.log_sigmoid(theta)
    return [jnp.stack([places[token][t] for t, token in enumerate(r)]) for r in RESPONSES]


def _objective(theta, beta):
    """E[r] − β KL(π ‖ π_ref), over all responses."""
    logp = jnp.stack([tokens.sum() for tokens in _token_logps(theta)])
    ref = jnp.stack([tokens.sum() for tokens in _token_logps(REFERENCE)])
    return jnp.sum(jnp.exp(logp) * (REWARDS - beta * (logp - ref)))


def _expected_gradient(loss, size):
    """The gradient of a loss by theta, in expectation over all groups of so many responses."""
    groups = list(itertools.product(range(3), repeat=size))
    own, ref = _token_logps(THETA), _token_logps(REFERENCE)
    chance = [math.prod(float(jnp.exp(own[i].sum())) for i in group) for group in groups]
    scores = [[float(REWARDS[i]) for i in group] for group in groups]
    out, batch = packed(
        [[np.asarray(own[i]) for i in group] for group in groups],
        [[np.asarray(ref[i]) for i in group] for group in groups],
        scores=scores,
    )
    batch = batch._replace(old_token_logp=np.asarray(out.token_logp))

    def mean_loss(theta):
        # The log-prob of each token, as a function of theta: by place and token.
        tables = jnp.stack([jax.nn.log_sigmoid(-theta), jax.nn.log_sigmoid(theta)], axis=1)
        number = [
            [np.array([2 * t + k for t, k in enumerate(RESPONSES[i])]) for i in g] for g in groups
        ]
        index_PS = np.asarray(of_tokens(batch, number)).astype(int)
        token_logp = tables.reshape(-1)[index_PS] * batch.mask
        fields = {'token_logp': token_logp, 'logp': logprobs.response_sums(batch, token_logp)}
        loss_B, _ = loss(out._replace(**fields), batch, KEY)
        return jnp.sum(jnp.array(chance) * loss_B)

    return np.asarray(jax.grad(mean_loss)(jnp.array(THETA)))


@pytest.mark.parametrize('beta', [0.0, 0.3])
@pytest.mark.parametrize('size', [2, 3])
def test_the_gradient_of_rloo_is_that_of_the_objective(size, beta):
    """Also against finite differences of the objective."""
    exact = jax.grad(_objective)(jnp.array(THETA), beta)
    gradient = _expected_gradient(functools.partial(losses.rloo, beta=beta), size)
    np.testing.assert_allclose(gradient, -exact, atol=1e-6)
    steps = 1e-3 * np.eye(2)
    differences = [
        (_objective(THETA + step, beta) - _objective(THETA - step, beta)) / 2e-3 for step in steps
    ]
    np.testing.assert_allclose(gradient, -np.array(differences), atol=1e-3)


@pytest.mark.parametrize('size', [2, 3])
def test_grpo_without_scale_and_means_is_the_policy_gradient_but_for_a_factor(size):
    """A group's mean counts each sample itself, which leaves (n − 1)/n of the gradient; that of k₃
    is the gradient of KL(π_ref ‖ π).
    """
    loss = functools.partial(losses.grpo, mean='sum', scale=False, beta=0.0)
    exact = jax.grad(_objective)(jnp.array(THETA), 0.0)
    gradient = _expected_gradient(loss, size)
    np.testing.assert_allclose(gradient, -(size - 1) / size * exact, atol=1e-6)


def _group(policy, old, ref, scores):
    """(out, batch) of one group, of each response's tokens' log-probs."""
    out, batch = packed([policy], [ref], scores=[scores])
    return out, batch._replace(old_token_logp=np.asarray(of_tokens(batch, [old])))


def test_a_ratio_counts_within_the_clip_on_the_side_that_would_gain():
    """Ratios 1.5 and 0.5, and their mirror; A = ±1 for two rewards that differ by 1."""
    log = np.log
    old = [np.array([-2.0, -2.0]), np.array([-2.0, -2.0])]
    policy = [old[0] + log([1.5, 0.5]), old[1] + log([1.5, 0.5])]
    out, batch = _group(policy, old, old, (1.0, 0.0))
    out = out._replace(logp=jnp.array([[-4.0, -4.0]]))  # a KL of 0 in the reward
    loss, metrics = losses.rloo(out, batch, KEY, beta=0.1, clip=0.2)
    # winner: min(1.5, 1.2) + min(0.5, 0.8); loser: min(−1.5, −1.2) + min(−0.5, −0.8); mean of two
    assert float(loss[0]) == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 2, rel=1e-5)
    assert float(metrics['clipped'][0]) == pytest.approx(2 / 4)
    loss, metrics = losses.rloo(out, batch, KEY, beta=0.1, clip=0.0)
    assert float(loss[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(metrics['clipped'][0]) == 0.0


def test_rloo_and_grpo_have_the_values_of_their_equations():
    policy = [np.array([-1.0, -2.0]), np.array([-0.5]), np.array([-3.0])]
    ref = [np.array([-1.5, -1.0]), np.array([-1.0]), np.array([-3.0])]
    out, batch = _group(policy, policy, ref, (2.0, 1.0, 0.0))
    # R = r − 0.1 (log π − log π_ref): 2 + 0.05, 1 − 0.05, 0; A against the mean of the others
    rewards = np.array([2.05, 0.95, 0.0])
    advantage = 1.5 * (rewards - rewards.mean())
    loss, _ = losses.rloo(out, batch, KEY, beta=0.1)
    assert float(loss[0]) == pytest.approx(-(advantage * [2, 1, 1]).sum() / 3, rel=1e-5)
    # GRPO: A = 1, 0, −1 over a deviation of 1; k₃ of each token
    k3 = [np.exp(r - p) - (r - p) - 1 for r, p in zip(ref, policy)]
    own = [
        1 / (1 + 1e-4) - 0.5 * k3[0].mean(),
        -0.5 * k3[1].mean(),
        -1 / (1 + 1e-4) - 0.5 * k3[2].mean(),
    ]
    loss, metrics = losses.grpo(out, batch, KEY, beta=0.5)
    assert float(loss[0]) == pytest.approx(-np.mean(own), rel=1e-5)
    assert float(metrics['k3'][0]) == pytest.approx(np.concatenate(k3).mean(), rel=1e-5)
    by_token = -(2 / (1 + 1e-4) - 1 / (1 + 1e-4) - 0.5 * np.concatenate(k3).sum()) / 4
    loss, _ = losses.grpo(out, batch, KEY, beta=0.5, mean='token')
    assert float(loss[0]) == pytest.approx(by_token, rel=1e-5)


@pytest.mark.parametrize('name', ['rloo', 'grpo'])
def test_a_sample_without_a_score_takes_no_part_and_a_tie_moves_nothing(name):
    loss = functools.partial(getattr(losses, name), beta=0.0)
    tokens = [np.array([-1.0]), np.array([-2.0]), np.array([-0.5])]
    known, known_batch = _group(tokens[:2], tokens[:2], tokens[:2], (1.0, 0.0))
    out, batch = _group(tokens, tokens, tokens, (1.0, 0.0, np.nan))

    def gradient(out, batch):
        return jax.grad(lambda x: loss(out._replace(token_logp=x), batch, KEY)[0].sum())(
            out.token_logp
        )

    np.testing.assert_allclose(gradient(out, batch)[0][2], 0.0)
    if name == 'rloo':
        np.testing.assert_allclose(gradient(out, batch)[0][:2], gradient(known, known_batch)[0][:2])
    tied = _group(tokens, tokens, tokens, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(gradient(*tied), 0.0, atol=1e-6)
    with pytest.raises(ValueError, match=f'{name} wants 2 responses'):
        loss(*_group(tokens[:1], tokens[:1], tokens[:1], (1.0,)), KEY)


def _groups(count=8):
    """Groups of three answers of one length, so that any order packs alike."""
    return [
        Example(
            prompt([3, 4, 40 + i], f'p{i}'),
            tuple(Response(f'{10 + k} {30 + i}') for k in range(3)),
            (2.0, 1.0, 0.0),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize('name', ['rloo', 'grpo'])
def test_further_updates_are_measured_from_the_policy_that_sampled(name):
    """At the first update no ratio differs from 1; later some are clipped. The reference of all is
    the one asked for.
    """
    lm, params = toy()
    loss = functools.partial(getattr(losses, name), clip=0.1)
    _, _, rows = train(lm, params, _groups(), loss, epochs=6, lr=1e-2, batch=8)
    assert rows[0][1]['clipped'] == 0.0 and rows[0][1]['kl'] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1][1]['clipped'] > 0.1
    with pytest.raises(ValueError, match="reference='sampler'"):
        train(lm, params, _groups(), loss, reference='sampler')


def test_micro_batches_of_groups_add_up_to_the_update():
    lm, params = toy()
    loss, made = functools.partial(losses.grpo), []
    for accumulate in (1, 2):
        state, _ = trainer.train(
            lm,
            State(jax.tree.map(jnp.copy, params), None, 0, 0),
            _groups(),
            KEY,
            loss,
            lambda *_: None,
            optimizer=functools.partial(optimizers.sgd, clip=math.inf),
            lr=1e-2,
            batch=8,
            epochs=2,
            row_length=32,
            accumulate=accumulate,
        )
        made.append(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *made)


# --- groups -----------------------------------------------------------------------------------


def _judged(*scores):
    responses = tuple(Response(str(i), (i,)) for i in range(len(scores)))
    return Judgement(Rollout(prompt([3]), responses), scores)


def test_a_group_keeps_all_responses_best_first_and_those_without_a_verdict_last():
    (example,) = pairs.group(_judged(1.0, math.nan, 3.0, 1.0), None)
    assert [r.text for r in example.responses] == ['2', '0', '3', '1']
    assert example.scores[:3] == (3.0, 1.0, 1.0) and math.isnan(example.scores[3])
    assert not list(pairs.group(_judged(1.0, math.nan), None))
    assert not list(pairs.group(_judged(2.0, 2.0), None))
    assert len(list(pairs.group(_judged(2.0, 2.0), None, all_ties=True))) == 1


def test_ranks_of_a_group_are_shares_of_responses_that_are_no_better():
    (example,) = pairs.group(_judged(1.0, 5.0, math.nan, 1.0, 2.0), None, log_ranks=True)
    np.testing.assert_allclose(example.scores[:4], np.log([1.0, 0.75, 0.5, 0.5]))
    assert math.isnan(example.scores[4])
