"""Attention of one token of each sample over a cache in pages: plain products, or a kernel.

Axis letters beside those of selfrew.types: S samples, P pages of the cache, W columns of a page,
B pages that a sample may have, X layers of the cache, Y stretches of columns that are attended to
on their own (pages, or the prefix), N = K·G query heads, M = S·G queries of each key head, E = N·H,
J = 2·K heads of keys and of values.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import paged_attention as triton
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention
from jax.sharding import PartitionSpec

from selfrew.mesh import buckets, sharding
from selfrew.models import attention, flash_attention

TPU, GPU = 'tpu', 'gpu'  # kernels: jax's ragged paged attention, and its paged attention in Triton
# Of the TPU's kernel: pages and samples that it works on at a time, and what it wants of a head.
KERNEL_PAGES, KERNEL_SAMPLES = 4, 8
KERNEL_FEATURES = 128
MAX_SPLITS = 16  # of the GPU's: stretches of a sample's pages that are attended to side by side


class Pages(NamedTuple):
    """Where the tokens of S samples lie in a cache whose P rows are pages of W columns.

    Pages and samples are numbered within their part of the mesh. Page 0 of each part belongs to
    nobody: samples without a page write there. A sample's b-th page holds its tokens from b·W on.
    """

    table: Any  # [S B] int32, a sample's b-th page; 0 where it has fewer
    owner: Any  # [P] int32, the sample that a page belongs to; anything for a free page
    place: Any  # [P] int32, which of its owner's pages it is
    filled: Any  # [S] int32, the tokens of a sample; its next token goes behind them


class _Part(NamedTuple):
    """Softmax attention over some of the columns, before the division by the sum of weights."""

    top: Any  # [… K G] float32, the largest score
    mass: Any  # [… K G] float32, the sum of the weights exp(score - top)
    out: Any  # [… K G H] float32, the sum of the weighted values


def kernel_of(module, cache_dtype) -> str | None:
    """The kernel by which a module reads the pages of a cache of this dtype, None for plain
    products: TPU with attention 'splash' and GPU with 'cudnn_paged', each on its platform, where it
    can compute the module's heads and layers.
    """
    platform = sharding.platform(module.mesh)
    if module.attention == 'splash' and platform == 'tpu':
        return TPU if _suits_tpu(module, cache_dtype) else None
    if module.attention == 'cudnn_paged' and platform == 'gpu':
        return GPU if _suits_gpu(module, cache_dtype) else None
    return None


def _suits_gpu(module, cache_dtype) -> bool:
    """Triton wants sizes that are powers of two; and the kernel knows no window, and converts
    nothing.
    """
    features = module.config.head_dim
    is_power = features >= 16 and features.bit_count() == 1
    return is_power and not any(module.config.local) and cache_dtype == module.dtype


def _suits_tpu(module, cache_dtype) -> bool:
    config, mesh = module.config, module.mesh
    heads = config.kv_heads
    if mesh is not None:
        _, axes = flash_attention.row_and_head_axes(mesh, (0, 1, config.heads, 0), heads)
        heads //= mesh.shape['tensor'] if axes else 1
    packed = 4 // jnp.dtype(cache_dtype).itemsize  # numbers in 32 bits
    tiles, rest = divmod(2 * heads, packed)
    is_tiled = not rest and (tiles in (1, 2, 4) or tiles % 8 == 0)
    return config.head_dim % KERNEL_FEATURES == 0 and is_tiled


def page_size(part) -> int:
    """Tokens of a page of a part of the cache."""
    if 'kv' in part:
        return part['kv'].shape[2]
    return part['keys'].shape[3] if 'keys' in part else part['k'].shape[4]


def attend(
    q_S1NH,
    new,
    cache,
    layer,
    pages: Pages,
    mask_S1C,
    prefix,
    *,
    scale: float,
    softcap: float | None,
    mesh,
    is_local=False,
    window: int | None = None,
):
    """Attention of one more token of each sample. Returns ([S 1 N·H], the cache with the tokens).

    q: [S 1 N H]. new: {'k' [S K H 1], 'v' [S K 1 H]}. layer: which of the X. The rest: see
    attention.attend.
    cache: {'k' [X P K H W], 'v' [X P K W H]} for plain products. Keys and values are read once, in
    place: each page gathers its owner's queries. Then the softmaxes of a sample's pages are
    combined in the order of its pages.
    Or, where a kernel reads it, {'kv' [X P W J H]} for TPU, J = 2·K: each head's keys, then its
    values; and {'keys' [X P K W H], 'values' [X P K W H]} for GPU. There a sample's pages hold all
    of its tokens, so there is no prefix beside them.
    mask: [S 1 C] bool, for plain products; its columns are the prefix, then B pages.
    is_local, window: for TPU. Where is_local, which may be traced, a token sees the `window`
    tokens up to its own.
    """
    options = {'scale': scale, 'softcap': softcap}
    args = q_S1NH, new, cache, jnp.asarray(layer, jnp.int32), pages
    if 'kv' in cache:
        compute = functools.partial(_attend_on_tpu, window=window, **options)
        return _on_parts(compute, (*args, jnp.asarray(is_local)), mesh)
    if 'keys' in cache:
        return _on_parts(functools.partial(_attend_on_gpu, **options), args, mesh)
    in_place = attention.writes_in_place(mesh)
    compute = functools.partial(_attend, in_place=in_place, **options)
    return _on_parts(compute, (*args, mask_S1C, prefix), mesh)


def _on_parts(compute, args, mesh):
    """compute(*args) on each part of the mesh, with its own samples, pages and heads.

    args: q, new, cache, layer, pages; then, for plain products, the mask and the prefix, or for
    TPU, is_local.
    """
    if mesh is None or mesh.size == 1:
        return compute(*args)
    q_S1NH, new, cache = args[:3]
    rows, heads = flash_attention.row_and_head_axes(mesh, q_S1NH.shape, new['k'].shape[1])
    q_spec, row_spec = PartitionSpec(rows, None, heads), PartitionSpec(rows)
    new_specs = dict.fromkeys(new, PartitionSpec(rows, heads))
    by_head = PartitionSpec(None, rows, heads)
    cache_specs = {
        name: PartitionSpec(None, rows, None, heads) if name == 'kv' else by_head for name in cache
    }
    page_specs = Pages(row_spec, row_spec, row_spec, row_spec)
    by_layout = {'kv': (PartitionSpec(),), 'keys': (), 'k': (row_spec, PartitionSpec(heads))}
    rest_specs = next(specs for name, specs in by_layout.items() if name in cache)
    in_specs = q_spec, new_specs, cache_specs, PartitionSpec(), page_specs, *rest_specs
    out_S1E, cache = jax.shard_map(
        compute, mesh=mesh, in_specs=in_specs, out_specs=(q_spec, cache_specs), check_vma=False
    )(*args)
    return out_S1E, attention.constrain_cache(cache, mesh)


def _attend_on_tpu(q_S1NH, new, cache, layer, pages, is_local, *, scale, softcap, window):
    """What `attend` says, on one device's samples and pages, by jax's ragged paged attention."""
    (S, _, N, H), (X, P, W, J, _) = q_S1NH.shape, cache['kv'].shape
    new_SKLH = new['k'].swapaxes(2, 3), new['v']
    kv_SJH = jnp.stack([x[:, :, 0] for x in new_SKLH], axis=2).reshape(S, J, H)
    page_S, column_S = _next_places(pages, W)
    stored = cache['kv'].dtype
    kv_SJH = attention.to_stored(kv_SJH, stored)
    kv_XPWJH = cache['kv'].at[layer, page_S, column_S].set(kv_SJH)
    # The kernel takes one layer's pages: those of all layers, and the numbers of this one's.
    kv_PWJH = kv_XPWJH.reshape(X * P, W, J, H)
    scaled = 1.0 if stored == attention.FLOAT8 else None  # with a scale, it converts what it reads

    def attend_within(window):
        return ragged_paged_attention(
            q_S1NH[:, 0],
            kv_PWJH,
            pages.filled + 1,
            layer * P + pages.table,
            jnp.arange(S + 1, dtype=jnp.int32),
            jnp.array([S], jnp.int32),
            sm_scale=scale,
            sliding_window=window,
            soft_cap=softcap,
            k_scale=scaled,
            v_scale=scaled,
            num_kv_pages_per_block=min(KERNEL_PAGES, pages.table.shape[1]),
            num_queries_per_block=min(KERNEL_SAMPLES, S),
        )

    if window is None:
        out_SNH = attend_within(None)
    else:
        out_SNH = jax.lax.cond(is_local, lambda: attend_within(window), lambda: attend_within(None))
    return out_SNH.reshape(S, 1, N * H), {'kv': kv_XPWJH}


def _attend_on_gpu(q_S1NH, new, cache, layer, pages, *, scale, softcap):
    """What `attend` says, on one device's samples and pages, by jax's paged attention for GPUs.

    Each key head of a sample is a sample of the kernel's, and so are its pages, so that the kernel
    reads the cache of all layers where it is.
    """
    (S, _, N, H), (X, P, K, W, _) = q_S1NH.shape, cache['keys'].shape
    page_S, column_S = _next_places(pages, W)
    new_SKH = {'keys': new['k'][..., 0], 'values': new['v'][:, :, 0]}
    cache = {
        name: x.at[layer, page_S, :, column_S].set(new_SKH[name].astype(x.dtype))
        for name, x in cache.items()
    }
    page_SB = layer * P + pages.table
    page_SKB = page_SB[:, None, :] * K + jnp.arange(K)[None, :, None]
    B = buckets.next_power_of_two(page_SB.shape[1])
    table = jnp.pad(page_SKB.reshape(S * K, -1), ((0, 0), (0, B - page_SB.shape[1])))
    out = triton.paged_attention(
        (q_S1NH * scale).reshape(S * K, N // K, H),
        *(cache[name].reshape(1, X * P * K, W, H) for name in ('keys', 'values')),
        table,
        jnp.repeat(pages.filled + 1, K),
        pages_per_compute_block=1,
        k_splits=min(B, MAX_SPLITS),
        attn_logits_soft_cap=softcap,
    )
    return out.reshape(S, 1, N * H), cache


def _attend(q_S1NH, new, cache, layer, pages, mask_S1C, prefix, *, scale, softcap, in_place):
    """What `attend` says, on one device's samples and pages."""
    S, _, N, H = q_S1NH.shape
    _, _, K, _, W = cache['k'].shape
    B = pages.table.shape[1]
    first = mask_S1C.shape[2] - B * W  # the first column behind the prefix
    cache = _write_tokens(cache, new, layer, pages, in_place)
    k_PKHW, v_PKWH = attention.read_cache(cache, layer)
    k_PKHW, v_PKWH = k_PKHW.astype(q_S1NH.dtype), v_PKWH.astype(q_S1NH.dtype)
    attend_part = functools.partial(_attend_part, scale=scale, softcap=softcap)
    q_SKGH, mask_SBW = q_S1NH.reshape(S, K, N // K, H), mask_S1C[:, 0, first:].reshape(S, B, W)
    mask_P11W = mask_SBW[pages.owner, pages.place][:, None, None, :]
    parts = attend_part(q_SKGH[pages.owner], k_PKHW, v_PKWH, mask_P11W)
    parts = _Part(*(x[pages.table] for x in parts))
    is_seen_SB11 = jnp.any(mask_SBW, axis=2)[:, :, None, None]  # else it is no page of the sample
    parts = parts._replace(top=jnp.where(is_seen_SB11, parts.top, attention.MASKED))
    if prefix is not None:
        prefix_part = _attend_prefix(attend_part, q_SKGH, prefix, mask_S1C[:, 0, :first])
        parts = _Part(*(jnp.concatenate(both, axis=1) for both in zip(prefix_part, parts)))
    return _combine(parts).astype(q_S1NH.dtype).reshape(S, 1, N * H), cache


def _attend_prefix(attend_part, q_SKGH, prefix, mask_SP) -> _Part:
    """The part [S 1 K G …] of the prefix: one product for all samples."""
    S, K, G, H = q_SKGH.shape
    q_1KMH = q_SKGH.swapaxes(0, 1).reshape(1, K, S * G, H)
    k_1KHP, v_1KPH = (
        attention.from_stored(prefix[name][None]).astype(q_SKGH.dtype) for name in ('k', 'v')
    )
    mask_11MP = jnp.repeat(mask_SP, G, axis=0)[None, None]

    def by_sample(x_1KM):
        x_KS1G = x_1KM.reshape(K, S, 1, G, *x_1KM.shape[3:])
        return x_KS1G.transpose(1, 2, 0, *range(3, x_KS1G.ndim))

    return _Part(*map(by_sample, attend_part(q_1KMH, k_1KHP, v_1KPH, mask_11MP)))


def _attend_part(q_YKGH, k_YKHW, v_YKWH, mask, *, scale, softcap) -> _Part:
    """The part [Y K G …] of each of Y stretches of W columns. mask: [Y 1 1 W] or [Y 1 G W].

    For the prefix G is M, and W is its length.
    """
    multiply = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    product_YKGW = multiply('ykgh,ykhw->ykgw', q_YKGH, k_YKHW)
    score_YKGW = attention.masked_scores(product_YKGW, mask, scale, softcap)
    top_YKG = jnp.max(score_YKGW, axis=-1)
    weight_YKGW = jnp.exp(score_YKGW - top_YKG[..., None])
    out_YKGH = multiply('ykgw,ykwh->ykgh', weight_YKGW.astype(v_YKWH.dtype), v_YKWH)
    return _Part(top_YKG, jnp.sum(weight_YKGW, axis=-1), out_YKGH)


def _combine(parts: _Part):
    """The attention [S K G H] of each sample from its parts [S B K G …], float32."""
    share_SBKG = jnp.exp(parts.top - jnp.max(parts.top, axis=1, keepdims=True))
    share_SBKG /= jnp.sum(share_SBKG * parts.mass, axis=1, keepdims=True)
    # Five times faster on a CPU than a sum of products.
    return jnp.einsum('sbkg,sbkgh->skgh', share_SBKG, parts.out)


def _next_places(pages: Pages, width: int):
    """([S] page, [S] column in it) of each sample's next token."""
    block_S1 = jnp.minimum(pages.filled // width, pages.table.shape[1] - 1)[:, None]
    page_S = jnp.take_along_axis(pages.table, block_S1, axis=1)[:, 0]
    return page_S, pages.filled % width


def _write_tokens(cache, new, layer, pages: Pages, in_place: bool):
    """The cache with a token of each sample in the next free column of its pages.

    cache, new: see `attend`.
    """
    page_S, column_S = _next_places(pages, cache['k'].shape[4])
    new = {name: attention.to_stored(x, cache[name].dtype) for name, x in new.items()}
    if not in_place:
        return {
            'k': cache['k'].at[layer, page_S, :, :, column_S].set(new['k'][..., 0]),
            'v': cache['v'].at[layer, page_S, :, column_S, :].set(new['v'][:, :, 0]),
        }

    def write(sample, cache):
        page, column = page_S[sample], column_S[sample]
        k_11KH1 = jax.lax.dynamic_slice_in_dim(new['k'], sample, 1)[None]
        v_11K1H = jax.lax.dynamic_slice_in_dim(new['v'], sample, 1)[None]
        return {
            'k': jax.lax.dynamic_update_slice(cache['k'], k_11KH1, (layer, page, 0, 0, column)),
            'v': jax.lax.dynamic_update_slice(cache['v'], v_11K1H, (layer, page, 0, column, 0)),
        }

    return jax.lax.fori_loop(0, len(page_S), write, cache)
