"""Losses. Layer 1. The shelf's contract: (out, batch, key, *, …) -> (loss_B, metrics).

`out.logp` [B N] are summed log-probabilities, best response first; `batch.ref_logp` [B N] the
reference's. `loss_B` is per example, to be minimised; update takes the mean over B once, weighted
by `batch.weight`. `metrics` are [B] arrays, averaged alike but unweighted. A loss is a pure
function of what it is given; `key` is for losses that draw.

A loss asks for an optional field of `out` by a keyword argument of that name: where it is set, the
field is computed, as the value says (logprobs.measure); where it is 0, False or None, the field is
None and nothing is computed.
"""

import chex
import jax
import jax.numpy as jnp

from selfrew.engine.loss_contract import reference_free

MEANS = 'token', 'sequence', 'sum'


def check_mean(mean: str) -> None:
    """ValueError where `sft` knows no such mean."""
    if mean not in MEANS:
        raise ValueError(f'no mean {mean!r}; there are: {", ".join(MEANS)}')


@reference_free
def sft(out, batch, key, *, mean: str = 'token', entropy: bool = False):
    """Negative log-likelihood of the best response.

    Args:
      mean: 'token', averaged over the update's tokens; 'sequence', over each response's own; 'sum',
        not averaged.
      entropy: log the mean entropy of the distributions that the response's tokens were predicted
        by.
    """
    del key
    chex.assert_rank([out.logp, out.length], 2)
    nll_B, length_B = -out.logp[:, 0], jnp.maximum(out.length[:, 0], 1.0)
    check_mean(mean)
    if mean == 'token':
        loss_B = nll_B * batch.count / jnp.maximum(batch.lengths[0], 1.0)
    elif mean == 'sequence':
        loss_B = nll_B / length_B
    else:
        loss_B = nll_B
    metrics = {
        'nll': nll_B / length_B,
        'logps/chosen': out.logp[:, 0],
        'lengths/chosen': out.length[:, 0],
    }
    return loss_B, metrics | (_entropies(out, 'chosen') if entropy else {})


def _entropies(out, *names) -> dict:
    """Nats a token of the first responses."""
    return {
        f'entropy/{name}': out.entropy[:, n] / jnp.maximum(out.length[:, n], 1.0)
        for n, name in enumerate(names)
    }


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
    """Direct preference optimisation on summed log-probabilities, −log σ(margin), margin =
    β(ratio_w − ratio_l).

    Rafailov et al. 2023, Eq. 7, and what is built on it:
    Args:
      beta: strength of the tie to the reference.
      smoothing: ε of conservative DPO, −(1−ε) log σ(margin) − ε log σ(−margin).
      nll: α of IRPO (arXiv 2404.19733, Eq. 1), + α · NLL(winner) / its length.
      explore: α of SELM (arXiv 2405.19332, Eq. 4.2), + αβ · ratio of the third response: *lowers*
        its likelihood.
      entropy: log the mean entropy of the distributions that the winner's and the loser's tokens
        were predicted by.
    Raises ValueError where the examples have no loser, or `explore` has no third response.
    """
    del key
    chex.assert_rank([out.logp, out.length, batch.ref_logp], 2)
    n = out.logp.shape[1]
    if n < 2 or (explore and n < 3):
        raise ValueError(
            f'dpo with explore={explore} wants {3 if explore else 2} responses an example, got {n}'
        )
    ratio_BN = out.logp - batch.ref_logp
    reward_BN = beta * ratio_BN
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    loss_B = -(1.0 - smoothing) * jax.nn.log_sigmoid(margin_B) - smoothing * jax.nn.log_sigmoid(
        -margin_B
    )
    metrics = {'dpo': loss_B}
    nll_B = -out.logp[:, 0] / jnp.maximum(out.length[:, 0], 1.0)
    loss_B = loss_B + nll * nll_B
    if explore:
        loss_B = loss_B + explore * reward_BN[:, 2]
        metrics['logps/explored'] = out.logp[:, 2]
    metrics |= _entropies(out, 'chosen', 'rejected') if entropy else {}
    return loss_B, metrics | {
        'nll': nll_B,
        'rewards/chosen': reward_BN[:, 0],
        'rewards/rejected': reward_BN[:, 1],
        'rewards/margins': margin_B,
        'rewards/accuracies': (margin_B > 0).astype(jnp.float32),
        'logps/chosen': out.logp[:, 0],
        'logps/rejected': out.logp[:, 1],
        'lengths/chosen': out.length[:, 0],
        'lengths/rejected': out.length[:, 1],
    }
