"""Flash attention kernels: cuDNN's on NVIDIA GPUs, splash attention on TPUs.

Each computes what attention.attend does without a cache. Axis letters: see attention.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
    splash_attention_mask_info as splash_masks,
)
from jax.sharding import PartitionSpec

from selfrew.mesh import sharding

KERNELS = 'cudnn', 'splash'
SPLASH_BLOCKS = 128, 256, 384, 512  # sizes of a block; rows are padded to a multiple of the first


def attend(
    q_RLNH, k_RKHL, v_RKLH, mask_RLL, *, kernel: str, scale: float, softcap: float | None, mesh
):
    """Softmax attention by a kernel. Returns [R L N·H] in the dtype of q.

    kernel: of KERNELS; 'cudnn' has no soft-capping. mesh: that of the arrays; None: one device.
    Raises ValueError for a platform or a dtype that the kernel does not support.
    """
    if kernel == 'cudnn':
        compute = functools.partial(_cudnn, scale=scale)
    else:
        platform = sharding.platform(mesh)
        if platform not in ('tpu', 'cpu'):
            raise ValueError(
                "attention='splash' runs on a TPU (a CPU interprets it), "
                f'not on {platform}; use xla'
            )
        compute = functools.partial(
            _splash, scale=scale, softcap=softcap, interpret=platform == 'cpu'
        )
    if mesh is not None:
        compute = _shard(compute, mesh, q_RLNH.shape, k_RKHL.shape[1])
    return compute(q_RLNH, k_RKHL.astype(q_RLNH.dtype), v_RKLH.astype(q_RLNH.dtype), mask_RLL)


def row_and_head_axes(mesh, q_shape, kv_heads: int):
    """The mesh axes of the rows and of the heads of queries [R L N H].

    None for those that the mesh does not divide: they stay whole.
    """
    R, _, N, _ = q_shape
    # Key heads and query heads are split together or not at all.
    heads = sharding.split_axes(mesh, 'kv', kv_heads) and sharding.split_axes(mesh, 'heads', N)
    return sharding.split_axes(mesh, 'rows', R), heads


def _shard(compute, mesh, q_shape, kv_heads: int):
    """The kernel on each device's rows and heads."""
    rows, heads = row_and_head_axes(mesh, q_shape, kv_heads)
    q_spec, kv_spec = PartitionSpec(rows, None, heads), PartitionSpec(rows, heads)
    specs = q_spec, kv_spec, kv_spec, PartitionSpec(rows)
    # The kernels do not declare what varies over the mesh, so it cannot be checked.
    return jax.shard_map(compute, mesh=mesh, in_specs=specs, out_specs=q_spec, check_vma=False)


def pad_tokens(multiple: int, q_RLNH, k_RKHL, v_RKLH, mask_RLL):
    """All four with L padded to a multiple. A padding token sees itself alone."""
    L = q_RLNH.shape[1]
    pad, whole = (0, -L % multiple), (0, 0)
    if not pad[1]:
        return q_RLNH, k_RKHL, v_RKLH, mask_RLL
    q_RLNH = jnp.pad(q_RLNH, (whole, pad, whole, whole))
    k_RKHL = jnp.pad(k_RKHL, (whole, whole, whole, pad))
    v_RKLH = jnp.pad(v_RKLH, (whole, whole, pad, whole))
    index_L = jnp.arange(L + pad[1])
    sees_itself_LL = (index_L[:, None] == index_L[None, :]) & (index_L[:, None] >= L)
    mask_RLL = jnp.pad(mask_RLL, (whole, pad, pad)) | sees_itself_LL[None]
    return q_RLNH, k_RKHL, v_RKLH, mask_RLL


def _cudnn(q_RLNH, k_RKHL, v_RKLH, mask_RLL, *, scale: float):
    """The mask becomes a bias in the dtype of q. L is padded to be even for the gradient's sake."""
    R, L, N, H = q_RLNH.shape
    if q_RLNH.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"attention='cudnn' computes in bfloat16 or float16, not {q_RLNH.dtype}; use xla"
        )
    q_RLNH, k_RKHL, v_RKLH, mask_RLL = pad_tokens(2, q_RLNH, k_RKHL, v_RKLH, mask_RLL)
    k_RLKH, v_RLKH = k_RKHL.transpose(0, 3, 1, 2), v_RKLH.transpose(0, 2, 1, 3)
    out_RLNH = jax.nn.dot_product_attention(
        q_RLNH, k_RLKH, v_RLKH, mask=mask_RLL[:, None], scale=scale, implementation='cudnn'
    )
    return out_RLNH[:, :L].reshape(R, L, N * H)


def _splash(q_RLNH, k_RKHL, v_RKLH, mask_RLL, *, scale: float, softcap: float | None, interpret):
    """Padded to whole blocks; fastest where 512 divides L. Each row's mask says which to skip.

    It loops over rows since the kernel reads its mask as int32: 4·L² bytes, of one row at a time.
    """
    R, L, N, H = q_RLNH.shape
    q_RLNH, k_RKHL, v_RKLH, mask_RLL = pad_tokens(
        SPLASH_BLOCKS[0], q_RLNH * scale, k_RKHL, v_RKLH, mask_RLL
    )
    block = max(size for size in SPLASH_BLOCKS if q_RLNH.shape[1] % size == 0)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )

    def attend_row(row):
        q_NLH, k_KLH, v_KLH, mask_LL = row
        forward, _ = splash_masks.process_dynamic_mask(mask_LL[None], (block, block))
        backward, _ = splash_masks.process_dynamic_mask_dkv(mask_LL[None], (block, block))
        # Not make_splash_mha: under a trace it makes an array of a flag of the mask info and then
        # branches on it.
        kernel = splash.SplashAttentionKernel(
            forward,
            forward,
            backward,
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

    q_RNLH, k_RKLH = q_RLNH.transpose(0, 2, 1, 3), k_RKHL.transpose(0, 1, 3, 2)
    rows = q_RNLH, k_RKLH, v_RKLH, mask_RLL
    out_RNLH = jax.lax.map(attend_row, rows)
    return out_RNLH[:, :, :L].transpose(0, 2, 1, 3).reshape(R, L, N * H)
