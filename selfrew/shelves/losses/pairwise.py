"""Preference losses on the summed log-probabilities of a winner and a loser."""

import chex
import jax
import jax.numpy as jnp

from selfrew.shelves.losses.reported import entropies, pair_metrics


def check_tau(tau: float) -> None:
    """Raises ValueError unless tau > 0."""
    if not tau > 0:
        raise ValueError(f'{tau}: want more than 0')


def dpo(
    out,
    batch,
    key,
    *,
    beta: float = 0.1,
    smoothing: float = 0.0,
    nll: float = 0.0,
    explore: float = 0.0,
    entropy: bool = False,
):
    """Direct preference optimisation and its extensions, on summed log-probabilities.

    −log σ(margin), margin = β(ratio_w − ratio_l) (Rafailov et al. 2023, Eq. 7).

    Args:
      beta: strength of the tie to the reference.
      smoothing: ε of conservative DPO: −(1−ε) log σ(margin) − ε log σ(−margin).
      nll: α of IRPO (arXiv 2404.19733, Eq. 1): adds α · NLL(winner) / its length.
      explore: α of SELM (arXiv 2405.19332, Eq. 4.2): adds αβ · ratio of the third response, which
        *lowers* its likelihood.
      entropy: logs the mean entropy, in nats a token, of the distributions that predict the winner
        and the loser.
    Raises ValueError where examples have no loser, or no third response for `explore`.
    """
    del key
    chex.assert_rank([out.logp, out.length, batch.ref_logp], 2)
    N, least = out.logp.shape[1], 3 if explore else 2
    if N < least:
        raise ValueError(f'dpo with explore={explore} wants {least} responses an example, got {N}')
    ratio_BN = out.logp - batch.ref_logp
    reward_BN = beta * ratio_BN
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    right_B, wrong_B = jax.nn.log_sigmoid(margin_B), jax.nn.log_sigmoid(-margin_B)
    loss_B = -(1.0 - smoothing) * right_B - smoothing * wrong_B
    metrics = {'dpo': loss_B}
    nll_B = -out.logp[:, 0] / jnp.maximum(out.length[:, 0], 1.0)
    loss_B = loss_B + nll * nll_B
    if explore:
        loss_B = loss_B + explore * reward_BN[:, 2]
        metrics['logps/explored'] = out.logp[:, 2]
    metrics |= entropies(out, 'chosen', 'rejected') if entropy else {}
    return loss_B, metrics | pair_metrics(out, reward_BN, beta)


def ipo(out, batch, key, *, tau: float = 0.1, average: bool = False, entropy: bool = False):
    """Identity preference optimisation: (h − 1/(2τ))², h = ratio_w − ratio_l.

    It stops at a margin, where DPO goes on (Azar et al. 2023, arXiv 2310.12036, Eq. 17).

    Args:
      tau: τ, strength of the tie to the reference; the margin aimed at is 1/(2τ) nats.
      average: takes ratios of mean log-probabilities a token, as TRL does, instead of summed ones.
      entropy: logs the mean entropy, in nats a token, of the distributions that predict the winner
        and the loser.
    Raises ValueError where examples have no loser, or for a tau that is not positive.
    """
    del key
    check_tau(tau)
    chex.assert_rank([out.logp, out.length, batch.ref_logp], 2)
    if (N := out.logp.shape[1]) < 2:
        raise ValueError(f'ipo wants 2 responses an example, got {N}')
    per_BN = 1.0 / jnp.maximum(out.length, 1.0) if average else jnp.ones_like(out.length)
    ratio_BN = (out.logp - batch.ref_logp) * per_BN
    loss_B = (ratio_BN[:, 0] - ratio_BN[:, 1] - 1.0 / (2.0 * tau)) ** 2
    metrics = entropies(out, 'chosen', 'rejected') if entropy else {}
    return loss_B, metrics | pair_metrics(out, tau * ratio_BN, tau * per_BN)
