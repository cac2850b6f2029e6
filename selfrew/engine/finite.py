"""Finds what is not finite before it is trained on, saved or exported."""

import math

import jax
import jax.numpy as jnp
import numpy as np

MOST_LISTED = 5  # names in a message


class NotFinite(ValueError):
    """A number of training that is not finite.

    what: names of what is not, such as 'loss'. step: the update in its turn, from 0; None for the
    pass over the reference. indices: of the turn's examples in that batch. metrics: of that update.
    """

    def __init__(self, what: list[str], step: int | None, indices: list[int], metrics: dict):
        super().__init__(f'not finite: {", ".join(what)}')
        self.what, self.step, self.indices, self.metrics = what, step, indices, metrics


def _is_finite(leaf) -> jax.Array:
    """[] bool: whether the sum of squares is finite; a model of larger numbers overflows in use."""
    return jnp.isfinite(jnp.sum(jnp.square(leaf.astype(jnp.float32))))


def all_finite(params) -> jax.Array:
    """[] bool: whether all parameters, and their squares, are finite. To be called under jit."""
    return jnp.stack([_is_finite(leaf) for leaf in jax.tree.leaves(params)]).all()


@jax.jit
def _finite_leaves(params):
    return jax.tree.map(_is_finite, params)


def check_params(params, where: str) -> None:
    """Raises ValueError that names the parameters that are not finite, and `where` they are."""
    flags, _ = jax.tree_util.tree_flatten_with_path(_finite_leaves(params))
    names = ['/'.join(str(step.key) for step in path) for path, flag in flags if not flag]
    if names:
        listed = ', '.join(names[:MOST_LISTED]) + (', …' if len(names) > MOST_LISTED else '')
        raise ValueError(
            f'{where}: parameters that are not finite (nan, or too large to square): {listed}'
        )


def check_column(column: np.ndarray, indices: list[int], lengths: list[int]) -> None:
    """Raises NotFinite for a log-prob of the column [examples N] that is not finite.

    Args:
      indices, lengths: rows of the column, and how many responses each has.
    """
    bad = [i for i, n in zip(indices, lengths) if not np.isfinite(column[i, :n]).all()]
    if bad:
        raise NotFinite(['log-probability under the reference'], None, bad, {})


def check_sampled(logp: float, dtype: str) -> None:
    """Raises ValueError if the log-prob of a sampled response is not finite."""
    if not math.isfinite(logp):
        raise ValueError(
            f'a sampled response has the log-probability {logp}: the logits of the model are not '
            f'finite; its parameters are damaged, or overflow in model.dtype={dtype!r}'
        )
