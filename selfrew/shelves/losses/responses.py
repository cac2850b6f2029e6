"""What losses read of an example's responses."""

import jax.numpy as jnp


def want_responses(out, loss: str, least: int = 2) -> None:
    """Raises ValueError where examples have fewer responses than `least`."""
    if (N := out.logp.shape[1]) < least:
        raise ValueError(f'{loss} wants {least} responses an example, got {N}')


def must_read(name: str):
    """The check that a loss's request for an optional field of `out` is left as it is."""

    def check(**options) -> None:
        if not options.get(name, True):
            raise ValueError(f'{name}=False: the loss reads it; want True')

    return check


def per_token(out):
    """1 / length [B N], which makes means a token of sums over a response."""
    return 1.0 / jnp.maximum(out.length, 1.0)


def is_positive(labels_BN):
    """Whether each response [B N] is positive: as its label says, and of those without a label the
    first of an example.
    """
    by_place_N = jnp.arange(labels_BN.shape[1]) == 0
    return jnp.where(jnp.isnan(labels_BN), by_place_N, jnp.asarray(labels_BN) > 0)
