"""The reference column: each response's log-prob under the reference.

That is by default the parameters at the start of the round; or the sampler's own log-probs, or the
base model. Beside it, for losses that ask, the policy's before the first update.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from selfrew.engine import finite, logprobs, loss_contract, packing, progress
from selfrew.mesh import processes, sharding, stopping
from selfrew.types import Batch

REFERENCES = 'exact', 'sampler', 'base'


def check_reference(reference: str) -> None:
    """Raises ValueError if there is no such reference."""
    if reference not in REFERENCES:
        raise ValueError(f'no reference {reference!r}; there are: {", ".join(REFERENCES)}')


def response_logp(module, params, batch, *, with_tokens: bool = False):
    """Forward of the batch: each response's log-prob in nats, and each token's if asked for."""
    forward = compiled_response_logp(sharding.platform(module.mesh))
    return forward(module, params, batch, with_tokens=with_tokens)


@functools.cache
def compiled_response_logp(platform: str) -> Callable:
    """`response_logp` as a compiled function for a platform."""

    def response_logp(module, params, batch, *, with_tokens: bool = False):
        wanted = {'token_logp': True} if with_tokens else {}
        return logprobs.forward(module, params, batch, **wanted)

    return jax.jit(
        response_logp,
        static_argnums=0,
        static_argnames='with_tokens',
        compiler_options=sharding.COMPILER_OPTIONS.get(platform),
    )


class Reference(NamedTuple):
    """Log-probs under the reference, in nats."""

    column: np.ndarray  # [examples N] summed, by Batch.index
    tokens: dict | None = None  # Batch.index -> those of its tokens, or None if no loss asks


def with_reference(batch: Batch, reference: Reference) -> Batch:
    """The batch with its reference log-probs; 0 where an example is not real."""
    is_real = batch.real[:, None] > 0
    ref_logp_BN = np.where(is_real, reference.column[batch.index], np.float32(0))
    if reference.tokens is None:
        return batch._replace(ref_logp=ref_logp_BN)
    logp_PS = _of_tokens(batch, reference.tokens)
    return batch._replace(ref_logp=ref_logp_BN, ref_token_logp=logp_PS)


def with_old_logp(batch: Batch, old: Reference) -> Batch:
    """The batch with the log-prob of each token under the policy before the first update."""
    assert old.tokens is not None, 'made with tokens'
    return batch._replace(old_token_logp=_of_tokens(batch, old.tokens))


def _of_tokens(batch: Batch, tokens: dict) -> np.ndarray:
    """[P S] What `tokens` says of each selected token, see Reference; 0 for unused places."""
    logp_PS = np.zeros_like(batch.mask)
    for index, selected in _selected_tokens(batch):
        logp_PS[selected] = tokens[index]
    return logp_PS


def _selected_tokens(batch: Batch) -> Iterator[tuple[int, np.ndarray]]:
    """(index, [P S] bool) of each real example of the batch that has rows in it.

    Its tokens come response by response, in whatever batch it lies.
    """
    P = len(batch.target)
    doc_PS = np.take_along_axis(batch.doc.reshape(P, -1), batch.target, axis=1)
    doc_PS = np.where(batch.mask > 0, doc_PS, 0)
    for i in np.unique(doc_PS[doc_PS > 0]) - 1:
        yield int(batch.index[i]), doc_PS == 1 + i


def reference_logp(lm, params, batches: list[Batch], with_tokens: bool = False) -> Reference:
    """The log-probs of all responses of the batches under `params`; also of each token if asked
    for.
    """
    local_parts = []
    with progress.StepBar(len(batches), 'reference', 'batch') as bar:
        for batch in batches:
            placed = packing.place(lm, batch)
            out = response_logp(lm.module, params, placed, with_tokens=with_tokens)
            local_parts.append(processes.local_part((out.logp, out.token_logp)))
            bar.step()
            stopping.check()
    rows, tokens = {}, {}
    for batch, (logp_BN, logp_PS) in zip(batches, processes.merge(local_parts)):
        for index, logp_N, real in zip(batch.index, logp_BN, batch.real):
            if real:
                rows[int(index)] = logp_N
        if with_tokens:
            tokens |= {index: logp_PS[selected] for index, selected in _selected_tokens(batch)}
    column = np.full((max(rows) + 1, batches[0].ref_logp.shape[1]), np.nan, np.float32)
    column[list(rows)] = list(rows.values())
    return Reference(column, tokens if with_tokens else None)


class Columns(NamedTuple):
    """What is known of a turn's responses before its first update."""

    reference: Reference | None  # None: the loss is reference-free, and no response was sampled
    old: Reference | None  # of the policy; None unless the loss reads it
    gaps: list[float]  # |trainer − sampler| of each sampled response, in nats per token


def columns(
    lm, params, docs, examples, loss, first_update, one_pass, *, kind: str, max_gap: float
) -> Columns:
    """The reference, the policy's own log-probs, and how far those of trainer and sampler differ.

    Args:
      params: the parameters at the start of the round.
      first_update, one_pass: the batches of the first update, and of one pass over all examples.
      kind: 'exact', a pass with `params` over all examples. 'sampler', the log-probs that the
        responses were sampled with, checked by a pass over the first update's examples. 'base', a
        pass with M_0, the model as in its folder; it is read again each round, and the pass needs
        memory for both. A reference-free loss takes 'exact' for its gaps.
      max_gap: the largest mean gap of trainer and sampler that 'sampler' accepts.
    Raises ValueError if the sampler's log-probs are missing or too far off, or if the loss asks for
    those of each token, which the sampler does not leave; and finite.NotFinite if
    a log-prob of the column is not finite.
    """
    sampled, is_needed = _sampled_logp(docs, examples), not loss_contract.is_reference_free(loss)
    with_tokens = loss_contract.reads_reference_of_tokens(loss)
    reads_old = loss_contract.reads_old_logp(loss)
    if kind == 'sampler' and is_needed:
        if with_tokens:
            raise ValueError(
                "train.reference='sampler' has no log-probability of each token, which the loss "
                'reads; use exact'
            )
        _check_all_sampled(docs, sampled)
        gaps = _gaps(docs, sampled, reference_logp(lm, params, first_update).column)
        _check_gaps(gaps, max_gap)
        return Columns(Reference(sampled), None, gaps)
    if kind == 'base' and is_needed:
        base = reference_logp(lm, lm.base_of(params), one_pass, with_tokens)
        _check_finite(base.column, docs)
        old = reference_logp(lm, params, one_pass if reads_old else first_update, reads_old)
        gaps = _gaps(docs, sampled, old.column)
        return Columns(base, old if reads_old else None, gaps)
    if not is_needed and not reads_old and np.isnan(sampled).all():
        return Columns(None, None, [])
    exact = reference_logp(lm, params, one_pass, with_tokens or reads_old)
    _check_finite(exact.column, docs)
    return Columns(exact, exact if reads_old else None, _gaps(docs, sampled, exact.column))


def _sampled_logp(docs, examples) -> np.ndarray:
    """The log-probs [examples N] that responses were sampled with; nan if they were not sampled."""
    most_responses = max(len(doc.responses) for doc in docs)
    sampled = np.full((1 + docs[-1].index, most_responses), np.nan, np.float32)
    for doc in docs:
        logps = [response.logp for response in examples[doc.index].responses]
        row = [math.nan if logp is None else logp for logp in logps]
        sampled[doc.index, : len(row)] = row  # a mismatched response has none
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
