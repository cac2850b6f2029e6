"""Softmax attention under an arbitrary mask, with three back ends for the same arithmetic.

'xla' is plain products and runs anywhere; its scores [R N L L] exist in memory. 'cudnn' (NVIDIA)
and 'splash' (TPU) are flash kernels (see flash_attention): scores exist a block at a time, and only
the mask [R L L] is quadratic in memory.

Axis letters beside those of selfrew.types: N = K·G query heads, T queries of a block, M = G·T of
them for each key head, P columns of a prefix that all rows share, X layers of a cache.
"""

import functools

import jax
import jax.numpy as jnp

from selfrew.mesh import sharding
from selfrew.models import flash_attention

# 'cudnn_paged' is 'cudnn', with a kernel of paged_attention for decoding.
BACKENDS = 'xla', 'cudnn', 'cudnn_paged', 'splash'
BLOCK = 128  # the smallest block of queries that are computed together
MAX_BLOCKS = 8
SPLASH_FEATURES = 128  # of a head, or a multiple
MASKED = -1e30  # the score of a column that a query may not see
FLOAT8 = jnp.dtype('float8_e4m3fn')
FLOAT8_LARGEST = float(jnp.finfo(FLOAT8).max)  # what is larger would become nan
# The dtypes that a CPU's cache holds as the bits of, see stored_dtype.
BITS = {jnp.dtype('bfloat16'): jnp.dtype('uint16'), FLOAT8: jnp.dtype('uint8')}
FLOATS = {bits: floats for floats, bits in BITS.items()}


def default_backend(config, mesh) -> str:
    """The back end for a model of this config where a user chooses none: on a TPU 'splash', where
    it can compute its heads, else 'xla'.
    """
    is_on_tpu = sharding.platform(mesh) == 'tpu'
    return 'splash' if is_on_tpu and config.head_dim % SPLASH_FEATURES == 0 else 'xla'


def attend(
    q_RLNH,
    k_RKHC,
    v_RKCH,
    mask_RLC,
    prefix=None,
    *,
    scale: float,
    softcap: float | None = None,
    backend: str = 'xla',
    mesh=None,
    is_cached: bool = False,
):
    """Softmax attention. Returns [R L N·H] in the dtype of q. Query head n reads key head n // G.

    q: [R L N H]. k: [R K H C], tokens last: on a CPU the product is ten times as fast as with
      features last. v: [R K C H]. Keys and values are those of the L tokens themselves or, with
      `is_cached`, what a cache holds, of any dtype.
    mask: [R L C] bool, True where a query may look; without a cache at nothing later than itself.
      Every query must see at least one column: where it sees none, the plain product averages and
      a kernel may divide by zero.
    prefix: {'k' [K H P], 'v' [K P H]}, columns that all rows share and that come first in the
      mask; or None. Needs `is_cached`.
    scale: multiplies the scores. softcap: scores become softcap·tanh(score / softcap); None: as
      they are.
    backend: of BACKENDS; a single token, or a cache, always uses 'xla'.
    mesh: that of the arrays, for the kernels, which the partitioner cannot split: each device
      has the rows and heads that sharding.RULES gives it. None: one device.
    Raises ValueError for an unknown back end, or one that cannot compute this.
    """
    if backend not in BACKENDS:
        raise ValueError(f'no attention {backend!r}; there are: {", ".join(BACKENDS)}')
    if backend.startswith('cudnn') and softcap is not None:
        raise ValueError(f'attention={backend!r} cannot soft-cap, got softcap={softcap}; use xla')
    if is_cached:
        return _attend_cached(q_RLNH, k_RKHC, v_RKCH, mask_RLC, prefix, scale, softcap)
    if backend == 'xla' or q_RLNH.shape[1] == 1:
        return _attend_causal(q_RLNH, k_RKHC, v_RKCH, mask_RLC, scale, softcap)
    kernel = backend.removesuffix('_paged')
    return flash_attention.attend(
        q_RLNH, k_RKHC, v_RKCH, mask_RLC, kernel=kernel, scale=scale, softcap=softcap, mesh=mesh
    )


