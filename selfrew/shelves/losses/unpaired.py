"""Losses on single responses that are labelled desirable or undesirable."""

import jax
import jax.numpy as jnp

from selfrew.engine.loss_contract import with_mismatched
from selfrew.shelves.losses.responses import is_positive


@with_mismatched
def kto(
    out,
    batch,
    key,
    *,
    beta: float = 0.1,
    desirable: float = 1.0,
    undesirable: float = 1.0,
):
    """Kahneman-Tversky optimisation (arXiv 2402.01306, Eq. 7-8).

    λ_D (1 − σ(β(ratio − z₀))) of a desirable response, λ_U (1 − σ(β(z₀ − ratio))) of another, and
    of several responses their mean. z₀ estimates the KL from the reference: the mean ratio of
    mismatched responses, at least 0, over the examples of the batch (with train.accumulate, of each
    micro-batch). No gradient flows through it.

    The label decides (pairs.singles with `label_at`); of responses without one, the first of an
    example is desirable and others are not, so that pairs serve as they are.

    Args:
      beta: strength of the tie to the reference.
      desirable, undesirable: λ_D and λ_U. The paper keeps λ_D n_D / (λ_U n_U) from 1 to 4/3.
    """
    del key
    ratio_BN = out.logp - batch.ref_logp
    kl = jnp.sum(ratio_BN[:, -1] * batch.real) / jnp.maximum(jnp.sum(batch.real), 1.0)
    kl = jax.lax.stop_gradient(jnp.maximum(kl, 0.0))
    ratio_BN, is_desirable_BN = ratio_BN[:, :-1], is_positive(batch.labels[:, :-1])
    loss_BN = jnp.where(
        is_desirable_BN,
        desirable * jax.nn.sigmoid(beta * (kl - ratio_BN)),
        undesirable * jax.nn.sigmoid(beta * (ratio_BN - kl)),
    )
    side_BN = jnp.where(is_desirable_BN, 1.0, -1.0)
    metrics = {
        'kl': jnp.full(len(loss_BN), kl),
        'desirable': jnp.mean(is_desirable_BN.astype(jnp.float32), axis=1),
        # How far responses lie on their side of z₀, and whether they do.
        'rewards/signed': jnp.mean(beta * side_BN * (ratio_BN - kl), axis=1),
        'rewards/accuracies': jnp.mean((side_BN * (ratio_BN - kl) > 0).astype(jnp.float32), axis=1),
    }
    return jnp.mean(loss_BN, axis=1), metrics
