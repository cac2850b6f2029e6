"""What losses log beside their value: [B] arrays by name."""

import jax.numpy as jnp

# Nats, times the root of the tokens: the noise between the log-probabilities of two programs. On an
# H100 in float32, whose products are TF32, one first margin of 32 exceeded 1e-5 nats a token.
ROUNDING = 2e-4


def pair_metrics(out, reward_BN, nat_BN) -> dict:
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


def entropies(out, *names) -> dict:
    """The mean entropy, in nats a token, of the first responses, under their names."""
    return {
        f'entropy/{name}': out.entropy[:, i] / jnp.maximum(out.length[:, i], 1.0)
        for i, name in enumerate(names)
    }
