"""One optimiser step, compiled."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from selfrew.engine import finite, logprobs, loss_contract, packing, train_state
from selfrew.mesh import sharding
from selfrew.types import Batch, State

# Prefix of the metrics that are 0 where all is finite, see `compiled_step`.
NOT_FINITE = 'not finite/'


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """The update (state, batch, lr, key) -> (state, metrics). The state's arrays are donated."""

    lm: Any
    compiled: Any  # the jitted (state with trainable params, other params, batch, lr, key)

    def __call__(self, state: State, batch: Batch, lr, key):
        trainable = train_state.trainable_params(self.lm, state.params)
        frozen = state.params if train_state.has_frozen(self.lm) else {'blocks': {}}
        changed, metrics = self.compiled(state._replace(params=trainable), frozen, batch, lr, key)
        params = train_state.with_trainable(state.params, changed.params)
        return changed._replace(params=params), metrics


@functools.cache
def compiled_step(lm, loss, optimizer) -> TrainStep:
    """The compiled update; the same object for the same model, loss and optimiser.

    For a batch of stacked micro-batches [A R L] the gradients are summed in float32 before the one
    optimiser step. Metrics are means over the real examples, plus 'loss' and 'grad_norm'; and under
    NOT_FINITE a number for the log-probabilities, the loss, the gradient and the new parameters, 0
    where they are finite.
    """
    gradient = functools.partial(_gradient, lm, loss)
    summed_gradient = functools.partial(_summed_gradient, gradient)
    has_master = train_state.has_master(lm)

    def step(state, frozen, batch, lr, key):
        trainable = state.params
        is_stacked = batch.tokens.ndim == 3
        take_gradient = summed_gradient if is_stacked else gradient
        (value, metrics), grads = take_gradient(trainable, frozen, batch, key)
        master, moments = (
            (state.opt['master'], state.opt['moments']) if has_master else (trainable, state.opt)
        )
        updates, moments = optimizer.update(grads, moments, master)
        master = jax.tree.map(lambda param, update: param - lr * update, master, updates)
        opt = {'master': master, 'moments': moments} if has_master else moments
        metrics |= {'loss': value, 'grad_norm': optax.tree.norm(grads)}
        trainable = jax.tree.map(lambda param, exact: exact.astype(param.dtype), trainable, master)
        metrics |= {
            f'{NOT_FINITE}loss': 1.0 - jnp.isfinite(value),
            f'{NOT_FINITE}gradient': 1.0 - jnp.isfinite(metrics['grad_norm']),
            f'{NOT_FINITE}parameters': 1.0 - finite.all_finite(trainable),
        }
        return State(trainable, opt, state.step + 1, state.round), metrics

    # Explicit output shardings: left to itself the compiler moves small arrays, and the next step
    # would be another program.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, train_state.abstract_state(lm, optimizer))
    shardings = shardings._replace(params=train_state.trainable_params(lm, shardings.params))
    compiled = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, sharding.of(lm.mesh)),
        compiler_options=sharding.COMPILER_OPTIONS.get(sharding.platform(lm.mesh)),
    )
    return TrainStep(lm, compiled)


def _objective(lm, loss, trainable, frozen, batch, key):
    """(mean loss, metrics) of a batch, as a function of the trainable parameters."""
    wants = loss_contract.requested_fields(loss)
    params = train_state.with_trainable(frozen, trainable)
    out = logprobs.forward(lm.module, params, batch, jax.random.fold_in(key, 1), **wants)
    loss_B, metrics = loss(out, batch, key)
    count = jnp.maximum(batch.count, 1.0)
    metrics = {name: jnp.sum(value_B * batch.real) / count for name, value_B in metrics.items()}
    is_bad_BN = ~jnp.isfinite(out.logp) & (batch.real[:, None] > 0)
    metrics[f'{NOT_FINITE}log-probability'] = jnp.sum(is_bad_BN, dtype=jnp.float32)
    return jnp.sum(loss_B * batch.weight * batch.real) / count, metrics


def _gradient(lm, loss, trainable, frozen, batch, key):
    """((loss, metrics), gradients with respect to the trainable parameters), all float32."""
    objective = functools.partial(_objective, lm, loss)
    result = jax.value_and_grad(objective, has_aux=True)(trainable, frozen, batch, key)
    return jax.tree.map(lambda x: x.astype(jnp.float32), result)


def _summed_gradient(gradient, trainable, frozen, batches, key):
    """The sums of `gradient` over stacked micro-batches, one at a time."""

    def add_batch(sums, batch):
        return jax.tree.map(jnp.add, sums, gradient(trainable, frozen, batch, key)), None

    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(gradient, trainable, frozen, first, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add_batch, zeros, batches)[0]


def stack_micro_batches(batch: Batch, accumulate: int) -> Batch:
    """The input of a step: the batch itself, or its micro-batches stacked along a first axis."""
    if accumulate == 1:
        return batch
    return jax.tree.map(lambda *leaves: np.stack(leaves), *packing.micro_batches(batch, accumulate))
