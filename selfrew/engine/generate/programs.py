"""The device's side: slots that samples are made in, and the three programs that work on them.

A slot holds one sample. The cache of its tokens, from its prompt's first on, lies in pages, of
which it gets more as it grows; which they are is the host's to know. With so many slots, what is
computed in one depends on nothing that happens in another, to the last bit, so a sample may be made
in any slot, next to any other, in any pages, at any time.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from selfrew.engine.generate import token_sampling
from selfrew.mesh import sharding
from selfrew.models import attention, decoder


class SlotRequest(NamedTuple):
    """What is asked of each slot's sample; [A] of it come to as many slots when samples are let in."""

    key: Any  # [S _] uint32, the data of its key
    token: Any  # [S] int32, its prompt's last token
    filled: Any  # [S] int32, its prompt's other tokens, but for those that all prompts share
    limit: Any  # [S] int32, tokens that it may have
    temperature: Any  # [S] float32; this and the next three: see token_sampling.sample_tokens
    top_k: Any  # [S] int32
    top_p: Any  # [S] float32
    min_p: Any  # [S] float32
    ends: Any  # [S E] int32, tokens that end it; -1 where there are fewer


KINDS = (
    'uint32',
    'int32',
    'int32',
    'int32',
    'float32',
    'int32',
    'float32',
    'float32',
    'int32',
)  # of Ask's fields


class Slots(NamedTuple):
    cache: tuple  # of dicts, see `empty_cache`: its rows are pages
    ask: SlotRequest  # its token is the last one drawn, filled how many columns are in use
    produced: Any  # [S] int32
    active: Any  # [S] bool
    tokens: Any  # [S T] int32, what has been produced
    logp: Any  # [S T] float32, of each under the raw distribution, in nats


def empty_cache(module, dtype, rows: int, columns: int) -> tuple:
    """An empty one: dicts of 'k' [X rows K H columns] and 'v' [X rows K columns H], X the layers.

    One of all layers, or of an unstacked module one of each layer, X = 1.
    """
    c = module.config
    stacks, layers = (1, c.layers) if module.stacked else (c.layers, 1)
    k = jnp.zeros((layers, rows, c.kv_heads, c.head_dim, columns), dtype)
    return tuple(
        attention.constrain_cache({'k': k, 'v': k.swapaxes(3, 4)}, module.mesh)
        for _ in range(stacks)
    )


def _pinned(module, slots: Slots) -> Slots:
    """The slots as they lie: caches split, and what is small on every device, for each process
    reads it.
    """
    kept, *rest = slots
    whole = jax.tree.map(lambda x: sharding.constrain(module.mesh, x, *[None] * x.ndim), rest)
    return Slots(tuple(attention.constrain_cache(stack, module.mesh) for stack in kept), *whole)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=5)
def prefill(module, params, tokens_RL, start, shared, cache):
    """The cache with the next L tokens of each prompt, in the columns from `start` on.

    Rows whose prompt is shorter hold anything behind it. A prompt read in pieces does not stall the
    slots.
    """
    R, L = tokens_RL.shape
    P = shared[0]['k'].shape[3] if shared else 0
    position_RL = jnp.broadcast_to(P + start + jnp.arange(L)[None, :], (R, L))
    mask_RLC = _upto(P + cache[0]['k'].shape[4], position_RL)
    return module.apply({'params': params}, tokens_RL, position_RL, mask_RLC, cache, start, shared)[
        1
    ]


def _upto(columns: int, position_RL):
    return jnp.arange(columns)[None, None, :] <= position_RL[:, :, None]


@functools.partial(jax.jit, static_argnums=0)
def as_prefix_cache(module, cache) -> tuple:
    """What was read in one row, as what all rows begin with."""
    lay = lambda x: sharding.constrain(module.mesh, x[:, 0], None, 'kv', None, None)
    return tuple({name: lay(x) for name, x in one.items()} for one in cache)


@functools.partial(
    jax.jit,
    static_argnums=(0, 1),
    static_argnames=('rows', 'pages', 'page', 'limit', 'ends', 'words'),
)
def empty_slots(module, dtype, *, rows, pages, page, limit, ends, words) -> Slots:
    """Slots without samples.

    pages: how many there are, of `page` tokens each. limit: the longest sample. ends: how many
      tokens may end one.
    words: of a key's data.
    """
    i32, f32 = (
        functools.partial(_zeros, rows, jnp.int32),
        functools.partial(_zeros, rows, jnp.float32),
    )
    ask = SlotRequest(
        _zeros(rows, jnp.uint32, words), i32(), i32(), i32(), f32(), i32(), f32(), f32(), i32(ends)
    )
    return _pinned(
        module,
        Slots(
            empty_cache(module, dtype, pages, page), ask, i32(), i32() > 0, i32(limit), f32(limit)
        ),
    )