def masked_scores(product, mask, scale: float, softcap: float | None):
    """Scores from products q·k: scaled, soft-capped, and MASKED where the mask is False.

    Of any shape; the mask has as many axes.
    """
    score = product * scale
    score = score if softcap is None else softcap * jnp.tanh(score / softcap)
    return jnp.where(mask, score, MASKED)


def _softmax(product_RKGLC, mask_RLC, scale, softcap):
    mask_R11LC = mask_RLC[:, None, None, :, :]
    return jax.nn.softmax(masked_scores(product_RKGLC, mask_R11LC, scale, softcap), axis=-1)


def _attend_causal(q_RLNH, k_RKHL, v_RKLH, mask_RLL, scale, softcap):
    """Attention without a cache, a block of queries at a time, at most MAX_BLOCKS of them.

    A block is multiplied with the columns up to its end, which are all that it may see: about half
    of the products. Scores exist for one block; the backward pass computes them again.
    """
    R, L, N, H = q_RLNH.shape
    K = k_RKHL.shape[1]
    G, width = N // K, max(BLOCK, -(-L // (MAX_BLOCKS * BLOCK)) * BLOCK)
    q_RKGLH = q_RLNH.reshape(R, L, K, G, H).transpose(0, 2, 3, 1, 4)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend_block(q_RKGTH, k_RKHC, v_RKCH, mask_RTC):
        (T, C), dtype = mask_RTC.shape[1:], q_RKGTH.dtype
        q_RKMH = q_RKGTH.reshape(R, K, G * T, H)
        product_RKMC = jnp.einsum(
            'rkmh,rkhc->rkmc', q_RKMH, k_RKHC.astype(dtype), preferred_element_type=jnp.float32
        )
        product_RKGTC = product_RKMC.reshape(R, K, G, T, C)
        weight_RKGTC = _softmax(product_RKGTC, mask_RTC, scale, softcap)
        weight_RKMC = weight_RKGTC.astype(dtype).reshape(R, K, G * T, C)
        out_RKMH = jnp.einsum('rkmc,rkch->rkmh', weight_RKMC, v_RKCH.astype(dtype))
        return out_RKMH.reshape(R, K, G, T, H)

    blocks = []
    for start in range(0, L, width):
        end = min(start + width, L)
        q_RKGTH, mask_RTC = q_RKGLH[:, :, :, start:end], mask_RLL[:, start:end, :end]
        blocks.append(attend_block(q_RKGTH, k_RKHL[..., :end], v_RKLH[:, :, :end], mask_RTC))
    return jnp.concatenate(blocks, axis=3).transpose(0, 3, 1, 2, 4).reshape(R, L, N * H)


def _attend_cached(q_RLNH, k_RKHC, v_RKCH, mask_RLC, prefix, scale, softcap):
    """Attention over a cache; all L queries are one block. The mask's columns are P, then the C
    of the cache. The prefix is one product for the queries of all rows.
    """
    (R, L, N, H), dtype = q_RLNH.shape, q_RLNH.dtype
    K = k_RKHC.shape[1]
    G = N // K
    q_RKMH = q_RLNH.reshape(R, L, K, G, H).transpose(0, 2, 3, 1, 4).reshape(R, K, G * L, H)
    multiply = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    product_RKMC, P = multiply('rkmh,rkhc->rkmc', q_RKMH, k_RKHC.astype(dtype)), 0
    if prefix is not None:
        prefix = {name: from_stored(x) for name, x in prefix.items()}
        P = prefix['k'].shape[2]
        product_RKMP = multiply('rkmh,khp->rkmp', q_RKMH, prefix['k'].astype(dtype))
        product_RKMC = jnp.concatenate([product_RKMP, product_RKMC], axis=-1)
    product_RKGLC = product_RKMC.reshape(R, K, G, L, -1)
    weight_RKGLC = _softmax(product_RKGLC, mask_RLC, scale, softcap)
    weight_RKMC = weight_RKGLC.astype(dtype).reshape(R, K, G * L, -1)
    out_RKMH = jnp.einsum('rkmc,rkch->rkmh', weight_RKMC[..., P:], v_RKCH.astype(dtype))
    if prefix is not None:
        weight_RKMP = weight_RKMC[..., :P]
        out_RKMH = out_RKMH + jnp.einsum('rkmp,kph->rkmh', weight_RKMP, prefix['v'].astype(dtype))
    return out_RKMH.reshape(R, K, G, L, H).transpose(0, 3, 1, 2, 4).reshape(R, L, N * H)


