"""Preference losses on a winner and a loser that need no reference."""

import jax
import jax.numpy as jnp

from selfrew.engine.loss_contract import reference_free
from selfrew.shelves.losses.reported import pair_metrics
from selfrew.shelves.losses.responses import per_token, want_responses


def _means(out, loss: str):
    """Mean log-prob a token [B N]. Raises ValueError where examples have no loser."""
    want_responses(out, loss)
    return out.logp / jnp.maximum(out.length, 1.0)


@reference_free
def simpo(out, batch, key, *, beta: float = 2.0, gamma: float = 1.0):
    """SimPO (arXiv 2405.14734, Eq. 6): −log σ(β(mean log-prob of w − that of l) − γ).

    Args:
      beta: the reward of a nat a token. gamma: γ, the margin aimed at, in rewards.
    Raises ValueError where examples have no loser.
    """
    del batch, key
    reward_BN = beta * _means(out, 'simpo')
    loss_B = -jax.nn.log_sigmoid(reward_BN[:, 0] - reward_BN[:, 1] - gamma)
    return loss_B, pair_metrics(out, reward_BN, beta * per_token(out))


@reference_free
def orpo(out, batch, key, *, odds: float = 0.1):
    """ORPO (arXiv 2403.07691, Eq. 6): NLL of the winner a token − λ log σ(log of the odds ratio).

    The odds of a response are p / (1 − p), p the geometric mean of its tokens' probabilities.

    Args:
      odds: λ, the weight of the second term (β in TRL).
    Raises ValueError where examples have no loser.
    """
    del batch, key
    mean_BN = _means(out, 'orpo')
    # log(1 − p), exact for p near 0 and near 1; of p = 1, where it is −inf, the limit of rounding.
    below_BN = jnp.minimum(mean_BN, -1e-7)
    rest_BN = jnp.where(
        below_BN > -jnp.log(2.0),
        jnp.log(-jnp.expm1(below_BN)),
        jnp.log1p(-jnp.exp(jnp.minimum(below_BN, -0.5))),
    )
    log_odds_BN = mean_BN - rest_BN
    ratio_B = log_odds_BN[:, 0] - log_odds_BN[:, 1]
    loss_B = -mean_BN[:, 0] - odds * jax.nn.log_sigmoid(ratio_B)
    metrics = pair_metrics(out, odds * mean_BN, odds * per_token(out))
    return loss_B, metrics | {'log_odds': ratio_B}
