"""KL-regularised reinforcement learning on groups of samples: max E[r] − β KL(π ‖ π_ref).

An example is a prompt with a group of N samples (pairs.group). Below, ratio is the probability of a
token under the policy over that before the turn's first update, which sampled it; A the advantage
of a response, without gradient.
"""

import jax
import jax.numpy as jnp

from selfrew.engine import logprobs
from selfrew.engine.loss_contract import checked_by, with_old_logp
from selfrew.shelves.losses.imitation import check_mean
from selfrew.shelves.losses.responses import must_read, want_responses


def _scored(batch):
    """(scores [B N], 0 where there is none; 1 where there is one [B N]; their number [B 1])."""
    is_scored_BN = ~jnp.isnan(batch.scores)
    count_B1 = jnp.sum(is_scored_BN, axis=1, keepdims=True).astype(jnp.float32)
    return jnp.where(is_scored_BN, batch.scores, 0.0), is_scored_BN.astype(jnp.float32), count_B1


def _clipped_gain(out, batch, advantage_BN, clip: float):
    """(min(ratio · A, clipped ratio · A) of each token [P S], whether it was clipped [P S])."""
    example_PS, response_PS, _ = logprobs.response_places(batch)
    advantage_PS = advantage_BN[example_PS, response_PS]
    ratio_PS = jnp.exp(jnp.where(batch.mask > 0, out.token_logp - batch.old_token_logp, 0.0))
    gain_PS = ratio_PS * advantage_PS * batch.mask
    if not clip:
        return gain_PS, jnp.zeros_like(gain_PS)
    clipped_PS = jnp.clip(ratio_PS, 1.0 - clip, 1.0 + clip) * advantage_PS * batch.mask
    return jnp.minimum(gain_PS, clipped_PS), (clipped_PS < gain_PS).astype(jnp.float32)


def _metrics(out, batch, advantage_BN, clipped_PS) -> dict:
    tokens_B = jnp.maximum(jnp.sum(out.length, axis=1), 1.0)
    scores_BN, is_scored_BN, count_B1 = _scored(batch)
    count_B = jnp.maximum(count_B1[:, 0], 1.0)
    return {
        'rewards/mean': jnp.sum(scores_BN, axis=1) / count_B,
        'rewards/scored': jnp.mean(is_scored_BN, axis=1),
        'advantages/size': jnp.sum(jnp.abs(advantage_BN), axis=1) / count_B,
        'kl': jnp.mean(out.logp - batch.ref_logp, axis=1),  # of the samples, in nats
        'clipped': jnp.sum(logprobs.response_sums(batch, clipped_PS), axis=1) / tokens_B,
        'nll': -jnp.sum(out.logp, axis=1) / tokens_B,
        'lengths/mean': jnp.mean(out.length, axis=1),
    }


@checked_by(must_read('token_logp'))
@with_old_logp
def rloo(out, batch, key, *, beta: float = 0.05, clip: float = 0.2, token_logp: bool = True):
    """REINFORCE leave-one-out (arXiv 2402.14740, §3) with the KL to the reference in the reward.

    −(1/N) Σ_i Σ_t min(ratio A_i, clip(ratio) A_i), with A_i = R_i − the mean of the other R_j, and
    R = r − β(log π(y|x) − log π_ref(y|x)). At the first update, where ratio is 1, its gradient is
    an unbiased estimate of that of −(E[r] − β KL(π ‖ π_ref)). A sample without a score is left out.

    Args:
      beta: β, strength of the tie to the reference.
      clip: ε of PPO (arXiv 1707.06347, Eq. 7), for further updates on the same samples: a token's
        ratio counts between 1 − ε and 1 + ε; 0: no clipping.
      token_logp: True; the loss reads each token's log-probability.
    Raises ValueError for examples with a single response.
    """
    del key, token_logp
    want_responses(out, 'rloo')
    scores_BN, is_scored_BN, count_B1 = _scored(batch)
    kl_BN = jax.lax.stop_gradient(out.logp) - batch.ref_logp
    reward_BN = (scores_BN - beta * kl_BN) * is_scored_BN
    others_BN = jnp.sum(reward_BN, axis=1, keepdims=True) - reward_BN
    advantage_BN = reward_BN - others_BN / jnp.maximum(count_B1 - 1.0, 1.0)
    # Of a sample without others there is nothing to learn.
    advantage_BN = jnp.where(count_B1 > 1, advantage_BN * is_scored_BN, 0.0)
    gain_PS, clipped_PS = _clipped_gain(out, batch, advantage_BN, clip)
    loss_B = -jnp.sum(logprobs.response_sums(batch, gain_PS), axis=1)
    loss_B /= jnp.maximum(count_B1[:, 0], 1.0)
    return loss_B, _metrics(out, batch, advantage_BN, clipped_PS)


