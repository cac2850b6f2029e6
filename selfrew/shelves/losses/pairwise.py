"""Preference losses on the summed log-probabilities of a winner and a loser, against a reference.

Below, ratio = log π(y|x) − log π_ref(y|x), and margin = β(ratio_w − ratio_l).
"""

import chex
import jax
import jax.numpy as jnp

from selfrew.engine import logprobs
from selfrew.engine.loss_contract import checked_by
from selfrew.shelves.losses.reported import entropies, pair_metrics
from selfrew.shelves.losses.responses import must_read, per_token, want_responses


def check_tau(tau: float) -> None:
    """Raises ValueError unless tau > 0."""
    if not tau > 0:
        raise ValueError(f'{tau}: want more than 0')


def _ratios(out, batch, loss: str, least: int = 2):
    """The ratios [B N]. Raises ValueError where examples have fewer responses than `least`."""
    chex.assert_rank([out.logp, out.length, batch.ref_logp], 2)
    want_responses(out, loss, least)
    return out.logp - batch.ref_logp


def _rewards(out, batch, loss: str, beta: float):
    """(β · ratio [B N], the metrics of pairs)."""
    reward_BN = beta * _ratios(out, batch, loss)
    return reward_BN, pair_metrics(out, reward_BN, beta)


def dpo(
    out,
    batch,
    key,
    *,
    beta: float = 0.1,
    average: bool = False,
    smoothing: float = 0.0,
    length: float = 0.0,
    nll: float = 0.0,
    explore: float = 0.0,
    entropy: bool = False,
):
    """Direct preference optimisation and its extensions, on summed log-probabilities.

    −log σ(margin), margin = β(ratio_w − ratio_l) (Rafailov et al. 2023, Eq. 7).

    Args:
      beta: strength of the tie to the reference.
      average: takes ratios of mean log-probabilities a token, as length-normalised DPO.
      smoothing: ε of conservative DPO: −(1−ε) log σ(margin) − ε log σ(−margin).
      length: α of R-DPO (arXiv 2403.19159): adds α(|y_w| − |y_l|), in tokens, to the margin,
        so that a pair whose winner is longer is taken to say less.
      nll: α of IRPO (arXiv 2404.19733, Eq. 1): adds α · NLL(winner) / its length.
      explore: α of SELM (arXiv 2405.19332, Eq. 4.2): adds αβ · ratio of the third response, which
        *lowers* its likelihood.
      entropy: logs the mean entropy, in nats a token, of the distributions that predict the winner
        and the loser.
    Raises ValueError where examples have no loser, or no third response for `explore`.
    """
    del key
    ratio_BN = _ratios(out, batch, f'dpo with explore={explore}', 3 if explore else 2)
    nat_BN = beta * (per_token(out) if average else jnp.ones_like(out.length))
    reward_BN = nat_BN * ratio_BN
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    margin_B += length * (out.length[:, 0] - out.length[:, 1])
    right_B, wrong_B = jax.nn.log_sigmoid(margin_B), jax.nn.log_sigmoid(-margin_B)
    loss_B = -(1.0 - smoothing) * right_B - smoothing * wrong_B
    metrics = {'dpo': loss_B}
    nll_B = -out.logp[:, 0] / jnp.maximum(out.length[:, 0], 1.0)
    loss_B = loss_B + nll * nll_B
    if explore:
        loss_B = loss_B + explore * beta * ratio_BN[:, 2]
        metrics['logps/explored'] = out.logp[:, 2]
    metrics |= entropies(out, 'chosen', 'rejected') if entropy else {}
    return loss_B, metrics | pair_metrics(out, reward_BN, nat_BN)


