"""Optimisers, a shelf, and learning rates. Layer 1. The shelf's contract: (*, …) -> an optax
transformation.

All fields are keyword-only. What a transformation returns is a direction of ascent without a
learning rate: `train` subtracts it, times the rate of the step. Each clips the gradient's global
norm to `clip` first. `weight_decay` adds so much of the parameters to the direction (decoupled,
arXiv 1711.05101). States are float32 where nothing else is said.
"""

import jax.numpy as jnp
import optax

MOMENTS = 'float32', 'bfloat16'


def check_moments(moments: str) -> None:
    """ValueError where a first moment cannot be kept so."""
    if moments not in MOMENTS:
        raise ValueError(f'no moments {moments!r}; there are: {", ".join(MOMENTS)}')


def adamw(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    moments: str = 'float32',
):
    """AdamW (arXiv 1711.05101). moments: how the first moment is kept; 'bfloat16' takes half its
    memory.
    """
    check_moments(moments)
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=jnp.dtype(moments))
    return optax.chain(
        optax.clip_by_global_norm(clip), adam, optax.add_decayed_weights(weight_decay)
    )


def adafactor(
    *,
    decay: float = 0.8,
    eps: float = 1e-30,
    threshold: float = 1.0,
    weight_decay: float = 0.0,
    clip: float = 1.0,
):
    """Adafactor (arXiv 1804.04235) without momentum and with the learning rate as given, not
    relative to the weights.

    Second moments of matrices whose sides are at least 128 are kept as row and column means. decay:
    c of β₂ = 1 − t⁻ᶜ. threshold: the root mean square above which the update of an array (all
    layers' together) is scaled down.
    """
    factored = optax.scale_by_factored_rms(decay_rate=decay, epsilon=eps)
    parts = optax.clip_by_global_norm(clip), factored, optax.clip_by_block_rms(threshold)
    return optax.chain(*parts, optax.add_decayed_weights(weight_decay))


def lion(
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    moments: str = 'float32',
):
    """Lion (arXiv 2302.06675): the sign of a momentum; wants about a tenth of AdamW's rate.
    moments: as of adamw.
    """
    check_moments(moments)
    sign = optax.scale_by_lion(b1, b2, mu_dtype=jnp.dtype(moments))
    return optax.chain(
        optax.clip_by_global_norm(clip), sign, optax.add_decayed_weights(weight_decay)
    )


def rmsprop(
    *, decay: float = 0.9, eps: float = 1e-8, weight_decay: float = 0.0, clip: float = 10.0
):
    """RMSprop, the optimiser of the original DPO code."""
    rms = optax.scale_by_rms(decay, eps)
    return optax.chain(
        optax.clip_by_global_norm(clip), rms, optax.add_decayed_weights(weight_decay)
    )


def sgd(
    *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0, clip: float = 1.0
):
    """Gradient descent; with `momentum`, along a sum of gradients in which older ones count so much
    less a step.
    """
    trace = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return optax.chain(
        optax.clip_by_global_norm(clip), trace, optax.add_decayed_weights(weight_decay)
    )
