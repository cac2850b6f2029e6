"""The state of training: trainable parameters, optimiser state, and how they lie on the mesh."""

import functools

import jax
import jax.numpy as jnp
import optax

from selfrew.mesh import sharding
from selfrew.models import decoder
from selfrew.types import State

# --- one step, and a round of them ------------------------------------------------------------------------------------


def trainable(lm, params) -> dict:
    """The part of the parameters that updates change: all of them, or the adapters where there are
    any.
    """
    if not lm.config.lora:
        return params
    return {
        'blocks': {name: x for name, x in params['blocks'].items() if name.endswith(decoder.LORA)}
    }


def merge(params, part) -> dict:
    """The parameters with that part of them replaced."""
    return params | part | {'blocks': params['blocks'] | part['blocks']}


def has_master(lm) -> bool:
    """Whether updates go to a float32 copy that the optimiser's state holds, because the parameters
    are narrower.
    """
    return lm.param_dtype != 'float32' and not lm.config.lora


def _begin(lm, optimizer, part):
    """The optimiser's state before the first update: moments, and the float32 copy where there is
    one.
    """
    if not has_master(lm):
        return optimizer.init(part)
    master = jax.tree.map(lambda x: x.astype(jnp.float32), part)
    return {'master': master, 'moments': optimizer.init(master)}


@functools.cache
def _beginner(lm, optimizer):
    where = jax.tree.map(lambda x: x.sharding, abstract_state(lm, optimizer).opt)
    return jax.jit(functools.partial(_begin, lm, optimizer), out_shardings=where)


def abstract_state(lm, optimizer) -> State:
    """What a state looks like, as ShapeDtypeStructs with shardings; moments lie like the parameters
    they belong to.
    """
    params, lie, replicated = lm.abstract_params(), lm.param_shardings(), sharding.of(lm.mesh)
    opt = jax.eval_shape(functools.partial(_begin, lm, optimizer), trainable(lm, params))
    moments = opt['moments'] if has_master(lm) else opt
    like = lambda x, p, where: (
        where if x.shape == p.shape else replicated
    )  # Adafactor's rows and columns
    where = optax.tree_map_params(
        optimizer,
        like,
        moments,
        trainable(lm, params),
        trainable(lm, lie),
        transform_non_params=lambda _: replicated,
    )
    where = {'master': lie, 'moments': where} if has_master(lm) else where
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        State(params, opt, count, count),
        State(lie, where, replicated, replicated),
    )


def begin_round(lm, state: State, optimizer) -> State:
    """The state before a round's first update, with fresh moments. Updates will write over
    `state.params`.
    """
    opt = _beginner(lm, optimizer)(trainable(lm, state.params))
    return State(
        state.params, opt, lm.replicate(jnp.int32(state.step)), lm.replicate(jnp.int32(state.round))
    )


@functools.cache
def cached_optimizer(optimizer):
    """The transformation of a bound optimiser: one object for one binding, so that no step is
    compiled twice.
    """
    return optimizer()
