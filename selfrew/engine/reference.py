"""The reference column: each response's log-probability under the parameters at the start of the
round.
"""

import functools
import math

import jax
import numpy as np
from tqdm import tqdm

from selfrew.engine import logprobs, loss_contract, packing
from selfrew.mesh import processes
from selfrew.types import Batch


@functools.partial(jax.jit, static_argnums=0)
def response_logp(module, params, batch):
    return logprobs.forward(module, params, batch).logp


def reference_logp(lm, params, batches: list[Batch]) -> np.ndarray:
    """The reference column of a round: [examples N] log-probabilities under `params`, indexed by
    Batch.index.
    """
    table, bar = (
        {},
        tqdm(
            batches,
            desc='reference',
            unit='batch',
            mininterval=1.0,
            disable=not processes.is_main(),
        ),
    )
    columns = processes.merge(
        [
            processes.local_part(response_logp(lm.module, params, packing.place(lm, batch)))
            for batch in bar
        ]
    )
    for batch, logp in zip(batches, columns):
        table.update({int(i): row for i, row, real in zip(batch.index, logp, batch.real) if real})
    out = np.full((max(table) + 1, batches[0].ref_logp.shape[1]), np.nan, np.float32)
    out[list(table)] = list(table.values())
    return out


def with_reference(batch: Batch, table: np.ndarray) -> Batch:
    """The batch with its reference column; 0 where an example is only filling."""
    return batch._replace(
        ref_logp=np.where(batch.real[:, None] > 0, table[batch.index], np.float32(0))
    )


REFERENCES = 'exact', 'sampler', 'base'


def check_reference(reference: str) -> None:
    """ValueError where there is no such reference."""
    if reference not in REFERENCES:
        raise ValueError(f'no reference {reference!r}; there are: {", ".join(REFERENCES)}')


def reference_column(
    lm, params, docs, examples, loss, first, batches, *, kind: str, max_gap: float
):
    """(reference column [examples N] or None, |trainer − sampler| of each sampled response in nats
    a token).

    Args: first, batches: the first update's and all of the round's; kind and max_gap: see `train`.
    """
    said, wanted = _sampled(docs, examples), not loss_contract.is_reference_free(loss)
    if kind == 'sampler' and wanted:
        if lacking := sorted({doc.index for doc in docs if np.isnan(said[doc.index]).any()}):
            raise ValueError(
                f"train.reference='sampler': responses of examples {lacking[:5]} have no log-probability "
                f'(were not sampled), {len(lacking)} examples in all; use exact'
            )
        gaps = _gaps(docs, said, reference_logp(lm, params, first))
        if not np.mean(gaps) <= max_gap:
            found = f'{np.mean(gaps):.3g} nats a token in the mean, {max(gaps):.3g} at most'
            raise ValueError(
                f"train.reference='sampler': trainer and sampler differ by {found}, and "
                f'max_gap={max_gap}; use exact'
            )
        return said, gaps
    if kind == 'base' and wanted:
        return reference_logp(lm, lm.base_params(), batches), _gaps(
            docs, said, reference_logp(lm, params, first)
        )
    if not wanted and np.isnan(said).all():
        return None, []
    table = reference_logp(lm, params, batches)
    return table, _gaps(docs, said, table)


def _sampled(docs, examples) -> np.ndarray:
    """The log-probabilities [examples N] that responses were sampled with, nan where they were not."""
    nan = lambda x: math.nan if x is None else x
    out = np.full((1 + docs[-1].index, max(len(d.responses) for d in docs)), np.nan, np.float32)
    for doc in docs:
        out[doc.index, : len(doc.responses)] = [nan(r.logp) for r in examples[doc.index].responses]
    return out


def _gaps(docs, said, table) -> list[float]:
    """|trainer − sampler| mean log-probability per token of each sampled response. 0 up to
    rounding, or a bug.
    """
    lengths = np.ones_like(said)
    for doc in docs:
        lengths[doc.index] = [len(r) for r in doc.responses]
    gaps = np.abs(table - said[: len(table)]) / lengths[: len(table)]
    return gaps[~np.isnan(gaps)].tolist()
