"""Imitation: likelihood of the best response alone."""

import chex
import jax.numpy as jnp

from selfrew.engine.loss_contract import reference_free
from selfrew.shelves.losses.reported import entropies

MEANS = 'token', 'sequence', 'sum'


def check_mean(mean: str) -> None:
    """Raises ValueError for a mean that `sft` does not have."""
    if mean not in MEANS:
        raise ValueError(f'no mean {mean!r}; there are: {", ".join(MEANS)}')


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
    return loss_B, metrics | (entropies(out, 'chosen') if entropy else {})
