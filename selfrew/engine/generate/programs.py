"""The device's side of sampling: the slots, and the programs that work on them.

A slot holds one sample. Its tokens' cache, from the first one of its prompt on, lies in pages, and
it gets more of them as the sample grows; the host's page table knows which. What is computed in a
slot depends on nothing in the others. So a sample may be made in any slot, beside any others, in
any pages, at any time; selfrew.engine.generate says to which precision results then agree.

Axis letters beside those of selfrew.types: S slots, A slots that are filled together, B pages that
a slot may have, E end tokens of a request, P columns of the prefix, W columns of a page, Q pages of
a part of the mesh, Z parts of the mesh, X layers of a cache.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from selfrew.engine.generate import control, token_sampling
from selfrew.mesh import sharding
from selfrew.models import attention, decoder, paged_attention


class SlotRequest(NamedTuple):
    """The request in each of S slots; `insert` takes those of A slots."""

    key: Any  # [S _] uint32, the data of its key
    token: Any  # [S] int32, the last token: the prompt's, later the last one sampled
    # [S] int32, tokens in its pages; at first those of the prompt without the shared prefix and the
    # last token
    filled: Any
    limit: Any  # [S] int32, tokens that the sample may have
    temperature: Any  # [S] float32; this and the next three: see token_sampling.sample_tokens
    top_k: Any  # [S] int32
    top_p: Any  # [S] float32
    min_p: Any  # [S] float32
    ends: Any  # [S E] int32, tokens that end the sample, padded with -1
    strength: Any  # [S] float32, times the tokens' values it is added to their logits


# The dtypes of its fields.
REQUEST_DTYPES = SlotRequest(
    *('uint32', 'int32', 'int32', 'int32', 'float32', 'int32', 'float32', 'float32', 'int32'),
    'float32',
)


class Slots(NamedTuple):
    cache: tuple  # of dicts, see `empty_cache`; its rows are pages
    request: SlotRequest
    token_count: Any  # [S] int32, tokens sampled so far
    active: Any  # [S] bool
    tokens: Any  # [S T] int32, those sampled so far
    logp: Any  # [S T] float32, of each under the raw distribution, in nats
    sampled_logp: Any  # [S T] float32, of each under the one that it was drawn from
    value: Any  # [S] float32, of the prompt and all tokens so far, by scorers; 0 without any


def empty_cache(module, dtype, rows: int, columns: int, *, kernel: str | None = None) -> tuple:
    """Zeros: dicts of 'k' [X rows K H columns] and 'v' [X rows K columns H]; or as a kernel of
    paged_attention reads pages.

    One dict with all layers, X = layers; of an unstacked module one for each layer, X = 1.
    """
    c = module.config
    dtype = attention.stored_dtype(dtype, module.mesh)
    stacks, layers = (1, c.layers) if module.stacked else (c.layers, 1)
    if kernel == paged_attention.TPU:
        part = {'kv': jnp.zeros((layers, rows, columns, 2 * c.kv_heads, c.head_dim), dtype)}
    elif kernel == paged_attention.GPU:
        shape = layers, rows, c.kv_heads, columns, c.head_dim
        part = {'keys': jnp.zeros(shape, dtype), 'values': jnp.zeros(shape, dtype)}
    else:
        k_XRKHC = jnp.zeros((layers, rows, c.kv_heads, c.head_dim, columns), dtype)
        part = {'k': k_XRKHC, 'v': k_XRKHC.swapaxes(3, 4)}
    return tuple(attention.constrain_cache(part, module.mesh) for _ in range(stacks))


def _empty_pages(module, dtype, pages: int, page_size: int) -> tuple:
    kernel = paged_attention.kernel_of(module, dtype)
    return empty_cache(module, dtype, pages, page_size, kernel=kernel)


def _constrain_slots(module, slots: Slots) -> Slots:
    """The slots with their shardings: the cache split, everything else replicated, since each
    process reads it.
    """
    cache, *rest = slots
    replicated = jax.tree.map(lambda x: sharding.constrain(module.mesh, x, *[None] * x.ndim), rest)
    return Slots(tuple(attention.constrain_cache(part, module.mesh) for part in cache), *replicated)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=5)
def prefill(module, params, tokens_RL, start, prefix, cache):
    """The prefill pool's cache with the next L tokens of each prompt, from column `start` on.

    prefix: the prefix cache, or None. Rows whose prompt is shorter hold arbitrary values after it.
    """
    R, L = tokens_RL.shape
    P = prefix[0]['k'].shape[3] if prefix else 0
    position_RL = jnp.broadcast_to(P + start + jnp.arange(L)[None, :], (R, L))
    mask_RLC = _causal_mask(P + cache[0]['k'].shape[4], position_RL)
    variables = {'params': params}
    return module.apply(variables, tokens_RL, position_RL, mask_RLC, cache, start, prefix)[1]


def _causal_mask(columns: int, position_RL):
    return jnp.arange(columns)[None, None, :] <= position_RL[:, :, None]


@functools.partial(jax.jit, static_argnums=0)
def as_prefix_cache(module, cache) -> tuple:
    """The prefix cache, 'k' [X K H P] and 'v' [X K P H], from a cache of one row that holds it."""

    def first_row(x):
        return sharding.constrain(module.mesh, x[:, 0], None, 'kv', None, None)

    return tuple({name: first_row(x) for name, x in part.items()} for part in cache)


@functools.partial(
    jax.jit,
    static_argnums=(0, 1),
    static_argnames=('rows', 'pages', 'page_size', 'max_tokens', 'ends', 'words', 'scorers'),
)
def empty_slots(
    module, dtype, *, rows, pages, page_size, max_tokens, ends, words, scorers=()
) -> Slots:
    """Slots without samples.

    Args:
      rows: number of slots.
      pages: number of pages, of `page_size` tokens each.
      max_tokens: of the longest sample.
      ends: the most end tokens of a request.
      words: uint32 words of a key's data.
      scorers: (module, dtype of its cache) of each scorer's model, see control.Scorers.
    """

    def zeros(dtype, *shape):
        return jnp.zeros((rows, *shape), dtype)

    i32, f32 = jnp.int32, jnp.float32
    request = SlotRequest(
        key=zeros(jnp.uint32, words),
        token=zeros(i32),
        filled=zeros(i32),
        limit=zeros(i32),
        temperature=zeros(f32),
        top_k=zeros(i32),
        top_p=zeros(f32),
        min_p=zeros(f32),
        ends=zeros(i32, ends),
        strength=zeros(f32),
    )
    cache, count = _empty_pages(module, dtype, pages, page_size), zeros(i32)
    for scorer, scorer_dtype in scorers:
        cache += _empty_pages(scorer, scorer_dtype, pages, page_size)
    tokens, logp = zeros(i32, max_tokens), zeros(f32, max_tokens)
    slots = Slots(cache, request, count, count > 0, tokens, logp, logp, zeros(f32))
    return _constrain_slots(module, slots)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def insert(module, slots: Slots, pool, slot_A, row_A, page_AB, request_A: SlotRequest) -> Slots:
    """The slots with new requests in `slot`, their prompts copied from rows of the prefill pool.

    slot: one beyond the last slot is dropped. page: where each page-sized stretch of the row goes,
    numbered over the whole cache; 0: nowhere.
    """

    def put(x, new):
        return x.at[slot_A].set(new, mode='drop')

    copy = functools.partial(_copy_rows, module.mesh, row_A=row_A, page_AB=page_AB)
    request = jax.tree.map(put, slots.request, request_A)
    count, active = put(slots.token_count, 0), put(slots.active, True)
    cache = tuple(map(copy, slots.cache, pool))
    slots = slots._replace(cache=cache, request=request, token_count=count, active=active)
    return _constrain_slots(module, slots)


def _copy_rows(mesh, part, pool, *, row_A, page_AB):
    """A part of the cache with rows of the pool in its pages."""
    A, B = page_AB.shape
    if 'k' not in part:
        rows = _as_kernel_pages(part, pool, row_A, B)
        return {name: x.at[:, page_AB].set(rows[name]) for name, x in part.items()}
    X, _, K, H, W = part['k'].shape
    if not attention.writes_in_place(mesh):
        k_XAKHBW = pool['k'][:, row_A].reshape(X, A, K, H, B, W)
        v_XAKBWH = pool['v'][:, row_A].reshape(X, A, K, B, W, H)
        k_XABKHW = k_XAKHBW.transpose(0, 1, 4, 2, 3, 5)
        v_XABKWH = v_XAKBWH.transpose(0, 1, 3, 2, 4, 5)
        k, v = part['k'].at[:, page_AB], part['v'].at[:, page_AB]
        return {'k': k.set(k_XABKHW), 'v': v.set(v_XABKWH)}

    def copy_page(index, part):
        request, block, copied = index // B, index % B, {}
        for name, axis in (('k', 4), ('v', 3)):
            row = jax.lax.dynamic_slice_in_dim(pool[name], row_A[request], 1, axis=1)
            page = jax.lax.dynamic_slice_in_dim(row, block * W, W, axis)
            copied[name] = jax.lax.dynamic_update_slice_in_dim(
                part[name], page, page_AB[request, block], axis=1
            )
        return copied

    return jax.lax.fori_loop(0, A * B, copy_page, part)


def _as_kernel_pages(part, pool, row_A, blocks: int) -> dict:
    """Rows of the pool, of so many pages each, as pages [X A B …] of a part that a kernel reads."""
    k_XAKHC, v_XAKCH = pool['k'][:, row_A], pool['v'][:, row_A]
    X, A, K, H, C = k_XAKHC.shape
    k_XABWKH, v_XABWKH = (
        x_XACKH.reshape(X, A, blocks, C // blocks, K, H)
        for x_XACKH in (k_XAKHC.transpose(0, 1, 4, 2, 3), v_XAKCH.transpose(0, 1, 3, 2, 4))
    )
    if 'keys' in part:
        return {'keys': k_XABWKH.swapaxes(3, 4), 'values': v_XABWKH.swapaxes(3, 4)}
    kv_XABWK2H = jnp.stack([k_XABWKH, v_XABWKH], axis=5)
    return {'kv': kv_XABWK2H.reshape(*kv_XABWK2H.shape[:4], 2 * K, H)}


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def write_prefix(module, cache, prefix, page_ZB) -> tuple:
    """The cache with a shared prefix in these pages of each part of the mesh.

    cache: of pages for a kernel, see paged_attention.attend. prefix: 'k' [X K H P] and
    'v' [X K P H], of B whole pages. page: numbered over the whole cache.
    """
    written = []
    for part, shared in zip(cache, prefix, strict=True):
        row = {name: x[:, None] for name, x in shared.items()}
        pages = _as_kernel_pages(part, row, jnp.zeros(1, jnp.int32), page_ZB.shape[1])
        part = {name: x.at[:, page_ZB].set(pages[name]) for name, x in part.items()}
        written.append(attention.constrain_cache(part, module.mesh))
    return tuple(written)


@functools.partial(jax.jit, static_argnums=0)
def move_pages(module, part, source_ZQ) -> dict:
    """A part of the cache with its pages rearranged: new page q of the z-th part of the mesh takes
    over the content of that part's old page source[z, q].
    """
    Z = len(source_ZQ)

    def take(array, pages):  # of one part of the mesh: [X pages …], [Q]
        return array[:, pages]

    def move(array):  # [X pages …], the pages of all parts
        by_part = array.reshape(array.shape[0], Z, -1, *array.shape[2:])
        moved = jax.vmap(take, in_axes=(1, 0), out_axes=1)(by_part, source_ZQ)  # [X Z Q …]
        return moved.reshape(moved.shape[0], -1, *moved.shape[3:])

    return attention.constrain_cache({name: move(x) for name, x in part.items()}, module.mesh)


@jax.jit
def select_slots(slots: Slots, slot_S) -> Slots:
    """These of the slots; the cache must be left out, as ()."""
    return jax.tree.map(lambda x: x[slot_S], slots)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def fork(module, slots: Slots, source_S, is_forked_S, limit_S, page_X, copy_X, copies) -> Slots:
    """The slots, of which some go on with the sample of another one.

    Args:
      source: [S] int32, the slot whose sample each slot has from now on; its own where it is not
        forked. key, and all that is not of the sample, stay the slot's own.
      is_forked: [S] bool, slots that become active, with the limit `limit` [S].
      page, copy: [X] int32, pages numbered over the whole cache, and the page that gets the content
        of each. copies: how many of them are meant, from the first on.
    """
    request = slots.request
    request = request._replace(
        token=request.token[source_S],
        filled=request.filled[source_S],
        limit=jnp.where(is_forked_S, limit_S, request.limit),
    )

    def copy_page(index, part):
        def copied(array):
            page = jax.lax.dynamic_slice_in_dim(array, page_X[index], 1, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(array, page, copy_X[index], axis=1)

        return {name: copied(array) for name, array in part.items()}

    cache = tuple(jax.lax.fori_loop(0, copies, copy_page, part) for part in slots.cache)
    forked = Slots(
        cache,
        request,
        slots.token_count[source_S],
        slots.active | is_forked_S,
        slots.tokens[source_S],
        slots.logp[source_S],
        slots.sampled_logp[source_S],
        slots.value[source_S],
    )
    return _constrain_slots(module, forked)


def decode_step(module, params, prefix, slots: Slots, pages, scorers=None) -> Slots:
    """Reads each slot's last token and samples the next one; inactive slots stay as they are.

    prefix: the prefix cache, or None.
    pages: paged_attention.Pages without `filled`, with room for the token.
    scorers: control.Scorers, or None. Slots and prefix have their caches behind the model's own.
    """
    request, S = slots.request, len(slots.active)
    P = prefix[0]['k'].shape[3] if prefix else 0
    position_S1 = P + request.filled[:, None]
    columns = P + pages.table.shape[1] * paged_attention.page_size(slots.cache[0])
    # The token goes into the column after those in use. An inactive slot never reads that column.
    mask_S1C, pages = _causal_mask(columns, position_S1), pages._replace(filled=request.filled)
    modules, all_params = (module,), (params,)
    if scorers is not None:
        modules, all_params = (module, *scorers.modules), (params, *scorers.params)
    caches, prefixes = (control.split_cache(modules, x) for x in (slots.cache, prefix))
    hiddens, cache = [], ()
    for reader, its_params, its_cache, its_prefix in zip(modules, all_params, caches, prefixes):
        hidden_S1D, its_cache = reader.apply(
            {'params': its_params},
            request.token[:, None],
            position_S1,
            mask_S1C,
            its_cache,
            pages,
            its_prefix,
        )
        hiddens.append(hidden_S1D[:, 0])
        cache += its_cache
    key_S = jax.random.wrap_key_data(request.key)
    uniform_S = jax.vmap(lambda key, count: jax.random.uniform(jax.random.fold_in(key, count)))(
        key_S, slots.token_count
    )
    logits_SV = decoder.logits(module, params, hiddens[0])
    law = request.temperature, request.top_k, request.top_p, request.min_p
    if scorers is None:
        token_S, *logps = token_sampling.sample_tokens(logits_SV, uniform_S, *law)
        value_S = slots.value
    else:
        value_SV = control.token_values(scorers, hiddens[0], hiddens[1:])
        tilt_SV = request.strength[:, None] * value_SV
        token_S, *logps = token_sampling.sample_tokens(logits_SV, uniform_S, *law, tilt_SV)
        value_S = jnp.take_along_axis(value_SV, token_S[:, None], axis=1)[:, 0]
        value_S = jnp.where(slots.active, value_S, slots.value)
    active_S = slots.active
    place_S = jnp.where(active_S, slots.token_count, slots.tokens.shape[1])

    def put(x, new):
        return x.at[jnp.arange(S), place_S].set(new, mode='drop')

    count_S = slots.token_count + active_S
    ended_S = jnp.any(token_S[:, None] == request.ends, axis=1) | (count_S >= request.limit)
    last_S = jnp.where(active_S, token_S, request.token)
    request = request._replace(token=last_S, filled=request.filled + active_S)
    slots = Slots(
        cache,
        request,
        count_S,
        active_S & ~ended_S,
        put(slots.tokens, token_S),
        put(slots.logp, logps[0]),
        put(slots.sampled_logp, logps[1]),
        value_S,
    )
    return _constrain_slots(module, slots)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode(
    module, params, prefix, slots: Slots, pages, busy_S, active_floor, max_steps, scorers=None
) -> Slots:
    """The slots after `max_steps` decode steps, or fewer.

    pages, scorers: see `decode_step`; the pages have room for `max_steps` tokens.
    busy: [S] bool; other slots become inactive.
    active_floor: it stops once no more slots than this are active.
    """

    def goes_on(carry):
        step, slots = carry
        return (step < max_steps) & (jnp.sum(slots.active) > active_floor)

    def advance(carry):
        step, slots = carry
        return step + 1, decode_step(module, params, prefix, slots, pages, scorers)

    slots = slots._replace(active=slots.active & busy_S)
    return _constrain_slots(module, jax.lax.while_loop(goes_on, advance, (jnp.int32(0), slots))[1])
