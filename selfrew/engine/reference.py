"""The reference column: each response's log-prob under the reference.

That is by default the parameters at the start of the round; or the sampler's own log-probs, or the
base model.
"""

import functools
import math

import jax
import numpy as np

from selfrew.engine import finite, logprobs, loss_contract, packing, progress
from selfrew.mesh import processes
from selfrew.types import Batch

REFERENCES = 'exact', 'sampler', 'base'


def check_reference(reference: str) -> None:
    """Raises ValueError if there is no such reference."""
    if reference not in REFERENCES:
        raise ValueError(f'no reference {reference!r}; there are: {", ".join(REFERENCES)}')


@functools.partial(jax.jit, static_argnums=0)
def response_logp(module, params, batch):
    """Log-prob [B N] of each response of the batch, in nats."""
    return logprobs.forward(module, params, batch).logp


def reference_logp(lm, params, batches: list[Batch]) -> np.ndarray:
    """The reference column of a round: [examples N] log-probs in nats under `params`, indexed by
    Batch.index.
    """
    local_parts = []
    with progress.StepBar(len(batches), 'reference', 'batch') as bar:
        for batch in batches:
            logp_BN = response_logp(lm.module, params, packing.place(lm, batch))
            local_parts.append(processes.local_part(logp_BN))
            bar.step()
    rows = {}
    for batch, logp_BN in zip(batches, processes.merge(local_parts)):
        for index, logp_N, real in zip(batch.index, logp_BN, batch.real):
            if real:
                rows[int(index)] = logp_N
    column = np.full((max(rows) + 1, batches[0].ref_logp.shape[1]), np.nan, np.float32)
    column[list(rows)] = list(rows.values())
    return column


def with_reference(batch: Batch, column: np.ndarray) -> Batch:
    """The batch with its reference log-probs; 0 where an example is not real."""
    is_real = batch.real[:, None] > 0
    return batch._replace(ref_logp=np.where(is_real, column[batch.index], np.float32(0)))


def reference_column(
    lm, params, docs, examples, loss, first_update, one_pass, *, kind: str, max_gap: float
) -> tuple[np.ndarray | None, list[float]]:
    """(reference column [examples N] in nats, gaps: |trainer − sampler| of each sampled response in
    nats per token).

    The column is None if the loss is reference-free and no response was sampled.

    Args:
      params: the parameters at the start of the round.
      first_update, one_pass: the batches of the first update, and of one pass over all examples.
      kind: 'exact', a pass with `params` over all examples. 'sampler', the log-probs that the
        responses were sampled with, checked by a pass over the first update's examples. 'base', a
        pass with M_0, the model as in its folder; it is read again each round, and the pass needs
        memory for both. A reference-free loss takes 'exact' for its gaps.
      max_gap: the largest mean gap of trainer and sampler that 'sampler' accepts.
    Raises ValueError if the sampler's log-probs are missing or too far off, and finite.NotFinite if
    a log-prob of the column is not finite.
    """
    sampled, is_needed = _sampled_logp(docs, examples), not loss_contract.is_reference_free(loss)
    if kind == 'sampler' and is_needed:
        _check_all_sampled(docs, sampled)
        gaps = _gaps(docs, sampled, reference_logp(lm, params, first_update))
        _check_gaps(gaps, max_gap)
        return sampled, gaps
    if kind == 'base' and is_needed:
        column = reference_logp(lm, lm.base_params(), one_pass)
        _check_finite(column, docs)
        return column, _gaps(docs, sampled, reference_logp(lm, params, first_update))
    if not is_needed and np.isnan(sampled).all():
        return None, []
    column = reference_logp(lm, params, one_pass)
    _check_finite(column, docs)
    return column, _gaps(docs, sampled, column)


def _sampled_logp(docs, examples) -> np.ndarray:
    """The log-probs [examples N] that responses were sampled with; nan if they were not sampled."""
    most_responses = max(len(doc.responses) for doc in docs)
    sampled = np.full((1 + docs[-1].index, most_responses), np.nan, np.float32)
    for doc in docs:
        logps = [response.logp for response in examples[doc.index].responses]
        row = [math.nan if logp is None else logp for logp in logps]
        sampled[doc.index, : len(doc.responses)] = row
    return sampled


def _check_finite(column, docs) -> None:
    finite.check_column(column, [doc.index for doc in docs], [len(doc.responses) for doc in docs])


def _check_all_sampled(docs, sampled) -> None:
    missing = sorted({doc.index for doc in docs if np.isnan(sampled[doc.index]).any()})
    if missing:
        raise ValueError(
            f"train.reference='sampler': responses of examples {missing[:5]} have no "
            f'log-probability (were not sampled), {len(missing)} examples in all; use exact'
        )


def _check_gaps(gaps: list[float], max_gap: float) -> None:
    if not np.mean(gaps) <= max_gap:  # a nan fails too
        raise ValueError(
            f"train.reference='sampler': trainer and sampler differ by {np.mean(gaps):.3g} nats a "
            f'token in the mean, {max(gaps):.3g} at most, and max_gap={max_gap}; use exact'
        )


def _gaps(docs, sampled, column) -> list[float]:
    """|trainer − sampler| of each sampled response's mean log-prob per token, in nats.

    0 up to rounding, or there is a bug.
    """
    lengths = np.ones_like(sampled)
    for doc in docs:
        lengths[doc.index] = [len(response) for response in doc.responses]
    gaps = np.abs(column - sampled[: len(column)]) / lengths[: len(column)]
    return gaps[~np.isnan(gaps)].tolist()
