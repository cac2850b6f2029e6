"""Softmax attention under an arbitrary mask: one arithmetic, three back ends. Layer 1.

'xla' is plain products and runs anywhere; its scores [R N L L] exist in memory. 'cudnn' (NVIDIA) and 'splash' (TPU)
are flash kernels: scores exist a block at a time, and what is quadratic in memory is the mask, [R L L].
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as masks
from jax.sharding import PartitionSpec

BACKENDS = 'xla', 'cudnn', 'splash'


def attend(q_RLNH, k_RKHL, v_RKLH, mask_RLC, cache=None, *, scale: float, softcap: float | None = None,
           backend: str = 'xla', mesh=None):  # fmt: skip
    """Softmax attention; query head n looks at key head n // G. Returns [R L N·H] in the dtype of q.

    q: [R L N H], N = K·G. k: [R K H L], tokens last: on a CPU the product is ten times as fast as with features last.
    v: [R K L H]. cache: 'k' [R K H C'] and 'v' [R K C' H] of earlier tokens, or None.
    mask: [R L C] bool, True where a query may look: the cache's columns first, then these tokens. Every query must see
    at least one column: a kernel may divide by zero where the plain product averages.
    scale: multiplies the scores. softcap: they become softcap·tanh(score / softcap), or None.
    backend: of BACKENDS; a single token or a cache is always 'xla'. mesh: that of the arrays, for the kernels, which
    the partitioner cannot split: rows over 'data' and 'fsdp', heads over 'tensor' where these divide them. None: one
    device. ValueError for a back end that does not exist, or that cannot do what is asked.
    """
    if backend not in BACKENDS:
        raise ValueError(f'no attention {backend!r}; there are: {", ".join(BACKENDS)}')
    if backend == 'cudnn' and softcap is not None:
        raise ValueError("attention='cudnn' has no soft-capping; use xla")
    if backend == 'xla' or cache is not None or q_RLNH.shape[1] == 1:
        return _xla(q_RLNH, k_RKHL, v_RKLH, mask_RLC, cache, scale, softcap)
    if backend == 'cudnn':
        kernel = functools.partial(_cudnn, scale=scale)
    else:
        platform = (jax.devices()[0] if mesh is None else mesh.devices.flat[0]).platform
        if platform not in ('tpu', 'cpu'):
            raise ValueError(f"attention='splash' runs on a TPU (a CPU interprets it), not on {platform}; use xla")
        kernel = functools.partial(_splash, scale=scale, softcap=softcap, interpret=platform == 'cpu')
    if mesh is not None:
        kernel = _split(kernel, mesh, q_RLNH.shape, k_RKHL.shape[1])
    return kernel(q_RLNH, k_RKHL.astype(q_RLNH.dtype), v_RKLH.astype(q_RLNH.dtype), mask_RLC)


def _xla(q_RLNH, k_RKHL, v_RKLH, mask_RLC, cache, scale, softcap):
    """Queries grouped by key head are laid side by side, so that each head is one plain product."""
    R, L, N, H = q_RLNH.shape
    K = k_RKHL.shape[1]
    G = N // K
    q = q_RLNH.reshape(R, L, K, G, H).transpose(0, 2, 3, 1, 4).reshape(R, K, G * L, H)
    parts = [(k_RKHL, v_RKLH)] if cache is None else [(cache['k'], cache['v']), (k_RKHL, v_RKLH)]
    scores = [jnp.einsum('rkth,rkhc->rktc', q, k.astype(q.dtype), preferred_element_type=jnp.float32) for k, _ in parts]
    score = jnp.concatenate(scores, axis=-1).reshape(R, K, G, L, -1) * scale
    if softcap is not None:
        score = softcap * jnp.tanh(score / softcap)
    score = jnp.where(mask_RLC[:, None, None, :, :], score, -1e30)
    weight = jax.nn.softmax(score, axis=-1).astype(q.dtype).reshape(R, K, G * L, -1)
    out, at = 0.0, 0
    for _, v in parts:
        out = out + jnp.einsum('rktc,rkch->rkth', weight[..., at : at + v.shape[2]], v.astype(q.dtype))
        at += v.shape[2]
    return out.reshape(R, K, G, L, H).transpose(0, 3, 1, 2, 4).reshape(R, L, N * H)


def _split(kernel, mesh, shape, K: int):
    """The kernel on each device's rows and heads; an axis that the mesh does not divide stays whole."""
    R, _, N, _ = shape
    rows, heads = ('data', 'fsdp'), 'tensor'
    rows = rows if R % (mesh.shape['data'] * mesh.shape['fsdp']) == 0 else None
    heads = heads if N % mesh.shape['tensor'] == K % mesh.shape['tensor'] == 0 else None
    P = PartitionSpec
    specs = P(rows, None, heads), P(rows, heads), P(rows, heads), P(rows)
    # The kernels declare nothing about what varies over the mesh, so it cannot be checked.
    return jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=P(rows, None, heads), check_vma=False)


