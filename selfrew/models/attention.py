"""Softmax attention under an arbitrary mask: one arithmetic, three back ends. Layer 1.

'xla' is plain products and runs anywhere; its scores [R N L L] exist in memory. 'cudnn' (NVIDIA)
and 'splash' (TPU) are flash kernels: scores exist a block at a time, and what is quadratic in
memory is the mask, [R L L].
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
    splash_attention_mask_info as masks,
)
from jax.sharding import PartitionSpec

from selfrew.mesh import sharding

BACKENDS = 'xla', 'cudnn', 'splash'
BLOCK = 128  # queries that look together, at least


def attend(
    q_RLNH,
    k_RKHC,
    v_RKCH,
    mask_RLC,
    shared=None,
    *,
    scale: float,
    softcap: float | None = None,
    backend: str = 'xla',
    mesh=None,
    cached: bool = False,
):
    """Softmax attention; query head n looks at key head n // G. Returns [R L N·H] in the dtype of
    q.

    q: [R L N H], N = K·G. k: [R K H C], tokens last: on a CPU the product is ten times as fast as
      with features last.
    v: [R K C H]. These are the L tokens themselves, or with `cached` what a cache holds, of any
      dtype.
    mask: [R L C] bool, True where a query may look; without a cache at nothing later than itself.
      Every query must see
    at least one column: a kernel may divide by zero where the plain product averages.
    shared: {'k' [K H P], 'v' [K P H]}, columns of all rows, which come first in the mask, or None.
      Wants `cached`.
    scale: multiplies the scores. softcap: they become softcap·tanh(score / softcap), or None.
    backend: of BACKENDS; a single token, or a cache, is always 'xla'. mesh: that of the arrays, for
      the kernels, which
    the partitioner cannot split: rows over 'data' and 'fsdp', heads over 'tensor' where these
    divide them. None: one device. ValueError for a back end that does not exist, or that cannot do
      what is asked.
    """
    if backend not in BACKENDS:
        raise ValueError(f'no attention {backend!r}; there are: {", ".join(BACKENDS)}')
    if backend == 'cudnn' and softcap is not None:
        raise ValueError("attention='cudnn' has no soft-capping; use xla")
    if cached:
        return _cached(q_RLNH, k_RKHC, v_RKCH, mask_RLC, shared, scale, softcap)
    if backend == 'xla' or q_RLNH.shape[1] == 1:
        return _causal(q_RLNH, k_RKHC, v_RKCH, mask_RLC, scale, softcap)
    if backend == 'cudnn':
        kernel = functools.partial(_cudnn, scale=scale)
    else:
        platform = (jax.devices()[0] if mesh is None else mesh.devices.flat[0]).platform
        if platform not in ('tpu', 'cpu'):
            raise ValueError(
                f"attention='splash' runs on a TPU (a CPU interprets it), not on {platform}; use xla"
            )
        kernel = functools.partial(
            _splash, scale=scale, softcap=softcap, interpret=platform == 'cpu'
        )
    if mesh is not None:
        kernel = _split(kernel, mesh, q_RLNH.shape, k_RKHC.shape[1])
    return kernel(q_RLNH, k_RKHC.astype(q_RLNH.dtype), v_RKCH.astype(q_RLNH.dtype), mask_RLC)


def _capped(score, softcap):
    return score if softcap is None else softcap * jnp.tanh(score / softcap)


def _weights(score_RKGLC, mask_RLC, scale, softcap):
    score = _capped(score_RKGLC * scale, softcap)
    return jax.nn.softmax(jnp.where(mask_RLC[:, None, None, :, :], score, -1e30), axis=-1)


def _causal(q_RLNH, k_RKHL, v_RKLH, mask_RLL, scale, softcap):
    """Without a cache: a block of queries at a time, against the columns up to its end, which is
    all that it may see.

    About half of the products; and scores, which the backward pass computes again, exist for one
    block. At most eight.
    """
    R, L, N, H = q_RLNH.shape
    K = k_RKHL.shape[1]
    G, width = N // K, max(BLOCK, -(-L // (8 * BLOCK)) * BLOCK)
    q_RKGLH = q_RLNH.reshape(R, L, K, G, H).transpose(0, 2, 3, 1, 4)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(q_RKGTH, k_RKHC, v_RKCH, mask_RTC):
        T, C = mask_RTC.shape[1:]
        q = q_RKGTH.reshape(R, K, G * T, H)
        score = jnp.einsum(
            'rkth,rkhc->rktc', q, k_RKHC.astype(q.dtype), preferred_element_type=jnp.float32
        )
        weight = _weights(score.reshape(R, K, G, T, C), mask_RTC, scale, softcap).astype(q.dtype)
        weight = weight.reshape(R, K, G * T, C)
        return jnp.einsum('rktc,rkch->rkth', weight, v_RKCH.astype(q.dtype)).reshape(R, K, G, T, H)

    out = []
    for at in range(0, L, width):
        end = min(at + width, L)
        q, mask = q_RKGLH[:, :, :, at:end], mask_RLL[:, at:end, :end]
        out.append(block(q, k_RKHL[..., :end], v_RKLH[:, :, :end], mask))
    return jnp.concatenate(out, axis=3).transpose(0, 3, 1, 2, 4).reshape(R, L, N * H)


def _cached(q_RLNH, k_RKHC, v_RKCH, mask_RLC, shared, scale, softcap):
    """The same over a cache. What rows share is one product for the queries of all of them."""
    R, L, N, H = q_RLNH.shape
    K = k_RKHC.shape[1]
    G = N // K
    q = q_RLNH.reshape(R, L, K, G, H).transpose(0, 2, 3, 1, 4).reshape(R, K, G * L, H)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    score, P = product('rkth,rkhc->rktc', q, k_RKHC.astype(q.dtype)), 0
    if shared is not None:
        P = shared['k'].shape[2]
        score = jnp.concatenate(
            [product('rkth,khc->rktc', q, shared['k'].astype(q.dtype)), score], axis=-1
        )
    weight = (
        _weights(score.reshape(R, K, G, L, -1), mask_RLC, scale, softcap)
        .astype(q.dtype)
        .reshape(R, K, G * L, -1)
    )
    out = jnp.einsum('rktc,rkch->rkth', weight[..., P:], v_RKCH.astype(q.dtype))
    if shared is not None:
        out = out + jnp.einsum('rktc,kch->rkth', weight[..., :P], shared['v'].astype(q.dtype))
    return out.reshape(R, K, G, L, H).transpose(0, 3, 1, 2, 4).reshape(R, L, N * H)


def append_to_cache(cache, new, layer, start, mesh):
    """The cache {'k' [X R K H C], 'v' [X R K C H]} with new tokens {'k' [R K H L], 'v' [R K L H]}
    in one layer.

    start: the column of the first one, the same of all rows. Written before it is read, the cache
      stays in place.
    """
    k = jax.lax.dynamic_update_slice(
        cache['k'], new['k'][None].astype(cache['k'].dtype), (layer, 0, 0, 0, start)
    )
    v = jax.lax.dynamic_update_slice(
        cache['v'], new['v'][None].astype(cache['v'].dtype), (layer, 0, 0, start, 0)
    )
    return constrain_cache({'k': k, 'v': v}, mesh)


def constrain_cache(cache, mesh):
    """A part of the cache, its rows and heads split over the mesh."""
    return {
        name: sharding.constrain(mesh, x, None, 'rows', 'kv', None, None)
        for name, x in cache.items()
    }


class Pages(NamedTuple):
    """Where the tokens of S samples lie in a cache whose P rows are pages of W columns.

    Numbers of pages and samples count within the part of the mesh that has them. Page 0 of each
    part is nobody's: what has no page writes there. A sample's b-th page holds its tokens from b·W
      on.
    """

    table: Any  # [S B] int32, a sample's b-th page; 0 where it has fewer
    owner: Any  # [P] int32, the sample that a page belongs to; of a free one, any
    place: Any  # [P] int32, which of its owner's pages it is
    filled: Any  # [S] int32, how many tokens a sample has; the next one goes behind them


def paged_attention(
    q_S1NH,
    new,
    cache,
    layer,
    pages: Pages,
    mask_S1C,
    shared,
    *,
    scale: float,
    softcap: float | None,
    mesh,
):
    """Attention of one more token of each sample, over pages. Returns (what attend does, the cache
    with the token).

    Keys and values are read where they lie, as many as there are pages: it is the queries that are
    gathered, for each page its owner's; then each sample's parts, softmaxes of a page each, are
    added up in the order of its pages.

    q: [S 1 N H]. new: {'k' [S K H 1], 'v' [S K 1 H]}. cache: {'k' [X P K H W], 'v' [X P K W H]}, X
    the layers, of which this is `layer`. mask: [S 1 C] bool, shared columns first, then those of B
    pages. The rest: see attend.
    """
    kernel = functools.partial(_paged, scale=scale, softcap=softcap, in_place=writes_in_place(mesh))
    args = q_S1NH, new, cache, jnp.asarray(layer, jnp.int32), pages, mask_S1C, shared
    if mesh is None or mesh.size == 1:
        return kernel(*args)
    rows, heads = _parts(mesh, q_S1NH.shape, cache['k'].shape[2])
    P = PartitionSpec
    lies = {'k': P(None, rows, heads), 'v': P(None, rows, heads)}
    each = {'k': P(rows, heads), 'v': P(rows, heads)}
    specs = P(rows, None, heads), each, lies, P(), Pages(*[P(rows)] * 4), P(rows), P(heads)
    out, cache = jax.shard_map(
        kernel, mesh=mesh, in_specs=specs, out_specs=(P(rows, None, heads), lies), check_vma=False
    )(*args)
    return out, constrain_cache(cache, mesh)


def writes_in_place(mesh) -> bool:
    """Whether to write into a cache slice by slice: on a CPU XLA's scatter copies all of it."""
    alone = mesh is None or mesh.size == 1
    return alone and (jax.devices()[0] if mesh is None else mesh.devices.flat[0]).platform == 'cpu'


