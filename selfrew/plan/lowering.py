"""The programs of a round, with the shapes and shardings of their arguments, ready to be lowered.

Arrays are jax.ShapeDtypeStructs: nothing is allocated.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from selfrew.engine import loss_contract, reference, sampling_layout, train_state, train_step
from selfrew.engine.generate import memory_plan, programs, scheduler
from selfrew.engine.generate.control import Scorers
from selfrew.mesh import sharding
from selfrew.models import attention, decoder, language_model, paged_attention
from selfrew.models.config import ModelConfig
from selfrew.plan.jobs import Job, PlannedJob, argument
from selfrew.plan.training import BatchShape, reference_passes
from selfrew.running.turns import Turn
from selfrew.types import Batch, State

LEARNING_RATE = 1e-6  # any: it is an argument of the update


class Program(NamedTuple):
    title: str
    tokens: int  # that a call works on
    flops: float  # of a call, on all devices; see model_flops
    lower: Callable[[], jax.stages.Lowered]
    bytes: dict[str, int]  # a device: 'params', 'optimiser', 'cache'
    touched: float  # bytes that a device must read and write at least in a call
    # (FLOPs, bytes read and written) of its Pallas kernels on a device, where it has any
    kernel_work: tuple[float, float] = (0.0, 0.0)


def model_flops(
    config: ModelConfig, weights: int, tokens: int, head_positions: int, context: float
) -> float:
    """FLOPs of a forward pass: 2 a weight and token, and attention.

    weights: of the blocks' matrices. head_positions: where the vocabulary's head is applied.
    context: columns that a query sees, summed over queries; a causal row of L counts L²/2.
    """
    attended = 4 * config.layers * config.heads * config.head_dim * context
    return 2.0 * weights * tokens + 2.0 * config.width * config.vocab * head_positions + attended


def round_programs(
    lm: language_model.Lm,
    sampling: language_model.Lm,
    turn: Turn,
    planned_jobs: list[PlannedJob],
    shape: BatchShape,
) -> Iterator[Program]:
    """The programs of a round: prefill and decode of each job, reference, update.

    sampling: the model on the mesh that it samples on; `lm` itself where that is one with the mesh
    of updates.
    """
    is_one, optimizer = sampling is lm, _optimizer(turn)
    lm = train_state.training_only(lm, argument(turn.train, 'only'))
    state = train_state.abstract_state(lm, optimizer)
    yield from sampling_programs(sampling, planned_jobs, state.params if is_one else None)
    batch = _batch(lm, shape)
    if reference_passes(turn):
        yield _reference_program(lm, turn.loss, state.params, batch, shape)
    yield update_program(lm, turn, shape)


def update_program(lm: language_model.Lm, turn: Turn, shape: BatchShape) -> Program:
    """The update of a turn."""
    lm, optimizer = train_state.training_only(lm, argument(turn.train, 'only')), _optimizer(turn)
    state = train_state.abstract_state(lm, optimizer)
    return _update_program(lm, turn.loss, optimizer, state, _batch(lm, shape), shape)


def _optimizer(turn: Turn):
    return train_state.cached_optimizer(turn.train.keywords['optimizer'])


def sampling_programs(
    lm: language_model.Lm, planned_jobs: list[PlannedJob], params=None
) -> Iterator[Program]:
    """Prefill and decode of each job.

    params: None: as they are laid out for sampling, see sampling_layout.sampled_params.
    """
    params = sampling_layout.sampled_params(lm) if params is None else params
    for job, sizes in planned_jobs:
        prefix = _prefix_cache(lm, sizes.prefix_tokens)
        yield _prefill_program(lm, params, job, sizes, prefix)
        yield _decode_program(lm, params, job, sizes, None if sizes.prefix_pages else prefix)


# --- arrays -----------------------------------------------------------------------------------


def _rows(lm, shape: tuple, dtype) -> jax.ShapeDtypeStruct:
    """An array whose first axis is split over the mesh."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.of(lm.mesh, 'rows'))


def _replicated(lm, shape: tuple, dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.of(lm.mesh))


def _with_cache_shardings(lm, tree):
    """The arrays of slots or caches: rows and heads of caches are split, the rest is replicated."""

    def place(path, array):
        if array.ndim == 5:
            layout = attention.cache_sharding(path[-1].key, array.shape, lm.mesh)
        else:
            layout = sharding.of(lm.mesh)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=layout)

    return jax.tree.map_with_path(place, tree)


def _cache(lm, rows: int, columns: int):
    """An empty cache, see programs.empty_cache."""
    make_empty = functools.partial(programs.empty_cache, lm.module, lm.cache_dtype, rows, columns)
    return _with_cache_shardings(lm, jax.eval_shape(make_empty))


