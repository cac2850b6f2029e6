"""States, in and out, by orbax. Layer 7."""

import os
import shutil

from selfrew import hosts, update
from selfrew.types import State


def save(folder, state: State) -> None:
    """Writes the state into the turn's folder, whole or not at all, and enlists it. Each process writes its parts."""
    import orbax.checkpoint as ocp  # slow to import

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(os.path.abspath(os.path.join(folder.path, 'state')), state._asdict(), force=True)
    folder.enlist('state', {'step': int(state.step), 'round': int(state.round)})


def restore(lm, folder, optimizer) -> State:
    """The state of a turn's folder, sharded as `lm` says. `optimizer` is the one that it was trained with."""
    import orbax.checkpoint as ocp

    like = update.shapes(lm, optimizer)
    with ocp.StandardCheckpointer() as checkpointer:
        return State(**checkpointer.restore(os.path.abspath(os.path.join(folder.path, 'state')), like._asdict()))


def delete(folder) -> None:
    """Removes a state that is no longer needed."""
    folder.drop('state')
    hosts.by_main(lambda: shutil.rmtree(os.path.join(folder.path, 'state')))
