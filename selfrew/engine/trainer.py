"""The device side of learning: the reference pass, one optimiser step, a round of them. Layer 4."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from selfrew import encode, hosts, likelihood, losses, optimizers, sharding
from selfrew.models import decoder
from selfrew.types import Batch, State


def place(lm, batch: Batch) -> Batch:
    """The batch on the mesh, or micro-batches stacked: rows split, what is per example whole."""
    rows = sharding.of(lm.mesh, *[None] * (np.ndim(batch.tokens) - 2), 'rows')  # before them, micro-batches
    return Batch(*(hosts.put(x, rows) if name in encode.ROWS else lm.whole(x) for name, x in batch._asdict().items()))


@functools.partial(jax.jit, static_argnums=0)
def _logp(module, params, batch):
    return likelihood.forward(module, params, batch).logp


def reference(lm, params, batches: list[Batch]) -> np.ndarray:
    """The reference column of a round: [examples N] log-probabilities under `params`, indexed by Batch.index."""
    table, bar = {}, tqdm(batches, desc='reference', unit='batch', mininterval=1.0, disable=not hosts.main())
    columns = hosts.merge([hosts.own(_logp(lm.module, params, place(lm, batch))) for batch in bar])
    for batch, logp in zip(batches, columns):
        table.update({int(i): row for i, row, real in zip(batch.index, logp, batch.real) if real})
    out = np.full((max(table) + 1, batches[0].ref_logp.shape[1]), np.nan, np.float32)
    out[list(table)] = list(table.values())
    return out


def annotate(batch: Batch, table: np.ndarray) -> Batch:
    """The batch with its reference column; 0 where an example is only filling."""
    return batch._replace(ref_logp=np.where(batch.real[:, None] > 0, table[batch.index], np.float32(0)))


# --- one step, and a round of them ------------------------------------------------------------------------------------


def trained(lm, params) -> dict:
    """The part of the parameters that updates change: all of them, or the adapters where there are any."""
    if not lm.config.lora:
        return params
    return {'blocks': {name: x for name, x in params['blocks'].items() if name.endswith(decoder.LORA)}}


def whole(params, part) -> dict:
    """The parameters with that part of them replaced."""
    return params | part | {'blocks': params['blocks'] | part['blocks']}


def _mastered(lm) -> bool:
    """Whether updates go to a float32 copy that the optimiser's state holds, because the parameters are narrower."""
    return lm.stored != 'float32' and not lm.config.lora


def _begin(lm, optimizer, part):
    """The optimiser's state before the first update: moments, and the float32 copy where there is one."""
    if not _mastered(lm):
        return optimizer.init(part)
    master = jax.tree.map(lambda x: x.astype(jnp.float32), part)
    return {'master': master, 'moments': optimizer.init(master)}


@functools.cache
def _beginner(lm, optimizer):
    where = jax.tree.map(lambda x: x.sharding, shapes(lm, optimizer).opt)
    return jax.jit(functools.partial(_begin, lm, optimizer), out_shardings=where)


def shapes(lm, optimizer) -> State:
    """What a state looks like, as ShapeDtypeStructs with shardings; moments lie like the parameters they belong to."""
    params, lie, replicated = lm.abstract(), lm.shardings(), sharding.of(lm.mesh)
    opt = jax.eval_shape(functools.partial(_begin, lm, optimizer), trained(lm, params))
    moments = opt['moments'] if _mastered(lm) else opt
    like = lambda x, p, where: where if x.shape == p.shape else replicated  # noqa: E731  Adafactor's rows and columns
    where = optax.tree_map_params(
        optimizer, like, moments, trained(lm, params), trained(lm, lie), transform_non_params=lambda _: replicated
    )
    where = {'master': lie, 'moments': where} if _mastered(lm) else where
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        State(params, opt, count, count), State(lie, where, replicated, replicated),
    )  # fmt: skip


def start(lm, state: State, optimizer) -> State:
    """The state before a round's first update, with fresh moments. Updates will write over `state.params`."""
    opt = _beginner(lm, optimizer)(trained(lm, state.params))
    return State(state.params, opt, lm.whole(jnp.int32(state.step)), lm.whole(jnp.int32(state.round)))


@functools.cache
def made(optimizer):
    """The transformation of a bound optimiser: one object for one binding, so that no step is compiled twice."""
    return optimizer()