# --- the cache --------------------------------------------------------------------------


def append_to_cache(cache, new, layer, start, mesh):
    """The cache {'k' [X R K H C], 'v' [X R K C H]} with new tokens in one layer.

    new: {'k' [R K H L], 'v' [R K L H]}. start: the column of the first one, the same in all rows.
    The cache is written before it is read, so that it stays in place.
    """
    k_1RKHL = to_stored(new['k'][None], cache['k'].dtype)
    v_1RKLH = to_stored(new['v'][None], cache['v'].dtype)
    k_XRKHC = jax.lax.dynamic_update_slice(cache['k'], k_1RKHL, (layer, 0, 0, 0, start))
    v_XRKCH = jax.lax.dynamic_update_slice(cache['v'], v_1RKLH, (layer, 0, 0, start, 0))
    return constrain_cache({'k': k_XRKHC, 'v': v_XRKCH}, mesh)


def read_cache(cache, layer):
    """(keys [R K H C], values [R K C H]) of one layer of the cache."""
    k_RKHC = jax.lax.dynamic_index_in_dim(cache['k'], layer, keepdims=False)
    v_RKCH = jax.lax.dynamic_index_in_dim(cache['v'], layer, keepdims=False)
    return from_stored(k_RKHC), from_stored(v_RKCH)


def stored_dtype(dtype, mesh):
    """The dtype of the arrays that hold a cache of `dtype`. On a CPU narrow floats are stored as
    unsigned integers of their bits: to write a part of an array of them, XLA there converts it all.
    """
    dtype = jnp.dtype(dtype)
    return BITS.get(dtype, dtype) if sharding.platform(mesh) == 'cpu' else dtype


def to_stored(x, dtype):
    """Floats as a cache of this stored dtype holds them."""
    held = FLOATS.get(dtype, dtype)
    if held == FLOAT8:
        x = jnp.clip(x, -FLOAT8_LARGEST, FLOAT8_LARGEST)
    x = x.astype(held)
    return x if held == dtype else jax.lax.bitcast_convert_type(x, dtype)


def from_stored(x):
    """The floats of an array of a cache."""
    return jax.lax.bitcast_convert_type(x, FLOATS[x.dtype]) if x.dtype in FLOATS else x


def constrain_cache(cache, mesh):
    """The cache {'k' [X R K H C], 'v' [X R K C H]}, or as a kernel has it, see
    paged_attention.attend, with rows and heads split over the mesh.
    """
    return {name: _constrain_part(name, x, mesh) for name, x in cache.items()}


def cache_sharding(name: str, shape, mesh):
    """The sharding of a part of the cache with this name and shape, see constrain_cache."""
    if name != 'kv':
        return sharding.of_shape(mesh, shape, (None, 'rows', 'kv', None, None))
    # A head's keys and values stay together.
    by_head = *shape[:3], shape[3] // 2, *shape[4:]
    return sharding.of_shape(mesh, by_head, (None, 'rows', None, 'kv', None))


def _constrain_part(name: str, x, mesh):
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, cache_sharding(name, x.shape, mesh))


def writes_in_place(mesh) -> bool:
    """Whether to write into a cache slice by slice: on a CPU XLA's scatter copies all of it."""
    return (mesh is None or mesh.size == 1) and sharding.platform(mesh) == 'cpu'