@checked_by(must_read('token_logp'))
def ld_dpo(out, batch, key, *, beta: float = 0.1, tail: float = 0.5, token_logp: bool = True):
    """Length-desensitised DPO (arXiv 2409.06411): of the longer response, the tokens beyond
    the length of the shorter one count `tail`-fold.

    Args:
      beta: as in `dpo`.
      tail: α, from 0 (these tokens do not count) to 1 (DPO).
      token_logp: True; the loss reads each token's log-probability.
    Raises ValueError where examples have no loser, or for token_logp=False when it is bound.
    """
    del key, token_logp
    _ratios(out, batch, 'ld_dpo')
    example_PS, _, place_PS = logprobs.response_places(batch)
    shared_B = jnp.minimum(out.length[:, 0], out.length[:, 1])
    weight_PS = jnp.where(place_PS < shared_B[example_PS], 1.0, tail)
    ratio_PS = out.token_logp - batch.ref_token_logp
    reward_BN = beta * logprobs.response_sums(batch, weight_PS * ratio_PS)
    loss_B = -jax.nn.log_sigmoid(reward_BN[:, 0] - reward_BN[:, 1])
    return loss_B, pair_metrics(out, reward_BN, beta)


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
    per_BN = per_token(out) if average else jnp.ones_like(out.length)
    ratio_BN = _ratios(out, batch, 'ipo') * per_BN
    loss_B = (ratio_BN[:, 0] - ratio_BN[:, 1] - 1.0 / (2.0 * tau)) ** 2
    metrics = entropies(out, 'chosen', 'rejected') if entropy else {}
    return loss_B, metrics | pair_metrics(out, tau * ratio_BN, tau * per_BN)


def hinge(out, batch, key, *, beta: float = 0.1):
    """Hinge loss on the margin, as SLiC (arXiv 2305.10425): max(0, 1 − margin).

    Args:
      beta: as in `dpo`; the margin aimed at is 1/β nats.
    Raises ValueError where examples have no loser.
    """
    del key
    reward_BN, metrics = _rewards(out, batch, 'hinge', beta)
    return jax.nn.relu(1.0 - (reward_BN[:, 0] - reward_BN[:, 1])), metrics


def _check_robust(*, smoothing: float = 0.1, **_) -> None:
    if smoothing >= 0.5:
        raise ValueError(f'smoothing={smoothing}: want less than 0.5')


@checked_by(_check_robust)
def robust_dpo(out, batch, key, *, beta: float = 0.1, smoothing: float = 0.1):
    """DPO made unbiased for labels that are flipped with a known probability (arXiv
    2403.00409): (−(1−ε) log σ(margin) + ε log σ(−margin)) / (1 − 2ε).

    Args:
      beta: as in `dpo`. smoothing: ε, the probability of a flipped pair, below 0.5.
    Raises ValueError where examples have no loser, or for smoothing=0.5 when it is bound.
    """
    del key
    reward_BN, metrics = _rewards(out, batch, 'robust_dpo', beta)
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    right_B, wrong_B = jax.nn.log_sigmoid(margin_B), jax.nn.log_sigmoid(-margin_B)
    return (smoothing * wrong_B - (1.0 - smoothing) * right_B) / (1.0 - 2.0 * smoothing), metrics


def dpop(out, batch, key, *, beta: float = 0.1, penalty: float = 50.0):
    """DPO-Positive (arXiv 2402.13228): where the winner is less likely than under the
    reference, the margin is lowered by βλ · max(0, −ratio_w).

    Args:
      beta: as in `dpo`. penalty: λ.
    Raises ValueError where examples have no loser.
    """
    del key
    reward_BN, metrics = _rewards(out, batch, 'dpop', beta)
    fallen_B = jax.nn.relu(-reward_BN[:, 0])
    loss_B = -jax.nn.log_sigmoid(reward_BN[:, 0] - reward_BN[:, 1] - penalty * fallen_B)
    return loss_B, metrics | {'fallen': fallen_B / beta}


def _check_exo(*, smoothing: float = 1e-3, **_) -> None:
    if smoothing <= 0:
        raise ValueError(f'smoothing={smoothing}: want more than 0')


