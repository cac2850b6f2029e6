"""A scalar head's values of whole sequences, computed in batches of similar length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from selfrew.engine import progress
from selfrew.mesh import buckets, processes, sharding, stopping
from selfrew.models import decoder


def _padded_batches(lm, sequences, rows: int):
    """Batches of similar length: (indices [M], tokens [R L] padded on the right, length [R]).

    R is at most `rows`, but at least one per row shard of the mesh; the first sequence of a batch
    fills its free rows.
    """
    shards = sharding.row_shards(lm.mesh)
    rows = max(min(rows, buckets.next_power_of_two(len(sequences))), shards)
    rows = buckets.round_up(rows, shards)
    order = np.argsort([len(sequence) for sequence in sequences], kind='stable')
    for start in range(0, len(order), rows):
        ids = order[start : start + rows]
        filled = np.concatenate([ids, np.repeat(ids[:1], rows - len(ids))])
        length = np.array([len(sequences[i]) for i in filled], np.int32)
        columns = min(buckets.round_up(length.max(), 32), lm.config.max_length)
        tokens = np.full((rows, columns), lm.text.pad, np.int32)
        for row, i in enumerate(filled):
            tokens[row, : length[row]] = sequences[i]
        yield ids, tokens, length


@functools.partial(jax.jit, static_argnums=0)
def _last_value(module, params, tokens_RL, length_R):
    R, L = tokens_RL.shape
    position_RL = jnp.broadcast_to(jnp.arange(L)[None, :], (R, L))
    causal_RLL = jnp.broadcast_to(jnp.tril(jnp.ones((L, L), bool))[None], (R, L, L))
    hidden_RLD, _ = module.apply({'params': params}, tokens_RL, position_RL, causal_RLL)
    last_R11 = (length_R - 1)[:, None, None]
    return decoder.scalar_value(params, jnp.take_along_axis(hidden_RLD, last_R11, axis=1)[:, 0])


def last_values(lm, params, sequences, *, rows: int = 64) -> list[float]:
    """The scalar head's value at the last token of each sequence of tokens, in order.

    rows: sequences in a batch, at most. KeyError where `params` has no such head.
    """
    batches, parts = list(_padded_batches(lm, sequences, rows)), []
    with progress.StepBar(len(batches), 'value', 'batch') as bar:
        for _, tokens, length in batches:
            tokens, length = lm.place_rows(tokens), lm.place_rows(length)
            parts.append(processes.local_part(_last_value(lm.module, params, tokens, length)))
            bar.step()
            stopping.check()
    values = [0.0] * len(sequences)
    for (ids, _, _), value_R in zip(batches, processes.merge(parts)):
        for i, value in zip(ids, value_R):
            values[i] = float(value)
    return values
