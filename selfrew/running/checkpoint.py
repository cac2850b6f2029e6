"""Saves and restores training states with orbax, with a checksum of each of their files."""

import contextlib
import errno
import glob
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator

import jax

from selfrew.engine import finite, run_files, train_state
from selfrew.mesh import processes
from selfrew.types import State

WITHIN = 'update'  # where a turn's folder has the states of its unfinished training


def save(lm, folder, state: State) -> None:
    """Writes the state into the turn's folder, whole or not at all, and marks it done.

    Of a model with adapters, only these are written. Each process writes its own shards.
    Raises ValueError, and writes nothing, if a parameter is not finite; OSError, with the path,
    where it cannot be written.
    """
    finite.check_params(state.params, f'the new state of {folder.path}')
    path, fields = state_path(folder), _saved_fields(lm, state)
    processes.on_main(lambda: _check_writable(path, fields))
    with _writing(path), _checkpointer() as checkpointer:
        checkpointer.save(path, fields, force=True)
    files = processes.on_main(lambda: run_files.checksums(path))
    entry = {'step': int(state.step), 'round': int(state.round), 'files': files}
    folder.mark_done('state', entry)


def restore(lm, folder, optimizer, params, name: str = 'state') -> State:
    """The state of a turn's folder, sharded as `lm` says.

    Args:
      optimizer: the one it was trained with.
      params: of the model as it was loaded; supplies the parameters that were not trained.
      name: what the folder's manifest calls the state.
    Raises ValueError if a parameter is not finite.
    """
    path = state_path(folder, name)
    target = _saved_fields(lm, train_state.abstract_state(lm, optimizer))
    with _checkpointer() as checkpointer:
        state = State(**checkpointer.restore(path, target))
    finite.check_params(state.params, f'{path}; delete the folder {folder.path}')
    return state._replace(params=train_state.with_trainable(params, state.params))


def is_sound(folder) -> bool:
    """Whether a turn's folder has a state, and its files are as they were written."""
    return folder.has('state') and _damage(folder, 'state') is None


def check_sound(folder) -> None:
    """Raises ValueError, with the file, if a turn's state is not as it was written."""
    if (problem := _damage(folder, 'state')) is not None:
        raise ValueError(f'{problem}; {run_files.MAKE_AGAIN}')


def last_sound(folders, say) -> int | None:
    """The index of the last folder with a state whose files are as they were written; None if none
    has one. A damaged state is no longer listed, and is made again. say(text): tells the user.
    """
    for index in reversed(range(len(folders))):
        folder = folders[index]
        if folder.has('state'):
            problem = _damage(folder, 'state')
            if problem is None:
                return index
            say(f'{problem}: this state is not used; going on from the one before')
            folder.drop('state')
    return None


def delete_old(folders, keep: int | None) -> None:
    """Deletes the states in these folders but for the last `keep`; None keeps all."""
    if keep is not None:
        for folder in [f for f in folders if f.has('state')][:-keep]:
            _delete(folder, 'state')


class TrainingSaves:
    """The states within a turn's unfinished training, by the number of its updates so far.

    They let a stopped run go on amid a turn, and are deleted when it is finished.
    """

    def __init__(self, folder, say):
        """say(text): tells the user of a damaged one, which is not used."""
        self._folder, self._writer, self._problem = folder, None, None
        self.updates = 0  # of the last one; 0 if there is none
        for name in reversed(self._names()):
            problem = _damage(folder, name)
            if problem is None:
                self.updates = int(os.path.basename(name))
                break
            say(f'{problem}: this state is not used; going on from the one before')
            folder.drop(name)

    def _names(self) -> list[str]:
        return sorted(name for name in self._folder.manifest if name.startswith(f'{WITHIN}/'))

    def restore(self, lm, optimizer, params) -> State:
        """The last state; see `restore`."""
        return restore(lm, self._folder, optimizer, params, f'{WITHIN}/{self.updates:09d}')

    def write(self, lm, state: State, updates: int, keep: int, *, wait: bool) -> None:
        """Saves the state after so many of the turn's updates; deletes all but the last `keep`.

        The arrays are copied, and one process then writes them while training goes on, unless it
        is to wait. Raises as `save` does; an error of the writing comes with the next call.
        """
        self.finish()
        finite.check_params(state.params, f'the state after {updates} updates')
        name = f'{WITHIN}/{updates:09d}'
        path, fields = state_path(self._folder, name), _saved_fields(lm, state)
        processes.on_main(lambda: _check_writable(path, fields))
        checkpointer = _checkpointer()
        with _writing(path):
            checkpointer.save(path, fields, force=True)
        step = int(state.step)

        def complete() -> None:
            try:
                with _writing(path):
                    checkpointer.close()
                files = processes.on_main(lambda: run_files.checksums(path))
                self._folder.mark_done(name, {'step': step, 'files': files})
                for old in self._names()[:-keep]:
                    _delete(self._folder, old)
            except Exception as problem:
                self._problem = problem

        if processes.is_alone():
            self._writer = threading.Thread(target=complete, name='save')
            self._writer.start()
        else:
            complete()
        if wait:
            self.finish()

    def finish(self) -> None:
        """Waits until the last state is written. Raises OSError, with the path, if it cannot be."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def delete(self) -> None:
        """Deletes all of them: the training is finished."""
        self.finish()
        for name in self._names():
            _delete(self._folder, name)
        path = os.path.join(self._folder.path, WITHIN)
        processes.on_main(lambda: shutil.rmtree(path, ignore_errors=True))


def _damage(folder, name: str) -> str | None:
    """What is wrong with a state, in words; None if it is as it was written."""
    path, files = state_path(folder, name), folder.manifest[name].get('files')
    return processes.on_main(lambda: run_files.damage(path, files))


def _delete(folder, name: str) -> None:
    folder.drop(name)
    processes.on_main(lambda: shutil.rmtree(state_path(folder, name)))


def _check_writable(path: str, fields: dict) -> None:
    """Raises OSError, with the path, where a folder cannot be written, or has no room for a state:
    orbax waits for minutes then, and prints what its threads raise.
    """
    folder = os.path.dirname(path)
    with run_files.naming(path):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(fields))
    free = shutil.disk_usage(folder).free
    if free < needed:
        told = f'{os.strerror(errno.ENOSPC)} ({needed:,} bytes needed, {free:,} free)'
        raise OSError(errno.ENOSPC, told, path)


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turns what orbax raises where a state cannot be written into an OSError with the path."""
    try:
        yield
    except Exception as problem:
        for partial in glob.glob(f'{glob.escape(path)}.orbax-checkpoint-tmp*'):
            shutil.rmtree(partial, ignore_errors=True)
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        raise OSError(f'{path} cannot be written: {lines[0][:300]}') from problem


def _checkpointer():
    import orbax.checkpoint as ocp  # noqa: PLC0415 (takes seconds)

    return ocp.StandardCheckpointer()


def state_path(folder, name: str = 'state') -> str:
    """Where a state of a turn's folder lies, as an absolute path."""
    return os.path.abspath(os.path.join(folder.path, name))


def _saved_fields(lm, state: State) -> dict:
    """The state's fields by name, with only the parameters that updates may change."""
    return state._replace(params=train_state.saved_params(lm, state.params))._asdict()
