"""A scalar head's values of whole sequences, in batches of like length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from selfrew.mesh import buckets, processes, sharding
from selfrew.models import decoder


def padded(lm, sequences, rows: int):
    """Batches of like length: (which ones [M], tokens [R L] padded on the right, length [R]),
    filled up by the first.

    R is at most `rows`, but at least one for each part that the mesh splits rows into.
    """
    split = sharding.row_shards(lm.mesh)
    rows = (
        buckets.round_up(max(min(rows, buckets.next_power_of_two(len(sequences))), split), split)
        if sequences
        else rows
    )
    order = np.argsort([len(s) for s in sequences], kind='stable')
    for start in range(0, len(order), rows):
        ids = order[start : start + rows]
        filled = np.concatenate([ids, np.repeat(ids[:1], rows - len(ids))])
        length = np.array([len(sequences[i]) for i in filled], np.int32)
        tokens = np.full(
            (rows, min(buckets.round_up(length.max(), 32), lm.config.max_length)),
            lm.text.pad,
            np.int32,
        )
        for row, i in enumerate(filled):
            tokens[row, : length[row]] = sequences[i]
        yield ids, tokens, length


@functools.partial(jax.jit, static_argnums=0)
def _value(module, params, tokens_RL, length_R):
    R, L = tokens_RL.shape
    position_RL = jnp.broadcast_to(jnp.arange(L)[None, :], (R, L))
    causal_RLL = jnp.broadcast_to(jnp.tril(jnp.ones((L, L), bool))[None], (R, L, L))
    hidden_RLD, _ = module.apply({'params': params}, tokens_RL, position_RL, causal_RLL)
    return decoder.scalar_value(
        params, jnp.take_along_axis(hidden_RLD, (length_R - 1)[:, None, None], axis=1)[:, 0]
    )


def values(lm, params, sequences, *, rows: int = 64) -> list[float]:
    """The scalar head's value at the last token of each sequence of tokens, in order. KeyError
    without such a head.
    """
    out, found = [0.0] * len(sequences), []
    parts = list(padded(lm, sequences, rows))
    for _, tokens, length in tqdm(
        parts, desc='value', unit='batch', mininterval=1.0, disable=not processes.is_main()
    ):
        found.append(
            processes.local_part(_value(lm.module, params, lm.place_rows(tokens), lm.place_rows(length)))
        )
    for (ids, *_), value_R in zip(parts, processes.merge(found)):
        for i, value in zip(ids, value_R):
            out[i] = float(value)
    return out
