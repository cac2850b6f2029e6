"""The device side of learning: selected-token log-probabilities, the reference pass, one optimiser step. Layer 4."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from selfrew import encode, hosts, losses, sharding
from selfrew.models import decoder
from selfrew.types import Batch, Forward, State

CHUNK = 8192  # selected tokens whose logits exist at a time


def visible(batch: Batch):
    """[R L L] bool: a token sees its own document's prompt and its own branch, causally."""
    doc, branch = batch.doc, batch.branch
    index = jnp.arange(doc.shape[1])
    same = doc[:, :, None] == doc[:, None, :]
    trunk = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return same & trunk & (index[None, :, None] >= index[None, None, :])


def token_logp(module, params, hidden_RSD, target_RS):
    """Log-probability [R S] of each target, in nats, float32: the selected-token primitive.

    The head runs over CHUNK tokens at a time and again in the backward pass, so that no [R S V] array exists.
    """
    R, S, D = hidden_RSD.shape
    width = max(1, min(S, CHUNK // R))
    pad = -S % width
    hidden = jnp.pad(hidden_RSD, ((0, 0), (0, pad), (0, 0))).reshape(R, -1, width, D).swapaxes(0, 1)
    target = jnp.pad(target_RS, ((0, 0), (0, pad))).reshape(R, -1, width).swapaxes(0, 1)

    @jax.checkpoint
    def chunk(hidden_RWD, target_RW):
        logits_MV = decoder.head(module, params, hidden_RWD.reshape(-1, D))
        picked_M = jnp.take_along_axis(logits_MV, target_RW.reshape(-1, 1), axis=-1)[:, 0]
        return (picked_M - jax.nn.logsumexp(logits_MV, axis=-1)).reshape(R, width)

    logp = jax.lax.map(lambda xs: chunk(*xs), (hidden, target)) if S > width else chunk(hidden[0], target[0])[None]
    return logp.swapaxes(0, 1).reshape(R, -1)[:, :S]


def selected(module, params, batch: Batch):
    """Log-probability [R S] of each response token of the batch, in nats; 0 where a place is unused."""
    hidden_RLD, _ = module.apply({'params': params}, batch.tokens, batch.position, visible(batch))
    hidden_RSD = jnp.take_along_axis(hidden_RLD, batch.source[:, :, None], axis=1)
    target_RS = jnp.take_along_axis(batch.tokens, batch.target, axis=1)
    return token_logp(module, params, hidden_RSD, target_RS) * batch.mask


def forward(module, params, batch: Batch) -> Forward:
    """Summed log-probabilities and lengths [B N] of the batch's responses."""
    logp_RS = selected(module, params, batch)
    B, N = batch.ref_logp.shape
    doc_RS = jnp.take_along_axis(batch.doc, batch.target, axis=1)
    branch_RS = jnp.take_along_axis(batch.branch, batch.target, axis=1)
    segment_RS = jnp.where(batch.mask > 0, (doc_RS - 1) * N + branch_RS - 1, 0)  # unused places add 0 to the first
    total = functools.partial(jax.ops.segment_sum, segment_ids=segment_RS.reshape(-1), num_segments=B * N)
    return Forward(total(logp_RS.reshape(-1)).reshape(B, N), total(batch.mask.reshape(-1)).reshape(B, N))


def place(lm, batch: Batch) -> Batch:
    """The batch on the mesh: rows split, per-example columns whole."""
    per_example = {'weight', 'real', 'index', 'ref_logp'}
    return Batch(*(lm.whole(x) if name in per_example else lm.rows(x) for name, x in batch._asdict().items()))


@functools.partial(jax.jit, static_argnums=0)
def _logp(module, params, batch):
    return forward(module, params, batch).logp


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


# --- optimisers: a shelf; each returns a transformation without a learning rate, which `train` multiplies in ----------


def adamw(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, clip: float = 1.0):
    """AdamW (arXiv 1711.05101) after clipping the gradient's global norm to `clip`."""
    adam = optax.scale_by_adam(b1, b2, eps)
    return optax.chain(optax.clip_by_global_norm(clip), adam, optax.add_decayed_weights(weight_decay))


def rmsprop(*, decay: float = 0.9, eps: float = 1e-8, clip: float = 10.0):
    """RMSprop, the optimiser of the original DPO code, after clipping the gradient's global norm to `clip`."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_rms(decay, eps))


SCHEDULES = 'constant', 'linear', 'cosine'


def check_schedule(schedule: str) -> None:
    """ValueError where there is no such schedule."""
    if schedule not in SCHEDULES:
        raise ValueError(f'no schedule {schedule!r}; there are: {", ".join(SCHEDULES)}')


def learning_rate(step: int, steps: int, *, lr: float, warmup: float = 0.0, schedule: str = 'constant',
                  final: float = 0.0) -> float:  # fmt: skip
    """The rate at `step` (from 0) of `steps`: a linear rise over the fraction `warmup`, then `schedule` to final·lr."""
    rise = warmup * steps
    if step < rise:
        return lr * (step + 1) / (rise + 1)
    done = (step - rise) / max(steps - rise, 1)
    shape = {'constant': 1.0, 'linear': 1 - done, 'cosine': 0.5 * (1 + math.cos(math.pi * done))}[schedule]
    return lr * shape if schedule == 'constant' else lr * (final + (1 - final) * shape)


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
    like, other = (lambda _, s: s), (lambda _: replicated)
    where = optax.tree_map_params(optimizer, like, moments, trained(lm, lie), transform_non_params=other)
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
    """The compiled update (state, batch, lr, key) -> (state, metrics); the same one for the same loss and optimiser."""

    def objective(part, params, batch, key):
        out = forward(lm.module, whole(params, part), batch)
        loss_B, metrics = loss(out, batch, key)
        count = jnp.maximum(jnp.sum(batch.real), 1.0)
        metrics = {name: jnp.sum(value_B * batch.real) / count for name, value_B in metrics.items()}
        return jnp.sum(loss_B * batch.weight * batch.real) / count, metrics

    def step(state, rest, batch, lr, key):
        part, mastered = state.params, _mastered(lm)
        (value, metrics), grads = jax.value_and_grad(objective, has_aux=True)(part, rest, batch, key)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
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


def train(lm, state, examples, key, loss, report, *, optimizer, lr: float, batch: int = 16, epochs: int = 1,
          max_steps: int | None = None, row_length: int = 512, warmup: float = 0.0, schedule: str = 'constant',
          final: float = 0.0):  # fmt: skip
    """A round's updates on its examples; the reference is `state.params` as they come in. Returns (State, totals).

    The state that comes in is spent: its arrays become those of the one that is returned, so that a model need not lie
    in memory twice.

    Args:
      loss: from the shelf `losses`, bound. report(step, metrics): called after each update, with floats.
      optimizer: a function that makes an optax transformation, see above.
      batch: examples an update. epochs: passes over the examples. max_steps: stops earlier, or None.
      row_length: tokens of a packed row; an example that does not fit is dropped and counted.
      lr, warmup, schedule, final: see `learning_rate`.
    Totals are numbers: steps, examples, dropped, tokens (of responses, trained on), gap (mean |trainer − sampler|
    log-probability per token, nan where nothing was sampled) and gap_max (the largest such mean of one response).
    Raises ValueError for an option out of range, a schedule that does not exist, or where no example is left.
    """
    for name, value in {'batch': batch, 'epochs': epochs, 'row_length': row_length, 'max_steps': max_steps}.items():
        if value is not None and value < 1:
            raise ValueError(f'train.{name}={value}: want at least 1')
    check_schedule(schedule)
    docs, dropped = encode.tokenise(lm.text, examples, row_length=row_length, positions=lm.config.max_length)
    if not docs:
        raise ValueError(f'no example to train on: {len(examples)} came, {dropped} of them empty or longer than '
                         f'row_length={row_length} or {lm.config.max_length} positions')  # fmt: skip
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    pack = functools.partial(
        encode.batches, docs, batch=batch, row_length=row_length, multiple=sharding.row_count(lm.mesh), rng=rng
    )
    passes = [pack() for _ in range(epochs)]
    todo, table = [b for one in passes for b in one][:max_steps], None
    if _name(loss) not in losses.REFERENCE_FREE or any(r.logp is not None for e in examples for r in e.responses):
        table = reference(lm, state.params, passes[0])
        todo = [annotate(b, table) for b in todo]
    optimizer = made(optimizer)
    state, step = start(lm, state, optimizer), stepper(lm, loss, optimizer)
    metrics = None
    with tqdm(total=len(todo), desc='update', unit='step', mininterval=1.0, disable=not hosts.main()) as bar:
        for i, one in enumerate(todo):
            rate = learning_rate(i, len(todo), lr=lr, warmup=warmup, schedule=schedule, final=final)
            state, latest = step(state, place(lm, one), rate, jax.random.fold_in(key, i))
            if metrics is not None:  # the step before: fetched while this one runs
                report(i - 1, {k: float(v) for k, v in metrics.items()})
            metrics = latest | {'lr': rate}
            bar.update()
        report(len(todo) - 1, {k: float(v) for k, v in metrics.items()})
    tokens = sum(float(b.mask.sum()) for b in todo)
    gaps = [] if table is None else _gaps(docs, examples, table)
    return state, {
        'steps': len(todo), 'examples': len(docs), 'dropped': dropped, 'tokens': tokens,
        'gap': float(np.mean(gaps)) if gaps else math.nan, 'gap_max': max(gaps, default=math.nan),
    }  # fmt: skip


def _name(loss) -> str:
    return getattr(loss, 'func', loss).__name__


def _gaps(docs, examples, table) -> list[float]:
    """|trainer − sampler| mean log-probability per token of each sampled response. 0 up to rounding, or a bug."""
    return [
        abs(float(logp) - response.logp) / len(response.tokens)
        for doc in docs
        for response, logp in zip(examples[doc.index].responses, table[doc.index])
        if response.logp is not None
    ]
