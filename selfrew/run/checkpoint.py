"""States, in and out, by orbax. Layer 7."""

import os
import shutil

from selfrew.engine import train_state
from selfrew.mesh import processes
from selfrew.types import State


def save(lm, folder, state: State) -> None:
    """Writes the state into the turn's folder, whole or not at all, and enlists it.

    Of a model with adapters, only those. Each process writes its parts.
    """
    import orbax.checkpoint as ocp  # slow to import

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(
            os.path.abspath(os.path.join(folder.path, 'state')), _kept(lm, state), force=True
        )
    folder.mark_done('state', {'step': int(state.step), 'round': int(state.round)})


def _kept(lm, state: State) -> dict:
    return (state._replace(params=train_state.trainable(lm, state.params)))._asdict()


def restore(lm, folder, optimizer, params) -> State:
    """The state of a turn's folder, sharded as `lm` says.

    Args: optimizer, the one that it was trained with; params, of the model as it came, for what
      training left alone.
    """
    import orbax.checkpoint as ocp

    like = _kept(lm, train_state.abstract_state(lm, optimizer))
    with ocp.StandardCheckpointer() as checkpointer:
        state = State(
            **checkpointer.restore(os.path.abspath(os.path.join(folder.path, 'state')), like)
        )
    return state._replace(params=train_state.merge(params, state.params))


def delete(folder) -> None:
    """Removes a state that is no longer needed."""
    folder.drop('state')
    processes.on_main(lambda: shutil.rmtree(os.path.join(folder.path, 'state')))