@functools.cache
def stepper(lm, loss, optimizer):
    """The compiled update (state, batch, lr, key) -> (state, metrics); the same one for the same loss and optimiser.

    A batch of stacked micro-batches [A R L] adds their gradients up, in float32, before the one step.
    """

    wants = losses.wants(loss)

    def objective(part, params, batch, key):
        out = likelihood.forward(lm.module, whole(params, part), batch, jax.random.fold_in(key, 1), **wants)
        loss_B, metrics = loss(out, batch, key)
        count = jnp.maximum(batch.count, 1.0)
        metrics = {name: jnp.sum(value_B * batch.real) / count for name, value_B in metrics.items()}
        return jnp.sum(loss_B * batch.weight * batch.real) / count, metrics

    def gradient(part, rest, batch, key):
        found = jax.value_and_grad(objective, has_aux=True)(part, rest, batch, key)
        return jax.tree.map(lambda x: x.astype(jnp.float32), found)

    def summed(part, rest, batches, key):
        one = lambda batch: gradient(part, rest, batch, key)  # noqa: E731
        like = jax.eval_shape(one, jax.tree.map(lambda x: x[0], batches))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        add = lambda sums, batch: (jax.tree.map(jnp.add, sums, one(batch)), None)  # noqa: E731
        return jax.lax.scan(add, zeros, batches)[0]

    def step(state, rest, batch, lr, key):
        part, mastered = state.params, _mastered(lm)
        (value, metrics), grads = (gradient if batch.tokens.ndim == 2 else summed)(part, rest, batch, key)
        exact, moments = (state.opt['master'], state.opt['moments']) if mastered else (part, state.opt)
        updates, moments = optimizer.update(grads, moments, exact)
        exact = jax.tree.map(lambda p, u: p - lr * u, exact, updates)
        opt = {'master': exact, 'moments': moments} if mastered else moments
        metrics |= {'loss': value, 'grad_norm': optax.tree.norm(grads)}
        part = jax.tree.map(lambda p, x: x.astype(p.dtype), part, exact)
        return State(part, opt, state.step + 1, state.round), metrics

    # Pinned: left to itself the compiler moves small arrays, and the next step would be another program.
    where = jax.tree.map(lambda x: x.sharding, shapes(lm, optimizer))
    where = where._replace(params=trained(lm, where.params))
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(where, sharding.of(lm.mesh)))

    def update(state, batch, lr, key):
        part, rest = trained(lm, state.params), state.params if lm.config.lora else {'blocks': {}}
        changed, metrics = compiled(state._replace(params=part), rest, batch, lr, key)
        return changed._replace(params=whole(state.params, changed.params)), metrics

    update.compiled = compiled
    return update


REFERENCES = 'exact', 'sampler', 'base'


def check_reference(reference: str) -> None:
    """ValueError where there is no such reference."""
    if reference not in REFERENCES:
        raise ValueError(f'no reference {reference!r}; there are: {", ".join(REFERENCES)}')


def train(lm, state, examples, key, loss, report, *, optimizer, lr: float, batch: int = 16, accumulate: int = 1,
          epochs: int = 1, max_steps: int | None = None, row_length: int = 512, reference: str = 'exact',
          max_gap: float = 0.01, warmup: float = 0.0, schedule: str = 'constant', final: float = 0.0):  # fmt: skip
    """A round's updates on its examples; the reference is `state.params` as they come in, or M_0. Returns (State, totals).

    The state that comes in is spent: its arrays become those of the one that is returned, so that a model need not lie
    in memory twice.

    Args:
      loss: from the shelf `losses`, bound. report(step, metrics): called after each update, with floats.
      optimizer: a function that makes an optax transformation, see `optimizers`.
      batch: examples an update. accumulate: micro-batches into which its rows are split, to take less memory; their
        gradients add up to the same. epochs: passes over the examples. max_steps: stops earlier, or None.
      row_length: tokens of a packed row; an example that does not fit is dropped and counted.
      reference: 'exact', a pass over all examples with the parameters as they come in; 'sampler', the log-probabilities
        that the responses were sampled with, checked by such a pass over the first update's examples alone: where
        trainer and sampler differ by more than max_gap nats a token in the mean, nothing is trained; 'base', a pass
        with the model as its folder has it, in every round, which is read again and lies in memory beside it until then.
      lr, warmup, schedule, final: see `optimizers.learning_rate`.
    Totals are numbers: steps, examples, dropped, tokens (of responses, trained on), gap (mean |trainer − sampler|
    log-probability per token, nan where nothing was sampled) and gap_max (the largest such mean of one response).
    Raises ValueError for an option out of range, a schedule or reference that does not exist, where no example is left,
    or where the sampler's log-probabilities are missing or too far off.
    """
    counts = {'batch': batch, 'accumulate': accumulate, 'epochs': epochs, 'row_length': row_length}
    for name, value in (counts | {'max_steps': max_steps}).items():
        if value is not None and value < 1:
            raise ValueError(f'train.{name}={value}: want at least 1')
    optimizers.check_schedule(schedule)
    check_reference(reference)
    docs, dropped = encode.tokenise(lm.text, examples, row_length=row_length, positions=lm.config.max_length)
    if not docs:
        raise ValueError(f'no example to train on: {len(examples)} came, {dropped} of them empty or longer than '
                         f'row_length={row_length} or {lm.config.max_length} positions')  # fmt: skip
    passes = encode.epochs(
        docs, epochs, batch=batch, row_length=row_length, parts=accumulate * sharding.row_count(lm.mesh),
        rng=np.random.default_rng(np.asarray(jax.random.key_data(key))),
    )  # fmt: skip
    todo = [b for one in passes for b in one][:max_steps]
    micros = [[m for b in some for m in encode.split(b, accumulate)] for some in (passes[0][:1], passes[0])]
    table, gaps = column(lm, state.params, docs, examples, loss, *micros, kind=reference, max_gap=max_gap)
    todo = todo if table is None else [annotate(b, table) for b in todo]
    optimizer = made(optimizer)
    state, step = start(lm, state, optimizer), stepper(lm, loss, optimizer)
    metrics = None
    with tqdm(total=len(todo), desc='update', unit='step', mininterval=1.0, disable=not hosts.main()) as bar:
        for i, one in enumerate(todo):
            rate = optimizers.learning_rate(i, len(todo), lr=lr, warmup=warmup, schedule=schedule, final=final)
            state, latest = step(state, place(lm, stacked(one, accumulate)), rate, jax.random.fold_in(key, i))
            if metrics is not None:  # the step before: fetched while this one runs
                report(i - 1, {k: float(v) for k, v in metrics.items()})
            metrics = latest | {'lr': rate}
            bar.update()
        report(len(todo) - 1, {k: float(v) for k, v in metrics.items()})
    tokens = sum(float(b.mask.sum()) for b in todo)
    return state, {
        'steps': len(todo), 'examples': len(docs), 'dropped': dropped, 'tokens': tokens,
        'gap': float(np.mean(gaps)) if gaps else math.nan, 'gap_max': max(gaps, default=math.nan),
    }  # fmt: skip