@checked_by(must_read('token_logp'))
@with_old_logp
def grpo(
    out,
    batch,
    key,
    *,
    beta: float = 0.04,
    clip: float = 0.2,
    mean: str = 'sequence',
    scale: bool = True,
    token_logp: bool = True,
):
    """Group relative policy optimisation (arXiv 2402.03300, Eq. 3-4).

    −(1/N) Σ_i 1/|y_i| Σ_t [min(ratio A_i, clip(ratio) A_i) − β k₃]. A_i = (r_i − the group's mean)
    / its standard deviation; k₃ = π_ref/π − log(π_ref/π) − 1 of each token, with gradient. A sample
    without a score has no advantage; its KL counts.

    Args:
      beta: β, strength of the tie to the reference.
      clip: ε, see `rloo`.
      mean: over tokens: 'sequence', of each sample by its own length (GRPO); 'token', over all
        tokens of the update (DAPO, arXiv 2503.14476, Eq. 12); 'sum', no mean (Dr. GRPO, arXiv
        2503.20783, up to a constant).
      scale: divides by the standard deviation, n − 1 in its divisor, plus 1e-4; False as in Dr.
        GRPO.
      token_logp: True; the loss reads each token's log-probability.
    Raises ValueError for examples with a single response, or for another mean.
    """
    del key, token_logp
    want_responses(out, 'grpo')
    check_mean(mean)
    scores_BN, is_scored_BN, count_B1 = _scored(batch)
    mean_B1 = jnp.sum(scores_BN, axis=1, keepdims=True) / jnp.maximum(count_B1, 1.0)
    advantage_BN = (scores_BN - mean_B1) * is_scored_BN
    if scale:
        squares_B1 = jnp.sum(advantage_BN**2, axis=1, keepdims=True)
        advantage_BN /= jnp.sqrt(squares_B1 / jnp.maximum(count_B1 - 1.0, 1.0)) + 1e-4
    gain_PS, clipped_PS = _clipped_gain(out, batch, advantage_BN, clip)
    behind_PS = jnp.where(batch.mask > 0, batch.ref_token_logp - out.token_logp, 0.0)
    k3_PS = jnp.exp(behind_PS) - behind_PS - 1.0
    sum_BN = -logprobs.response_sums(batch, gain_PS - beta * k3_PS)
    if mean == 'sequence':
        loss_B = jnp.mean(sum_BN / jnp.maximum(out.length, 1.0), axis=1)
    elif mean == 'token':
        loss_B = jnp.sum(sum_BN, axis=1) * batch.count / jnp.maximum(jnp.sum(batch.lengths), 1.0)
    else:
        loss_B = jnp.mean(sum_BN, axis=1)
    k3_B = jnp.sum(logprobs.response_sums(batch, k3_PS), axis=1)
    metrics = _metrics(out, batch, advantage_BN, clipped_PS)
    return loss_B, metrics | {'k3': k3_B / jnp.maximum(jnp.sum(out.length, axis=1), 1.0)}