@checked_by(_check_exo)
def exo(out, batch, key, *, beta: float = 0.1, smoothing: float = 1e-3):
    """EXO of pairs (arXiv 2402.00856, Eq. 16): the reverse KL from σ(±margin) to (1−ε, ε).

    Args:
      beta: as in `dpo`. smoothing: ε, above 0.
    Raises ValueError where examples have no loser, or for smoothing=0 when it is bound.
    """
    del key
    reward_BN, metrics = _rewards(out, batch, 'exo', beta)
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    right_B, wrong_B = jax.nn.log_sigmoid(margin_B), jax.nn.log_sigmoid(-margin_B)
    winner_B = jnp.exp(right_B) * (right_B - jnp.log1p(-smoothing))
    loser_B = jnp.exp(wrong_B) * (wrong_B - jnp.log(smoothing))
    return winner_B + loser_B, metrics


def apo_zero(out, batch, key, *, beta: float = 0.1):
    """APO-zero (arXiv 2408.06266, Eq. 7): 1 − σ(β ratio_w) + σ(β ratio_l). It raises winners and
    lowers losers: for winners that are better than the model.

    Args:
      beta: as in `dpo`.
    Raises ValueError where examples have no loser.
    """
    del key
    reward_BN, metrics = _rewards(out, batch, 'apo_zero', beta)
    return jax.nn.sigmoid(-reward_BN[:, 0]) + jax.nn.sigmoid(reward_BN[:, 1]), metrics


def apo_down(out, batch, key, *, beta: float = 0.1):
    """APO-down (arXiv 2408.06266, Eq. 8): σ(β ratio_w) + 1 − σ(margin). It lowers winners, and
    losers more: for winners that are worse than the model.

    Args:
      beta: as in `dpo`.
    Raises ValueError where examples have no loser.
    """
    del key
    reward_BN, metrics = _rewards(out, batch, 'apo_down', beta)
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    return jax.nn.sigmoid(reward_BN[:, 0]) + jax.nn.sigmoid(-margin_B), metrics


def sppo(out, batch, key, *, beta: float = 1e-3):
    """SPPO with hard labels (arXiv 2405.00675, Eq. 4.7 with P = 1 and 0):
    (ratio_w − 1/(2β))² + (ratio_l + 1/(2β))².

    Args:
      beta: 1/η of the paper, whose η is 1e3.
    Raises ValueError where examples have no loser.
    """
    del key
    reward_BN, metrics = _rewards(out, batch, 'sppo', beta)
    errors_BN = (reward_BN[:, :2] - jnp.array([[0.5, -0.5]])) / beta
    return jnp.sum(errors_BN**2, axis=1), metrics


def nca(out, batch, key, *, beta: float = 0.1):
    """NCA of pairs (arXiv 2402.05369, rewards 1 and 0):
    −log σ(β ratio_w) − ½ log σ(−β ratio_w) − ½ log σ(−β ratio_l). It keeps winners likely.

    Args:
      beta: as in `dpo`.
    Raises ValueError where examples have no loser.
    """
    del key
    reward_BN, metrics = _rewards(out, batch, 'nca', beta)
    noise_B = jnp.mean(jax.nn.log_sigmoid(-reward_BN[:, :2]), axis=1)
    return -jax.nn.log_sigmoid(reward_BN[:, 0]) - noise_B, metrics


def discopop(out, batch, key, *, beta: float = 0.1, tau: float = 0.05):
    """DiscoPOP (arXiv 2406.08414, Eq. 5): a blend of DPO's loss and exp(−margin), the latter
    weighted with σ(margin / τ).

    Args:
      beta: as in `dpo`. tau: τ, how sharp the change from one to the other is.
    Raises ValueError where examples have no loser, or for a tau that is not positive.
    """
    del key
    check_tau(tau)
    reward_BN, metrics = _rewards(out, batch, 'discopop', beta)
    margin_B = reward_BN[:, 0] - reward_BN[:, 1]
    blend_B = jax.nn.sigmoid(margin_B / tau)
    logistic_B, exponential_B = -jax.nn.log_sigmoid(margin_B), jnp.exp(-margin_B)
    return (1.0 - blend_B) * logistic_B + blend_B * exponential_B, metrics
