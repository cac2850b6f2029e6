"""Attention back ends."""
import jax
import jax.numpy as jnp

BACKENDS = 'xla', 'cudnn', 'splash'


def attend(q_RLNH, k_RKHL, v_RKLH, mask_RLC, cache=None, *, scale, softcap=None, backend='xla', mesh=None):
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