def _prefix_cache(lm, columns: int):
    """The cache of a prefix that all prompts share, or None where there is none."""
    if not columns:
        return None
    names = None, 'kv', None, None
    layout = sharding.of_shape(lm.mesh, (0, lm.config.kv_heads, 0, 0), names)
    make_prefix = functools.partial(programs.as_prefix_cache, lm.module)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        jax.eval_shape(make_prefix, _cache(lm, 1, columns)),
    )


def _batch(lm, shape: BatchShape) -> Batch:
    """The batch of one micro-batch."""
    R, L, S = shape.rows, shape.length, shape.selected
    B, N, P = shape.examples, shape.n, sharding.row_shards(lm.mesh)
    i32, f32 = jnp.int32, jnp.float32
    return Batch(
        tokens=_rows(lm, (R, L), i32),
        position=_rows(lm, (R, L), i32),
        doc=_rows(lm, (R, L), i32),
        branch=_rows(lm, (R, L), i32),
        target=_rows(lm, (P, S), i32),
        source=_rows(lm, (P, S), i32),
        mask=_rows(lm, (P, S), f32),
        weight=_replicated(lm, (B,), f32),
        real=_replicated(lm, (B,), f32),
        index=_replicated(lm, (B,), i32),
        count=_replicated(lm, (), f32),
        lengths=_replicated(lm, (N,), f32),
        ended=_replicated(lm, (B, N), f32),
        ref_logp=_replicated(lm, (B, N), f32),
        scores=_replicated(lm, (B, N), f32),
        labels=_replicated(lm, (B, N), f32),
    )


def _device_bytes(tree) -> int:
    """Bytes of a tree of arrays on one device."""
    return sum(map(sharding.bytes_of_shard, jax.tree.leaves(tree)))


# --- programs ---------------------------------------------------------------------------------


def _prefill_program(lm, params, job: Job, sizes: memory_plan.MemoryPlan, prefix) -> Program:
    """One chunk of the prompts that are read together."""
    R, L = sizes.prefill_rows, sizes.prefill_chunk
    pool = _cache(lm, R, sizes.prefill_columns)
    context = job.prompt_tokens / 2  # columns that a query sees on average
    weights = decoder.count_weights(lm.module)

    def lower():
        tokens_RL, start = _rows(lm, (R, L), jnp.int32), _replicated(lm, (), jnp.int32)
        return programs.prefill.lower(lm.module, params, tokens_RL, start, prefix, pool)

    return Program(
        f'{job.title}: prefill',
        R * L,
        model_flops(lm.config, weights, R * L, 0, R * L * context),
        lower,
        {'params': _device_bytes(params), 'cache': _device_bytes(pool)},
        _device_bytes(params),
    )