def _paged(q_S1NH, new, cache, layer, pages, mask_S1C, shared, *, scale, softcap, in_place):
    S, _, N, H = q_S1NH.shape
    (K, W), B = (cache['k'].shape[i] for i in (2, 4)), pages.table.shape[1]
    page_S = jnp.take_along_axis(
        pages.table, jnp.minimum(pages.filled // W, B - 1)[:, None], axis=1
    )[:, 0]
    column_S = pages.filled % W
    cache = _put(cache, new, layer, page_S, column_S, in_place)
    k, v = (
        jax.lax.dynamic_index_in_dim(cache[name], layer, keepdims=False).astype(q_S1NH.dtype)
        for name in 'kv'
    )
    q_SKGH, common = q_S1NH.reshape(S, K, N // K, H), mask_S1C.shape[2] - B * W
    mask_SBW = mask_S1C[:, 0, common:].reshape(S, B, W)
    top, mass, out = _part(
        q_SKGH[pages.owner], k, v, mask_SBW[pages.owner, pages.place], scale, softcap
    )
    seen_SB11 = jnp.any(mask_SBW, axis=2)[
        :, :, None, None
    ]  # of what is no page of the sample, nothing
    top, mass, out = (
        jnp.where(seen_SB11, top[pages.table], -1e30),
        mass[pages.table],
        out[pages.table],
    )
    if shared is not None:
        q_1KXH = q_SKGH.swapaxes(0, 1).reshape(1, K, -1, H)  # one product for all samples
        own = [shared[name][None].astype(q_S1NH.dtype) for name in 'kv']
        some = _part(
            q_1KXH,
            *own,
            jnp.repeat(mask_S1C[:, 0, :common], N // K, axis=0)[None, None],
            scale,
            softcap,
        )
        some = [
            x.reshape(K, S, 1, N // K, *x.shape[3:]).transpose(1, 2, 0, *range(3, x.ndim + 1))
            for x in some
        ]
        top, mass, out = (jnp.concatenate(both, axis=1) for both in zip(some, (top, mass, out)))
    share_SBKG = jnp.exp(top - jnp.max(top, axis=1, keepdims=True))
    share_SBKG /= jnp.sum(share_SBKG * mass, axis=1, keepdims=True)
    out = jnp.einsum(
        'sbkg,sbkgh->skgh', share_SBKG, out
    )  # as a sum of products, five times slower on a CPU
    return out.astype(q_S1NH.dtype).reshape(S, 1, N * H), cache


def _part(q_XKGH, k_XKHW, v_XKWH, mask, scale, softcap):
    """Softmax over some columns, not yet divided: (largest score, sum of weights [X K G], sum of
    values [X K G H]).
    """
    score = jnp.einsum('xkgh,xkhw->xkgw', q_XKGH, k_XKHW, preferred_element_type=jnp.float32)
    score = _capped(score * scale, softcap)
    score = jnp.where(mask[:, None, None, :] if mask.ndim == 2 else mask, score, -1e30)
    top = jnp.max(score, axis=-1)
    weight = jnp.exp(score - top[..., None])
    out = jnp.einsum(
        'xkgw,xkwh->xkgh', weight.astype(v_XKWH.dtype), v_XKWH, preferred_element_type=jnp.float32
    )
    return top, jnp.sum(weight, axis=-1), out


def _put(cache, new, layer, page_S, column_S, in_place: bool):
    """The cache with a token of each sample in the column of its page."""
    new = {name: x.astype(cache[name].dtype) for name, x in new.items()}
    if not in_place:
        return {
            'k': cache['k'].at[layer, page_S, :, :, column_S].set(new['k'][..., 0]),
            'v': cache['v'].at[layer, page_S, :, column_S, :].set(new['v'][:, :, 0]),
        }

    def one(s, cache):
        write = lambda name, *at: jax.lax.dynamic_update_slice(
            cache[name],
            jax.lax.dynamic_slice_in_dim(new[name], s, 1)[None],
            (layer, page_S[s], 0, *at),
        )
        return {'k': write('k', 0, column_S[s]), 'v': write('v', column_S[s], 0)}

    return jax.lax.fori_loop(0, len(page_S), one, cache)


def _parts(mesh, shape, K: int):
    """The mesh axes of the rows and of the heads of queries of this shape; None of those that do
    not divide them.
    """
    R, _, N, _ = shape
    rows, heads = ('data', 'fsdp'), 'tensor'
    rows = rows if R % (mesh.shape['data'] * mesh.shape['fsdp']) == 0 else None
    return rows, heads if N % mesh.shape['tensor'] == K % mesh.shape['tensor'] == 0 else None


def _split(kernel, mesh, shape, K: int):
    """The kernel on each device's rows and heads; an axis that the mesh does not divide stays
    whole.
    """
    rows, heads = _parts(mesh, shape, K)
    P = PartitionSpec
    specs = P(rows, None, heads), P(rows, heads), P(rows, heads), P(rows)
    # The kernels declare nothing about what varies over the mesh, so it cannot be checked.
    return jax.shard_map(
        kernel, mesh=mesh, in_specs=specs, out_specs=P(rows, None, heads), check_vma=False
    )


def _pad(multiple: int, q_RLNH, k_RKHL, v_RKLH, mask_RLC):
    """All four with L a multiple of `multiple`. A token of the padding sees itself: none sees
    nothing.
    """
    L = q_RLNH.shape[1]
    pad = (0, -L % multiple)
    if not pad[1]:
        return q_RLNH, k_RKHL, v_RKLH, mask_RLC
    q, v = (
        jnp.pad(q_RLNH, ((0, 0), pad, (0, 0), (0, 0))),
        jnp.pad(v_RKLH, ((0, 0), (0, 0), pad, (0, 0))),
    )
    mask, index = jnp.pad(mask_RLC, ((0, 0), pad, pad)), jnp.arange(L + pad[1])
    own = (index[:, None] == index[None, :]) & (index[:, None] >= L)
    return q, jnp.pad(k_RKHL, ((0, 0), (0, 0), (0, 0), pad)), v, mask | own[None]


def _cudnn(q_RLNH, k_RKHL, v_RKLH, mask_RLC, *, scale, implementation='cudnn'):
    """The mask goes in as a bias in the dtype of q. Padded to an even L, which its gradient needs."""
    R, L, N, H = q_RLNH.shape
    if implementation == 'cudnn' and q_RLNH.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"attention='cudnn' computes in bfloat16 or float16, not {q_RLNH.dtype}; use xla"
        )
    q, k, v, mask = _pad(2, q_RLNH, k_RKHL, v_RKLH, mask_RLC)
    k, v = k.transpose(0, 3, 1, 2), v.transpose(0, 2, 1, 3)
    out = jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], scale=scale, implementation=implementation
    )
    return out[:, :L].reshape(R, L, N * H)


def _splash(q_RLNH, k_RKHL, v_RKLH, mask_RLC, *, scale, softcap, interpret):
    """Row by row: each row's mask says which blocks to skip. Padded to whole blocks: best is an L
    that 512 divides.

    A loop over rows, for the kernel reads its mask as int32: 4·L² bytes, of one row at a time.
    """
    R, L, N, H = q_RLNH.shape
    q, k, v, mask = _pad(128, q_RLNH * scale, k_RKHL, v_RKLH, mask_RLC)
    block = max(b for b in (128, 256, 384, 512) if q.shape[1] % b == 0)
    sizes = splash.BlockSizes(
        **dict.fromkeys(
            ('block_q', 'block_kv', 'block_q_dkv', 'block_kv_dkv', 'block_q_dq', 'block_kv_dq'),
            block,
        )
    )

    def row(one):
        q_NLH, k_KLH, v_KLH, mask_LL = one
        forward, _ = masks.process_dynamic_mask(mask_LL[None], (block, block))
        turned, _ = masks.process_dynamic_mask_dkv(mask_LL[None], (block, block))
        # Not make_splash_mha: under a trace it makes an array of the mask info's flag, and then
        # branches on it.
        kernel = splash.SplashAttentionKernel(
            forward,
            forward,
            turned,
            block_sizes=sizes,
            is_mqa=False,
            save_residuals=False,
            mask_function=None,
            mask_value=splash.DEFAULT_MASK_VALUE,
            attn_logits_soft_cap=softcap,
            residual_checkpoint_name=None,
            interpret=interpret,
        )
        return kernel(q_NLH, k_KLH, v_KLH)

    out = jax.lax.map(row, (q.transpose(0, 2, 1, 3), k.transpose(0, 1, 3, 2), v, mask))
    return out[:, :, :L].transpose(0, 2, 1, 3).reshape(R, L, N * H)
