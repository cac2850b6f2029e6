"""Optimizers. The shelf's contract: (*, …) -> an optax transformation.

An update has the gradient's sign and no learning rate; the train step multiplies by the rate and
subtracts it. Each optimizer first clips the gradient's global norm to `clip`, and
last adds `weight_decay` times the parameters (decoupled, arXiv 1711.05101). States are float32
unless `moments` says otherwise.
"""

import jax.numpy as jnp
import optax

MOMENTS = 'float32', 'bfloat16'


def check_moments(moments: str) -> None:
    """Raises ValueError for a dtype that a first moment cannot have."""
    if moments not in MOMENTS:
        raise ValueError(f'no moments {moments!r}; there are: {", ".join(MOMENTS)}')


def _clipped(clip: float, weight_decay: float, *updates: optax.GradientTransformation):
    """The updates between the clipping of gradients and the decay of weights."""
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip), *updates, decay)


def adamw(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    moments: str = 'float32',
):
    """AdamW (arXiv 1711.05101).

    Args:
      moments: the dtype of the first moment; 'bfloat16' halves its memory.
    """
    check_moments(moments)
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=jnp.dtype(moments))
    return _clipped(clip, weight_decay, adam)


def adafactor(
    *,
    decay: float = 0.8,
    eps: float = 1e-30,
    threshold: float = 1.0,
    weight_decay: float = 0.0,
    clip: float = 1.0,
):
    """Adafactor (arXiv 1804.04235) without momentum and with an absolute learning rate, not one
    relative to the weights.

    The second moments of matrices with both sides of at least 128 are kept as row and column means.

    Args:
      decay: c of β₂ = 1 − t⁻ᶜ.
      threshold: the update of an array (all layers' together) is scaled down to this root mean
        square.
    """
    factored = optax.scale_by_factored_rms(decay_rate=decay, epsilon=eps)
    return _clipped(clip, weight_decay, factored, optax.clip_by_block_rms(threshold))


def lion(
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    moments: str = 'float32',
):
    """Lion (arXiv 2302.06675): the sign of a momentum. Wants about a tenth of AdamW's rate.

    Args:
      moments: as in adamw.
    """
    check_moments(moments)
    sign = optax.scale_by_lion(b1, b2, mu_dtype=jnp.dtype(moments))
    return _clipped(clip, weight_decay, sign)


def rmsprop(
    *, decay: float = 0.9, eps: float = 1e-8, weight_decay: float = 0.0, clip: float = 10.0
):
    """RMSprop, the optimizer of the original DPO code."""
    return _clipped(clip, weight_decay, optax.scale_by_rms(decay, eps))


def sgd(
    *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0, clip: float = 1.0
):
    """Gradient descent, along a decaying sum of gradients if `momentum` (its decay) is not 0."""
    trace = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return _clipped(clip, weight_decay, trace)
