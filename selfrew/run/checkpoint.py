"""Saves and restores training states with orbax."""

import functools
import os
import shutil

import jax

from selfrew.engine import finite, train_state
from selfrew.mesh import processes
from selfrew.types import State


def save(lm, folder, state: State) -> None:
    """Writes the state into the turn's folder, whole or not at all, and marks it done.

    Of a model with adapters, only these are written. Each process writes its own shards.
    Raises ValueError, and writes nothing, if a parameter is not finite.
    """
    finite.check_params(state.params, f'the new state of {folder.path}')
    with _checkpointer() as checkpointer:
        checkpointer.save(_state_path(folder), _trainable_fields(lm, state), force=True)
    folder.mark_done('state', {'step': int(state.step), 'round': int(state.round)})


def restore(lm, folder, optimizer, params) -> State:
    """The state of a turn's folder, sharded as `lm` says.

    Args:
      optimizer: the one it was trained with.
      params: of the model as it was loaded; supplies the parameters that were not trained.
    Raises ValueError if a parameter is not finite.
    """
    target = _trainable_fields(lm, train_state.abstract_state(lm, optimizer))
    with _checkpointer() as checkpointer:
        state = State(**checkpointer.restore(_state_path(folder), target))
    finite.check_params(state.params, f'{_state_path(folder)}; delete the folder {folder.path}')
    return state._replace(params=train_state.with_trainable(params, state.params))


def param_loaders(lm, folder) -> dict:
    """The trained parameters of a turn's folder, each as a function that reads it.

    Each is read for itself and placed as `lm` says, on whatever devices it was saved from, and
    nothing of the optimiser with it. The structure is that of train_state.trainable_params. A
    function raises ValueError if its parameter is not finite.
    """
    shapes, shardings = lm.abstract_params(), lm.param_shardings()
    targets = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        train_state.trainable_params(lm, shapes),
        train_state.trainable_params(lm, shardings),
    )
    return jax.tree_util.tree_map_with_path(
        lambda path, target: functools.partial(_restore_param, folder, path, target), targets
    )


def _restore_param(folder, path, target):
    """One parameter of the state in a turn's folder; `path` leads to it in the parameters."""
    import orbax.checkpoint as ocp  # noqa: PLC0415 (takes seconds)

    names = ['params', *(step.key for step in path)]
    item = functools.reduce(lambda inner, name: {name: inner}, reversed(names), target)
    options = ocp.args.PyTreeRestore(
        item=item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
    )
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(_state_path(folder), args=options)
    (param,) = jax.tree.leaves(restored)
    where = f'{_state_path(folder)}; delete the folder {folder.path}'
    finite.check_params({'/'.join(names[1:]): param}, where)
    return param


def delete_old(folders, keep: int | None) -> None:
    """Deletes the states in these folders but for the last `keep`; None keeps all."""
    if keep is not None:
        for folder in [f for f in folders if f.has('state')][:-keep]:
            folder.drop('state')
            processes.on_main(lambda folder=folder: shutil.rmtree(_state_path(folder)))


def _checkpointer():
    import orbax.checkpoint as ocp  # noqa: PLC0415 (takes seconds)

    return ocp.StandardCheckpointer()


def _state_path(folder) -> str:
    return os.path.abspath(os.path.join(folder.path, 'state'))


def _trainable_fields(lm, state: State) -> dict:
    """The state's fields by name, with only the trainable parameters."""
    return state._replace(params=train_state.trainable_params(lm, state.params))._asdict()
