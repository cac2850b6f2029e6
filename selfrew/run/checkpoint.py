"""Saves and restores training states with orbax."""

import os
import shutil

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
        checkpointer.save(state_path(folder), _saved_fields(lm, state), force=True)
    folder.mark_done('state', {'step': int(state.step), 'round': int(state.round)})


def restore(lm, folder, optimizer, params) -> State:
    """The state of a turn's folder, sharded as `lm` says.

    Args:
      optimizer: the one it was trained with.
      params: of the model as it was loaded; supplies the parameters that were not trained.
    Raises ValueError if a parameter is not finite.
    """
    target = _saved_fields(lm, train_state.abstract_state(lm, optimizer))
    with _checkpointer() as checkpointer:
        state = State(**checkpointer.restore(state_path(folder), target))
    finite.check_params(state.params, f'{state_path(folder)}; delete the folder {folder.path}')
    return state._replace(params=train_state.with_trainable(params, state.params))


def delete_old(folders, keep: int | None) -> None:
    """Deletes the states in these folders but for the last `keep`; None keeps all."""
    if keep is not None:
        for folder in [f for f in folders if f.has('state')][:-keep]:
            folder.drop('state')
            processes.on_main(lambda folder=folder: shutil.rmtree(state_path(folder)))


def _checkpointer():
    import orbax.checkpoint as ocp  # noqa: PLC0415 (takes seconds)

    return ocp.StandardCheckpointer()


def state_path(folder) -> str:
    """Where the state of a turn's folder lies, as an absolute path."""
    return os.path.abspath(os.path.join(folder.path, 'state'))


def _saved_fields(lm, state: State) -> dict:
    """The state's fields by name, with only the parameters that updates may change."""
    return state._replace(params=train_state.saved_params(lm, state.params))._asdict()
