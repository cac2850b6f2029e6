"""The state of training: trainable parameters, optimiser state, and their shardings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from selfrew.mesh import sharding
from selfrew.models import lora
from selfrew.types import State

OPTIMIZER_STATES = 'fresh', 'kept'
ONLY = ('value',)


def check_only(only: str | None) -> None:
    """Raises ValueError if updates cannot be restricted so."""
    if only is not None and only not in ONLY:
        raise ValueError(f'no part {only!r} to train alone; there are: {", ".join(ONLY)}')


@functools.cache
def training_only(lm, only: str | None):
    """The same model, of which updates change one part alone, 'value': the value head. None: all
    that `saved_params` has. One object for each, so that programs are compiled once.
    """
    return lm if lm.only == only else dataclasses.replace(lm, only=only)


def saved_params(lm, params) -> dict:
    """The parameters that updates may change, and a saved state holds: the adapters, if the model
    has any, and the value head; otherwise all.
    """
    if not lm.config.lora:
        return params
    value = {'value': params['value']} if 'value' in params else {}
    adapters = {name: x for name, x in params['blocks'].items() if lora.is_adapter(name)}
    return value | {'blocks': adapters}


def trainable_params(lm, params) -> dict:
    """The parameters that updates change: those of `saved_params`, or the value head alone."""
    if lm.only == 'value':
        return {'value': params['value'], 'blocks': {}}
    return saved_params(lm, params)


def has_frozen(lm) -> bool:
    """Whether updates leave some parameters as they are."""
    return bool(lm.config.lora or lm.only)


def with_trainable(params, trainable) -> dict:
    """The parameters with the trainable ones replaced by `trainable`."""
    return params | trainable | {'blocks': params['blocks'] | trainable['blocks']}


def has_master(lm) -> bool:
    """Whether the optimiser state holds a float32 copy for updates, as parameters are narrower."""
    return lm.param_dtype != 'float32' and not lm.config.lora


def _initial_opt(lm, optimizer, trainable):
    """The optimiser state before the first update: moments, and any float32 copy."""
    if not has_master(lm):
        return optimizer.init(trainable)
    master = jax.tree.map(lambda x: x.astype(jnp.float32), trainable)
    return {'master': master, 'moments': optimizer.init(master)}


@functools.cache
def _compiled_initial_opt(lm, optimizer):
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(lm, optimizer).opt)
    return jax.jit(functools.partial(_initial_opt, lm, optimizer), out_shardings=shardings)


def abstract_state(lm, optimizer) -> State:
    """The state as ShapeDtypeStructs with shardings; moments are sharded like their parameters."""
    params, replicated = lm.abstract_params(), sharding.of(lm.mesh)
    opt = jax.eval_shape(
        functools.partial(_initial_opt, lm, optimizer), trainable_params(lm, params)
    )
    count = jax.ShapeDtypeStruct((), jnp.int32)
    shardings = State(
        lm.param_shardings(), _opt_shardings(lm, optimizer, opt), replicated, replicated
    )
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        State(params, opt, count, count),
        shardings,
    )


def _opt_shardings(lm, optimizer, opt):
    """The sharding of each leaf of the optimiser state."""
    params, replicated = lm.param_shardings(), sharding.of(lm.mesh)

    def moment_sharding(moment, param, param_sharding):
        # Adafactor's factored moments are a row and a column, not of the parameter's shape.
        return param_sharding if moment.shape == param.shape else replicated

    moments = optax.tree_map_params(
        optimizer,
        moment_sharding,
        opt['moments'] if has_master(lm) else opt,
        trainable_params(lm, lm.abstract_params()),
        trainable_params(lm, params),
        transform_non_params=lambda _: replicated,
    )
    if not has_master(lm):
        return moments
    return {'master': trainable_params(lm, params), 'moments': moments}


def check_optimizer_state(optimizer_state: str) -> None:
    """Raises ValueError if a turn cannot treat the optimiser state so."""
    if optimizer_state not in OPTIMIZER_STATES:
        choices = ', '.join(OPTIMIZER_STATES)
        raise ValueError(f'no optimizer_state {optimizer_state!r}; there are: {choices}')


def begin_round(lm, state: State, optimizer) -> State:
    """The state before a round's first update, with fresh moments if it comes without any.

    Updates will overwrite the arrays of `state.params`.
    """
    opt = state.opt
    if opt is None:
        opt = _compiled_initial_opt(lm, optimizer)(trainable_params(lm, state.params))
    step, round = lm.replicate(jnp.int32(state.step)), lm.replicate(jnp.int32(state.round))
    return State(state.params, opt, step, round)


@functools.cache
def cached_optimizer(optimizer):
    """The optax transformation that a bound optimiser makes.

    It is one object per binding, so that no step is compiled twice.
    """
    return optimizer()