def _zeros(rows, kind, *shape):
    return jnp.zeros((rows, *shape), kind)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def insert(module, slots: Slots, pool, slot_A, row_A, page_AB, ask_A: SlotRequest) -> Slots:
    """The slots with new samples in `slot`, their prompts from rows of the pool; what is beyond the
    last is dropped.

    page: of each stretch of the row, counted over the whole cache; 0: nowhere.
    """
    put = lambda x, new: x.at[slot_A].set(new, mode='drop')
    copied = functools.partial(_copied, module.mesh, row_A=row_A, page_AB=page_AB)
    fresh = jax.tree.map(put, slots.ask, ask_A), put(slots.produced, 0), put(slots.active, True)
    return _pinned(
        module, Slots(tuple(map(copied, slots.cache, pool)), *fresh, slots.tokens, slots.logp)
    )


def _copied(mesh, held, pool, *, row_A, page_AB):
    """A part of the cache with rows of the pool in its pages."""
    (A, B), (X, _, K, H, W) = page_AB.shape, held['k'].shape
    if not attention.writes_in_place(mesh):
        k = pool['k'][:, row_A].reshape(X, A, K, H, B, W).transpose(0, 1, 4, 2, 3, 5)
        v = pool['v'][:, row_A].reshape(X, A, K, B, W, H).transpose(0, 1, 3, 2, 4, 5)
        return {'k': held['k'].at[:, page_AB].set(k), 'v': held['v'].at[:, page_AB].set(v)}

    def one(i, held):
        a, b, out = i // B, i % B, {}
        for name, axis in (('k', 4), ('v', 3)):
            row = jax.lax.dynamic_slice_in_dim(pool[name], row_A[a], 1, axis=1)
            page = jax.lax.dynamic_slice_in_dim(row, b * W, W, axis)
            out[name] = jax.lax.dynamic_update_slice_in_dim(held[name], page, page_AB[a, b], axis=1)
        return out

    return jax.lax.fori_loop(0, A * B, one, held)


@functools.partial(jax.jit, static_argnums=0)
def move_pages(module, part, page_DP) -> dict:
    """A part of the cache with other pages: of each of D parts of the mesh these of its own, [D P]."""
    D = len(page_DP)
    pick = jax.vmap(lambda x, ids: x[:, ids], in_axes=(1, 0), out_axes=1)
    apart = lambda x: x.reshape(x.shape[0], D, -1, *x.shape[2:])
    joined = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])
    return attention.constrain_cache(
        {name: joined(pick(apart(x), page_DP)) for name, x in part.items()}, module.mesh
    )


@jax.jit
def select_slots(slots: Slots, slot_S) -> Slots:
    """Some of the slots; their cache aside."""
    return jax.tree.map(lambda x: x[slot_S], slots)


def decode_step(module, params, shared, slots: Slots, pages) -> Slots:
    """Each slot's last token read and the next one drawn; nothing changes in slots that are not
    active.

    pages: attention.Pages, `filled` aside, with room for the token.
    """
    ask, S = slots.ask, len(slots.active)
    P = shared[0]['k'].shape[3] if shared else 0
    position_S1 = P + ask.filled[:, None]
    mask_S1C = _upto(P + pages.table.shape[1] * slots.cache[0]['k'].shape[4], position_S1)
    # Read into the column behind those in use; a slot that is not active never comes to read it.
    hidden_S1D, kept = module.apply(
        {'params': params},
        ask.token[:, None],
        position_S1,
        mask_S1C,
        slots.cache,
        pages._replace(filled=ask.filled),
        shared,
    )
    key_S = jax.random.wrap_key_data(ask.key)
    uniform_S = jax.vmap(lambda k, t: jax.random.uniform(jax.random.fold_in(k, t)))(
        key_S, slots.produced
    )
    logits_SV = decoder.logits(module, params, hidden_S1D[:, 0])
    token_S, logp_S = token_sampling.sample_tokens(
        logits_SV, uniform_S, ask.temperature, ask.top_k, ask.top_p, ask.min_p
    )
    live_S = slots.active
    next_S = jnp.where(live_S, slots.produced, slots.tokens.shape[1])
    put = lambda x, new: x.at[jnp.arange(S), next_S].set(new, mode='drop')
    produced_S = slots.produced + live_S
    over_S = jnp.any(token_S[:, None] == ask.ends, axis=1) | (produced_S >= ask.limit)
    ask = ask._replace(token=jnp.where(live_S, token_S, ask.token), filled=ask.filled + live_S)
    made = put(slots.tokens, token_S), put(slots.logp, logp_S)
    return _pinned(module, Slots(kept, ask, produced_S, live_S & ~over_S, *made))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode(module, params, shared, slots: Slots, pages, wanted_S, floor, most) -> Slots:
    """The slots after at most `most` steps; after fewer once no more than `floor` are active.

    pages: see `step`, with room for so many tokens. wanted: [S] bool; what the host wants no more
      of stops.
    """
    going = lambda carry: (carry[0] < most) & (jnp.sum(carry[1].active) > floor)
    one = lambda carry: (carry[0] + 1, decode_step(module, params, shared, carry[1], pages))
    slots = slots._replace(active=slots.active & wanted_S)
    return _pinned(module, jax.lax.while_loop(going, one, (jnp.int32(0), slots))[1])