def _decode_program(lm, params, job: Job, sizes: memory_plan.MemoryPlan, prefix) -> Program:
    """A burst of steps, with a cache in which every sample may reach its full length."""
    S, B = sizes.slots, sizes.pages_per_slot
    shards, shared = sharding.row_shards(lm.mesh), sizes.prefix_pages
    page_count = shards * (1 + shared) + S * (B - shared)
    make_slots = functools.partial(
        programs.empty_slots,
        lm.module,
        lm.cache_dtype,
        rows=S,
        pages=page_count,
        page_size=sizes.page_size,
        max_tokens=sizes.max_tokens,
        ends=1,
        words=2,
    )
    slots = _with_cache_shardings(lm, jax.eval_shape(make_slots))
    pages = paged_attention.Pages(
        table=_rows(lm, (S, B), jnp.int32),
        owner=_rows(lm, (page_count,), jnp.int32),
        place=_rows(lm, (page_count,), jnp.int32),
        filled=None,
    )
    tokens = S * scheduler.BURST
    context = job.prompt_tokens + job.mean_tokens / 2  # columns that a query sees on average
    weights = decoder.count_weights(lm.module)

    def lower():
        burst = jax.jit(functools.partial(_burst, lm.module), donate_argnums=2)
        scorers = Scorers(params['value'], (), ()) if job.is_steered else None
        return burst.lower(params, prefix, slots, pages, scorers)

    return Program(
        f'{job.title}: decode',
        tokens,
        model_flops(lm.config, weights, tokens, tokens, tokens * context),
        lower,
        {'params': _device_bytes(params), 'cache': _device_bytes(slots.cache)},
        scheduler.BURST * _device_bytes(params)
        + tokens // shards * context * memory_plan.column_bytes(lm),
        _decode_kernel_work(lm, job, sizes, tokens // shards),
    )


def _decode_kernel_work(
    lm, job: Job, sizes: memory_plan.MemoryPlan, tokens: int
) -> tuple[float, float]:
    """(FLOPs, bytes) of paged attention for so many tokens of a device's samples.

    Of each sample it reads blocks of pages, and multiplies them with as many samples' queries as it
    works on together.
    """
    block = min(paged_attention.KERNEL_PAGES, sizes.pages_per_slot) * sizes.page_size
    first, last = (
        -(-length // block) for length in (job.prompt_tokens, job.prompt_tokens + job.mean_tokens)
    )
    columns = (first + last) / 2 * block
    c = lm.config
    heads = c.heads // sharding.shards(lm.mesh, 'heads', c.heads)
    flops = 4 * c.layers * heads * c.head_dim * columns * paged_attention.KERNEL_SAMPLES
    return tokens * flops, tokens * columns * memory_plan.column_bytes(lm)


def _burst(module, params, prefix, slots, pages, scorers):
    """What programs.decode does in a burst, with a number of steps that the compiler knows."""
    return jax.lax.fori_loop(
        0,
        scheduler.BURST,
        lambda _, slots: programs.decode_step(module, params, prefix, slots, pages, scorers),
        slots,
    )


def _reference_program(lm, loss, params, batch: Batch, shape: BatchShape) -> Program:
    with_tokens = loss_contract.reads_reference_of_tokens(loss)
    with_tokens |= loss_contract.reads_old_logp(loss)

    def lower():
        forward = reference.compiled_response_logp(sharding.platform(lm.mesh))
        return forward.lower(lm.module, params, batch, with_tokens=with_tokens)

    return Program(
        'reference',
        shape.rows * shape.length,
        forward_flops(lm, shape),
        lower,
        {'params': _device_bytes(params)},
        _device_bytes(params),
        _splash_work(lm, shape, passes=1.0),
    )


def _splash_work(lm, shape: BatchShape, passes: float) -> tuple[float, float]:
    """(FLOPs, bytes) of splash attention over a device's rows of a micro-batch: of a causal row the
    half of its square, and the masks, of four bytes an element, of all of it.
    """
    R, L = shape.rows // sharding.row_shards(lm.mesh), shape.length
    c = lm.config
    heads = c.heads // sharding.shards(lm.mesh, 'heads', c.heads)
    flops = 4 * c.layers * heads * c.head_dim * R * L * L / 2
    return passes * flops, passes * c.layers * R * 4 * L * L


def forward_flops(lm, shape: BatchShape) -> float:
    """FLOPs of a forward pass over one micro-batch."""
    R, L = shape.rows, shape.length
    selected = sharding.row_shards(lm.mesh) * shape.selected
    weights = decoder.count_weights(lm.module)
    return model_flops(lm.config, weights, R * L, selected, R * L * L / 2)


def _passes(lm) -> int:
    """Forward passes that an update costs. A backward pass is 2; with LoRA 1, without the weights'
    gradients; 0 where the value head alone is trained, behind the last hidden state.
    """
    return 1 if lm.only else 2 if lm.config.lora else 3


def _update_program(lm, loss, optimizer, state: State, batch: Batch, shape: BatchShape) -> Program:
    """One update."""
    A = shape.micros
    has_frozen = train_state.has_frozen(lm)

    def stacked(array):
        is_split = array.sharding == sharding.of(lm.mesh, 'rows')
        layout = sharding.of(lm.mesh, None, *(['rows'] if is_split else []))
        return jax.ShapeDtypeStruct((A, *array.shape), array.dtype, sharding=layout)

    def lower():
        asked = batch
        if loss_contract.reads_reference_of_tokens(loss):
            logp_PS = _rows(lm, batch.mask.shape, jnp.float32)
            asked = asked._replace(ref_token_logp=logp_PS)
        if loss_contract.reads_old_logp(loss):
            asked = asked._replace(old_token_logp=_rows(lm, batch.mask.shape, jnp.float32))
        batches: Any = asked if A == 1 else jax.tree.map(stacked, asked)
        frozen = state.params if has_frozen else {'blocks': {}}
        updated = state._replace(params=train_state.trainable_params(lm, state.params))
        key = _replicated(lm, (), jax.eval_shape(lambda: jax.random.key(0)).dtype)
        step = train_step.compiled_step(lm, loss, optimizer).compiled
        return step.lower(updated, frozen, batches, LEARNING_RATE, key)

    return Program(
        'update',
        A * shape.rows * shape.length,
        A * forward_flops(lm, shape) * _passes(lm),
        lower,
        {'params': _device_bytes(state.params), 'optimiser': _device_bytes(state.opt)},
        2.0 * (_device_bytes(state.params) + _device_bytes(state.opt)),
        # A backward pass has five products for the two of a forward pass.
        _splash_work(lm, shape, passes=A * (3.5 + (lm.module.remat != 'none'))),
    )
