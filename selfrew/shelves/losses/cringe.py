"""Losses that contrast the tokens of negatives with what the model would say instead.

For each token of a negative, one of the model's k likeliest other tokens is drawn, anew in each
update, and is to have the larger logit; see engine.logprobs.contrast.
"""

import jax
import jax.numpy as jnp

from selfrew.engine.loss_contract import reference_free
from selfrew.shelves.losses.reported import pair_metrics
from selfrew.shelves.losses.responses import is_positive, per_token, want_responses

NORMS = 'sum', 'mean'


def check_margin_norm(margin_norm: str) -> None:
    """Raises ValueError for a norm of the margin that `pairwise_cringe` does not have."""
    if margin_norm not in NORMS:
        raise ValueError(f'no margin_norm {margin_norm!r}; there are: {", ".join(NORMS)}')


def _terms(out, batch, alpha: float):
    """(cross-entropy + α · contrast [B], the metrics of both).

    Each is summed over tokens, and divided by the tokens of all examples of the update in either
    mask, so that the mean over examples is the mean over these tokens.
    """
    logp_BN, contrast_BN, length_BN = out.logp[:, :2], out.contrast[:, :2], out.length[:, :2]
    is_positive_BN = is_positive(batch.labels[:, :2])
    ce_B = jnp.sum(jnp.where(is_positive_BN, -logp_BN, 0.0), axis=1)
    contrast_B = jnp.sum(jnp.where(is_positive_BN, 0.0, contrast_BN), axis=1)
    positives_B = jnp.sum(jnp.where(is_positive_BN, length_BN, 0.0), axis=1)
    negatives_B = jnp.sum(jnp.where(is_positive_BN, 0.0, length_BN), axis=1)
    scale = batch.count / jnp.maximum(jnp.sum(batch.lengths[:2]), 1.0)
    metrics = {
        'nll': ce_B / jnp.maximum(positives_B, 1.0),
        'contrast': contrast_B / jnp.maximum(negatives_B, 1.0),
        'lengths/chosen': positives_B,
        'lengths/rejected': negatives_B,
    }
    return scale * (ce_B + alpha * contrast_B), metrics


@reference_free
def cringe(out, batch, key, *, alpha: float = 1.0, contrast: int = 1):
    """Binary CRINGE (arXiv 2211.05826): cross-entropy on positives, and on each token of negatives
    α · −log σ(s* − s), s the token's logit and s* that of the token drawn instead.

    Summed over the tokens of the update and divided by their number. Of a pair, the first response
    is positive and the second negative; of singles, the label decides, and one without is positive.

    Args:
      alpha: α, the weight of the negatives.
      contrast: k, how many of the likeliest other tokens are drawn from.
    """
    del key
    return _terms(out, batch, alpha)


@reference_free
def pairwise_cringe(
    out,
    batch,
    key,
    *,
    alpha: float = 0.005,
    contrast: int = 5,
    margin: float = -10.0,
    gate_tau: float = 10.0,
    detach_gate: bool = False,
    margin_norm: str = 'sum',
):
    """Pairwise CRINGE, of PCO (arXiv 2312.16682): g · (cross-entropy of the winner + α · contrast
    of the loser), with the gate g = σ((b − M) / τ), M = log π(y_w|x) − log π(y_l|x).

    The gate closes where the winner is already likelier than the loser by more than b. There is no
    reference. That a gate on the sequence's margin weighs the token contrast is published; the form
    of M, the gradient through the gate, and all default values here are recollections that could
    not be verified: tune them. The sum over tokens is normalised as in `cringe`.

    Args:
      alpha, contrast: as in `cringe`.
      margin: b, the margin at which the gate is half open, in nats (a token, for 'mean').
      gate_tau: τ, how softly it closes, in the same unit.
      detach_gate: no gradient flows through the gate; else it widens the margin, too.
      margin_norm: log-probabilities of M: 'sum' over the tokens, or their 'mean'.
    Raises ValueError where examples have no loser, or for another margin_norm.
    """
    del key
    check_margin_norm(margin_norm)
    want_responses(out, 'pairwise_cringe')
    nat_BN = per_token(out) if margin_norm == 'mean' else jnp.ones_like(out.length)
    reward_BN = nat_BN * out.logp
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    gate_B = jax.nn.sigmoid((margin - margin_B) / gate_tau)
    if detach_gate:
        gate_B = jax.lax.stop_gradient(gate_B)
    loss_B, metrics = _terms(out, batch, alpha)
    return gate_B * loss_B, pair_metrics(out, reward_BN, nat_BN) | metrics | {'gate': gate_B}
