"""Losses. The shelf's contract: (out, batch, key, *, …) -> (loss_B, metrics).

`out.logp` [B N] are summed log-probabilities, best response first; `batch.ref_logp` [B N] those of
the reference. `loss_B` is the loss of each example; the train step takes its mean over B once,
weighted by `batch.weight`. `metrics` are [B] arrays, averaged without the weights. A loss is a pure
function of its arguments; `key` is for losses that draw.

A loss requests an optional field of `out` by a keyword argument with the field's name: `entropy`,
`contrast`, or `expect`, which `value` comes with. A value that is not 0, False or None says how the
field is computed (logprobs.measure); otherwise the field is None and costs nothing.
"""

import chex
import jax
import jax.numpy as jnp

from selfrew.engine.loss_contract import reference_free

MEANS = 'token', 'sequence', 'sum'


def check_mean(mean: str) -> None:
    """Raises ValueError for a mean that `sft` does not have."""
    if mean not in MEANS:
        raise ValueError(f'no mean {mean!r}; there are: {", ".join(MEANS)}')


def check_tau(tau: float) -> None:
    """Raises ValueError unless tau > 0."""
    if not tau > 0:
        raise ValueError(f'{tau}: want more than 0')


@reference_free
def sft(out, batch, key, *, mean: str = 'token', entropy: bool = False):
    """Negative log-likelihood of the best response.

    Args:
      mean: 'token', over all tokens of the update; 'sequence', over each response's own tokens;
        'sum', no mean.
      entropy: logs the mean entropy, in nats a token, of the distributions that predict the
        response.
    Raises ValueError for another mean.
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
    """The mean entropy, in nats a token, of the first responses, under their names."""
    return {
        f'entropy/{name}': out.entropy[:, i] / jnp.maximum(out.length[:, i], 1.0)
        for i, name in enumerate(names)
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
    metrics |= _entropies(out, 'chosen', 'rejected') if entropy else {}
    return loss_B, metrics | _pair_metrics(out, reward_BN, beta)


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
    metrics = _entropies(out, 'chosen', 'rejected') if entropy else {}
    return loss_B, metrics | _pair_metrics(out, tau * ratio_BN, tau * per_BN)


# Nats, times the root of the tokens: the noise between the log-probabilities of two programs. On an
# H100 in float32, whose products are TF32, one first margin of 32 exceeded 1e-5 nats a token.
ROUNDING = 2e-4


def _pair_metrics(out, reward_BN, nat_BN) -> dict:
    """What preference losses log of winners and losers, given the implicit rewards.

    A pair whose margin is 0 up to rounding, as in the first update, is half right.

    nat_BN: the reward of a nat above the reference, to tell a margin from rounding.
    """
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    rounding_B = ROUNDING * jnp.sqrt(jnp.sum((nat_BN**2 * out.length)[:, :2], axis=1))
    right_B = jnp.where(jnp.abs(margin_B) <= rounding_B, 0.5, margin_B > 0)
    return {
        'nll': -out.logp[:, 0] / jnp.maximum(out.length[:, 0], 1.0),
        'rewards/chosen': reward_BN[:, 0],
        'rewards/rejected': reward_BN[:, 1],
        'rewards/margins': margin_B,
        'rewards/accuracies': right_B,
        'logps/chosen': out.logp[:, 0],
        'logps/rejected': out.logp[:, 1],
        'lengths/chosen': out.length[:, 0],
        'lengths/rejected': out.length[:, 1],
    }