def stacked(batch: Batch, accumulate: int) -> Batch:
    """What the step wants: the batch, or its micro-batches along a first axis."""
    return batch if accumulate == 1 else jax.tree.map(lambda *x: np.stack(x), *encode.split(batch, accumulate))


def column(lm, params, docs, examples, loss, first, batches, *, kind: str, max_gap: float):
    """(reference column [examples N] or None, |trainer − sampler| of each sampled response in nats a token).

    Args: first, batches: the first update's and all of the round's; kind and max_gap: see `train`.
    """
    said, wanted = _sampled(docs, examples), _name(loss) not in losses.REFERENCE_FREE
    if kind == 'sampler' and wanted:
        if lacking := sorted({doc.index for doc in docs if np.isnan(said[doc.index]).any()}):
            raise ValueError(f"train.reference='sampler': responses of examples {lacking[:5]} have no log-probability "
                             f'(were not sampled), {len(lacking)} examples in all; use exact')  # fmt: skip
        gaps = _gaps(docs, said, reference(lm, params, first))
        if not np.mean(gaps) <= max_gap:
            found = f'{np.mean(gaps):.3g} nats a token in the mean, {max(gaps):.3g} at most'
            raise ValueError(f"train.reference='sampler': trainer and sampler differ by {found}, and "
                             f'max_gap={max_gap}; use exact')  # fmt: skip
        return said, gaps
    if kind == 'base' and wanted:
        return reference(lm, lm.base(), batches), _gaps(docs, said, reference(lm, params, first))
    if not wanted and np.isnan(said).all():
        return None, []
    table = reference(lm, params, batches)
    return table, _gaps(docs, said, table)


def _name(loss) -> str:
    return getattr(loss, 'func', loss).__name__


def _sampled(docs, examples) -> np.ndarray:
    """The log-probabilities [examples N] that responses were sampled with, nan where they were not."""
    nan = lambda x: math.nan if x is None else x  # noqa: E731
    out = np.full((1 + docs[-1].index, max(len(d.responses) for d in docs)), np.nan, np.float32)
    for doc in docs:
        out[doc.index, : len(doc.responses)] = [nan(r.logp) for r in examples[doc.index].responses]
    return out


def _gaps(docs, said, table) -> list[float]:
    """|trainer − sampler| mean log-probability per token of each sampled response. 0 up to rounding, or a bug."""
    lengths = np.ones_like(said)
    for doc in docs:
        lengths[doc.index] = [len(r) for r in doc.responses]
    gaps = np.abs(table - said[: len(table)]) / lengths[: len(table)]
    return gaps[~np.isnan(gaps)].tolist()
