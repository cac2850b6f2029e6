"""Losses of a value head, which learns what a reward will be from the tokens so far (controlled
decoding, arXiv 2310.17022).

V(x, y^t) is the value of a prompt and the first t tokens of a response: the head's output for token
y_t where that token is predicted.
"""

import jax
import jax.numpy as jnp

from selfrew.engine import logprobs
from selfrew.engine.loss_contract import checked_by, of_frozen_trunk, reference_free
from selfrew.shelves.losses.responses import must_read


def _rewards(batch):
    """(the reward [B N] of each response, 0 where it has none; whether it has one [B N]).

    A response that was cut has none, whatever a scorer says of it.
    """
    has_reward_BN = ~jnp.isnan(batch.scores) & (batch.ended > 0)
    return jnp.where(has_reward_BN, batch.scores, 0.0), has_reward_BN


def _is_last(out, place):
    """[P S] Whether a selected token is the last one of its response; place: of response_places."""
    example_PS, response_PS, place_PS = place
    return place_PS == out.length[example_PS, response_PS] - 1


def _halved_squares(out, batch, target_PS, is_used_PS, is_used_BN):
    """(loss [B], metrics): half the squared errors, summed over each response's tokens, and the
    mean over the responses that are used.
    """
    error_PS = jnp.where(
        is_used_PS & (batch.mask > 0), out.value - jax.lax.stop_gradient(target_PS), 0.0
    )
    sum_BN = logprobs.response_sums(batch, 0.5 * error_PS**2)
    count_B = jnp.maximum(jnp.sum(is_used_BN, axis=1), 1.0)
    is_last_PS = _is_last(out, logprobs.response_places(batch))
    last_BN = logprobs.response_sums(batch, jnp.where(is_last_PS, out.value, 0.0))
    mean_BN = logprobs.response_sums(batch, out.value * batch.mask) / jnp.maximum(out.length, 1.0)
    reward_BN, has_reward_BN = _rewards(batch)
    final_error_BN = jnp.where(has_reward_BN, (last_BN - reward_BN) ** 2, 0.0)
    rewards_B = jnp.maximum(jnp.sum(has_reward_BN, axis=1), 1.0)
    metrics = {
        'values/mean': jnp.mean(mean_BN, axis=1),
        # How far the value of a whole response is from its reward, squared.
        'values/final_error': jnp.sum(final_error_BN, axis=1) / rewards_B,
        'values/rewarded': jnp.mean(has_reward_BN.astype(jnp.float32), axis=1),
    }
    return jnp.sum(jnp.where(is_used_BN, sum_BN, 0.0), axis=1) / count_B, metrics


@checked_by(must_read('value'))
@reference_free
def cd_fudge(out, batch, key, *, value: bool = True):
    """CD-FUDGE (arXiv 2310.17022, Eq. 5): ½ Σ_t (V(x, y^t) − r(x, y))², on samples of the
    reference.

    Every prefix is regressed on the reward of its whole response. A response without one, or cut by
    the token limit, is left out. Of several responses to a prompt, their mean.

    Args:
      value: True; the loss reads each token's value.
    """
    del key, value
    reward_BN, has_reward_BN = _rewards(batch)
    example_PS, response_PS, _ = logprobs.response_places(batch)
    response = example_PS, response_PS
    return _halved_squares(out, batch, reward_BN[response], has_reward_BN[response], has_reward_BN)


@checked_by(must_read('expect'))
@of_frozen_trunk
@reference_free
def cd_q(out, batch, key, *, expect: bool = True):
    """CD-Q (arXiv 2310.17022, Eq. 6): ½ Σ_t (V(x, y^t) − v_t)², v_t = Σ_z π(z|x, y^t) V(x, y^t z),
    and after the last token the reward. No gradient flows through v_t.

    The expectation is exact, under the model itself, which must be the reference and stay as it is:
    train.only='value'; or, of a model with adapters (model.lora), under the model without them,
    while they and the head learn the values. The samples may come from any policy. v_t belongs to
    the distribution that follows y_t, at the next place of the response. After the last token of a
    response without a reward, or cut by the token limit, there is no target. Of several responses
    to a prompt, their mean.

    Args:
      expect: True; the loss reads each token's value and its expectation.
    """
    del key, expect
    reward_BN, has_reward_BN = _rewards(batch)
    place = logprobs.response_places(batch)
    is_last_PS, response = _is_last(out, place), place[:2]
    # The tokens of a response lie one after another.
    next_PS = jnp.roll(out.expect, -1, axis=1)
    target_PS = jnp.where(is_last_PS, reward_BN[response], next_PS)
    is_used_PS = ~is_last_PS | has_reward_BN[response]
    return _halved_squares(out, batch, target_PS, is_used_PS, out.length > 0)