def _pad(multiple: int, q_RLNH, k_RKHL, v_RKLH, mask_RLC):
    """All four with L a multiple of `multiple`. A token of the padding sees itself: none sees nothing."""
    L = q_RLNH.shape[1]
    pad = (0, -L % multiple)
    if not pad[1]:
        return q_RLNH, k_RKHL, v_RKLH, mask_RLC
    q, v = jnp.pad(q_RLNH, ((0, 0), pad, (0, 0), (0, 0))), jnp.pad(v_RKLH, ((0, 0), (0, 0), pad, (0, 0)))
    mask, index = jnp.pad(mask_RLC, ((0, 0), pad, pad)), jnp.arange(L + pad[1])
    own = (index[:, None] == index[None, :]) & (index[:, None] >= L)
    return q, jnp.pad(k_RKHL, ((0, 0), (0, 0), (0, 0), pad)), v, mask | own[None]


def _cudnn(q_RLNH, k_RKHL, v_RKLH, mask_RLC, *, scale, implementation='cudnn'):
    """The mask goes in as a bias in the dtype of q. Padded to an even L, which its gradient needs."""
    R, L, N, H = q_RLNH.shape
    if implementation == 'cudnn' and q_RLNH.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"attention='cudnn' computes in bfloat16 or float16, not {q_RLNH.dtype}; use xla")
    q, k, v, mask = _pad(2, q_RLNH, k_RKHL, v_RKLH, mask_RLC)
    k, v = k.transpose(0, 3, 1, 2), v.transpose(0, 2, 1, 3)
    out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=scale, implementation=implementation)
    return out[:, :L].reshape(R, L, N * H)


def _splash(q_RLNH, k_RKHL, v_RKLH, mask_RLC, *, scale, softcap, interpret):
    """Row by row: each row's mask says which blocks to skip. Padded to whole blocks: best is an L that 512 divides.

    A loop over rows, for the kernel reads its mask as int32: 4·L² bytes, of one row at a time.
    """
    R, L, N, H = q_RLNH.shape
    q, k, v, mask = _pad(128, q_RLNH * scale, k_RKHL, v_RKLH, mask_RLC)
    block = max(b for b in (128, 256, 384, 512) if q.shape[1] % b == 0)
    sizes = splash.BlockSizes(**dict.fromkeys(
        ('block_q', 'block_kv', 'block_q_dkv', 'block_kv_dkv', 'block_q_dq', 'block_kv_dq'), block
    ))  # fmt: skip

    def row(one):
        q_NLH, k_KLH, v_KLH, mask_LL = one
        forward, _ = masks.process_dynamic_mask(mask_LL[None], (block, block))
        turned, _ = masks.process_dynamic_mask_dkv(mask_LL[None], (block, block))
        # Not make_splash_mha: under a trace it makes an array of the mask info's flag, and then branches on it.
        kernel = splash.SplashAttentionKernel(
            forward, forward, turned, block_sizes=sizes, is_mqa=False, save_residuals=False, mask_function=None,
            mask_value=splash.DEFAULT_MASK_VALUE, attn_logits_soft_cap=softcap, residual_checkpoint_name=None,
            interpret=interpret,
        )  # fmt: skip
        return kernel(q_NLH, k_KLH, v_KLH)

    out = jax.lax.map(row, (q.transpose(0, 2, 1, 3), k.transpose(0, 1, 3, 2), v, mask))
    return out[:, :, :L].transpose(0, 2, 1, 3).reshape(R, L, N * H)
