"""Log-probs of any responses under any parameters, computed as in training."""

import functools

import jax
import numpy as np

from selfrew.engine import logprobs, packing
from selfrew.mesh import buckets, processes, sharding
from selfrew.types import Example


@functools.partial(jax.jit, static_argnums=0)
def _selected_logp(module, params, batch):
    return logprobs.selected_logp(module, params, batch)


def token_logps(lm, params, pairs, *, batch: int = 16) -> dict[int, np.ndarray]:
    """Index of a pair -> the log-prob of each token of its response, in nats.

    Pairs are left out whose response is empty, or too long for the context with its prompt.

    Args:
      pairs: (prompt, response). A response that was sampled is scored on exactly its tokens.
      batch: responses that are computed together.
    """
    examples, context = [Example(p, (r,)) for p, r in pairs], lm.config.max_length
    docs, _ = packing.tokenise(lm.text, examples, row_length=context, positions=context)
    if not docs:
        return {}
    row_length = min(context, buckets.round_up(max(doc.length for doc in docs), 128))
    parts = sharding.row_shards(lm.mesh)
    batches = packing.batches(docs, batch=batch, row_length=row_length, parts=parts)
    local_parts = [
        processes.local_part(_selected_logp(lm.module, params, packing.place(lm, rows)))
        for rows in batches
    ]
    tokens = {}
    for rows, logp_PS in zip(batches, processes.merge(local_parts)):
        doc_PS = np.take_along_axis(rows.doc.reshape(parts, -1), rows.target, axis=1)
        for i in range(int(rows.real.sum())):
            tokens[int(rows.index[i])] = logp_PS[(doc_PS == i + 1) & (rows.mask > 0)]
    return tokens
