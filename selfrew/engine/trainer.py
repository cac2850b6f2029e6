"""The device side of learning: the reference pass, one optimiser step, a round of them. Layer 4."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from selfrew.engine import logprobs, loss_contract, packing, schedules, train_state
from selfrew.engine.reference import check_reference, reference_column, with_reference
from selfrew.mesh import keys, processes, sharding
from selfrew.types import Batch, State


@functools.cache
def compiled_step(lm, loss, optimizer):
    """The compiled update (state, batch, lr, key) -> (state, metrics); the same one for the same
    loss and optimiser.

    A batch of stacked micro-batches [A R L] adds their gradients up, in float32, before the one
    step.
    """

    wants = loss_contract.requested_fields(loss)

    def objective(part, params, batch, key):
        out = logprobs.forward(
            lm.module, train_state.merge(params, part), batch, jax.random.fold_in(key, 1), **wants
        )
        loss_B, metrics = loss(out, batch, key)
        count = jnp.maximum(batch.count, 1.0)
        metrics = {name: jnp.sum(value_B * batch.real) / count for name, value_B in metrics.items()}
        return jnp.sum(loss_B * batch.weight * batch.real) / count, metrics

    def gradient(part, rest, batch, key):
        found = jax.value_and_grad(objective, has_aux=True)(part, rest, batch, key)
        return jax.tree.map(lambda x: x.astype(jnp.float32), found)

    def summed(part, rest, batches, key):
        one = lambda batch: gradient(part, rest, batch, key)
        like = jax.eval_shape(one, jax.tree.map(lambda x: x[0], batches))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        add = lambda sums, batch: (jax.tree.map(jnp.add, sums, one(batch)), None)
        return jax.lax.scan(add, zeros, batches)[0]

    def step(state, rest, batch, lr, key):
        part, mastered = state.params, train_state.has_master(lm)
        (value, metrics), grads = (gradient if batch.tokens.ndim == 2 else summed)(
            part, rest, batch, key
        )
        exact, moments = (
            (state.opt['master'], state.opt['moments']) if mastered else (part, state.opt)
        )
        updates, moments = optimizer.update(grads, moments, exact)
        exact = jax.tree.map(lambda p, u: p - lr * u, exact, updates)
        opt = {'master': exact, 'moments': moments} if mastered else moments
        metrics |= {'loss': value, 'grad_norm': optax.tree.norm(grads)}
        part = jax.tree.map(lambda p, x: x.astype(p.dtype), part, exact)
        return State(part, opt, state.step + 1, state.round), metrics

    # Pinned: left to itself the compiler moves small arrays, and the next step would be another
    # program.
    where = jax.tree.map(lambda x: x.sharding, train_state.abstract_state(lm, optimizer))
    where = where._replace(params=train_state.trainable(lm, where.params))
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(where, sharding.of(lm.mesh)))

    def update(state, batch, lr, key):
        part, rest = (
            train_state.trainable(lm, state.params),
            state.params if lm.config.lora else {'blocks': {}},
        )
        changed, metrics = compiled(state._replace(params=part), rest, batch, lr, key)
        return changed._replace(params=train_state.merge(state.params, changed.params)), metrics

    update.compiled = compiled
    return update


def train(
    lm,
    state,
    examples,
    key,
    loss,
    report,
    *,
    optimizer,
    lr: float,
    batch: int = 16,
    accumulate: int = 1,
    epochs: int = 1,
    max_steps: int | None = None,
    row_length: int = 512,
    reference: str = 'exact',
    max_gap: float = 0.01,
    warmup: float = 0.0,
    schedule: str = 'constant',
    final: float = 0.0,
):
    """A round's updates on its examples; the reference is `state.params` as they come in, or M_0.
    Returns (State, totals).

    The state that comes in is spent: its arrays become those of the one that is returned, so that a
    model need not lie in memory twice.

    Args:
      loss: from the shelf `losses`, bound. report(step, metrics): called after each update, with
        floats.
      optimizer: a function that makes an optax transformation, see `optimizers`.
      batch: examples an update. accumulate: micro-batches into which its rows are split, to take
        less memory; their gradients add up to the same. epochs: passes over the examples.
        max_steps: stops earlier, or None.
      row_length: tokens of a packed row; an example that does not fit is dropped and counted.
      reference: 'exact', a pass over all examples with the parameters as they come in; 'sampler',
        the log-probabilities that the responses were sampled with, checked by such a pass over the
        first update's examples alone: where trainer and sampler differ by more than max_gap nats a
        token in the mean, nothing is trained; 'base', a pass with the model as its folder has it,
        in every round, which is read again and lies in memory beside it until then.
      lr, warmup, schedule, final: see `schedules.learning_rate`.
    Totals are numbers: steps, examples, dropped, tokens (of responses, trained on), gap (mean
    |trainer − sampler| log-probability per token, nan where nothing was sampled) and gap_max (the
    largest such mean of one response).
    Raises ValueError for an option out of range, a schedule or reference that does not exist, where
    no example is left, or where the sampler's log-probabilities are missing or too far off.
    """
    counts = {'batch': batch, 'accumulate': accumulate, 'epochs': epochs, 'row_length': row_length}
    for name, value in (counts | {'max_steps': max_steps}).items():
        if value is not None and value < 1:
            raise ValueError(f'train.{name}={value}: want at least 1')
    schedules.check_schedule(schedule)
    check_reference(reference)
    docs, dropped = packing.tokenise(
        lm.text, examples, row_length=row_length, positions=lm.config.max_length
    )
    if not docs:
        raise ValueError(
            f'no example to train on: {len(examples)} came, {dropped} of them empty or longer than '
            f'row_length={row_length} or {lm.config.max_length} positions'
        )
    passes = packing.epochs(
        docs,
        epochs,
        batch=batch,
        row_length=row_length,
        parts=accumulate * sharding.row_shards(lm.mesh),
        rng=keys.numpy_rng(key),
    )
    todo = [b for one in passes for b in one][:max_steps]
    micros = [
        [m for b in some for m in packing.micro_batches(b, accumulate)]
        for some in (passes[0][:1], passes[0])
    ]
    table, gaps = reference_column(
        lm, state.params, docs, examples, loss, *micros, kind=reference, max_gap=max_gap
    )
    todo = todo if table is None else [with_reference(b, table) for b in todo]
    optimizer = train_state.cached_optimizer(optimizer)
    state, step = train_state.begin_round(lm, state, optimizer), compiled_step(lm, loss, optimizer)
    metrics = None
    with tqdm(
        total=len(todo),
        desc='update',
        unit='step',
        mininterval=1.0,
        disable=not processes.is_main(),
    ) as bar:
        for i, one in enumerate(todo):
            rate = schedules.learning_rate(
                i, len(todo), lr=lr, warmup=warmup, schedule=schedule, final=final
            )
            state, latest = step(
                state,
                packing.place(lm, stack_micro_batches(one, accumulate)),
                rate,
                jax.random.fold_in(key, i),
            )
            if metrics is not None:  # the step before: fetched while this one runs
                report(i - 1, {k: float(v) for k, v in metrics.items()})
            metrics = latest | {'lr': rate}
            bar.update()
        report(len(todo) - 1, {k: float(v) for k, v in metrics.items()})
    tokens = sum(float(b.mask.sum()) for b in todo)
    return state, {
        'steps': len(todo),
        'examples': len(docs),
        'dropped': dropped,
        'tokens': tokens,
        'gap': float(np.mean(gaps)) if gaps else math.nan,
        'gap_max': max(gaps, default=math.nan),
    }


def stack_micro_batches(batch: Batch, accumulate: int) -> Batch:
    """What the step wants: the batch, or its micro-batches along a first axis."""
    return (
        batch
        if accumulate == 1
        else jax.tree.map(lambda *x: np.stack(x), *packing.micro_batches(batch, accumulate))
    )
