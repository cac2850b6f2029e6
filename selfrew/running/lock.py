"""One owner for a run's folder: lock.json, which names the process that works there.

The file is made where there is none, which is atomic on local disks and on NFS. Its owner renews it
every RENEW_SECONDS. One that a dead process left is taken over: at once where it was of this
machine, else after it was not renewed for STALE_SECONDS by the watch of the one who waits, so that
the clocks of two machines need not agree.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from selfrew.engine.run_files import naming, write_atomic
from selfrew.mesh import processes, stopping

NAME = 'lock.json'
RENEW_SECONDS = 10.0
STALE_SECONDS = 45.0
CONFIRM_SECONDS = 0.2  # after which of two that took over at the same time, one is the owner


class Lock:
    """A folder's lock, held by this process."""

    def __init__(self, workdir: str):
        self.path = os.path.join(workdir, NAME)
        self._owner = {
            'token': uuid.uuid4().hex,
            'host': socket.gethostname(),
            'pid': os.getpid(),
            'process': _birth(os.getpid()),
            'since': time.strftime('%Y-%m-%d %H:%M:%S'),
            'renewed': 0,
        }
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name='lock', daemon=True)

    def take(self, say) -> None:
        """Takes the lock. say(text): tells the user that it waits, or takes over.

        Raises ValueError if a living process holds it, OSError where it cannot be written.
        """
        is_contested = False
        with naming(self.path):
            while not self._create():
                is_contested = True
                other = _read(self.path)
                if other is not None:
                    self._wait_for_death(other, say)
                    _remove(self.path, other.get('token'))
                    say(f'took over from a dead process: {_described(other)}')
        if is_contested:
            time.sleep(CONFIRM_SECONDS)
        if not self._is_mine():
            raise ValueError(_refusal(self.path, _read(self.path) or {}))
        self._thread.start()

    def _create(self) -> bool:
        try:
            number = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(number, 'w') as file:
            file.write(json.dumps(self._owner) + '\n')
        return True

    def _wait_for_death(self, other: dict, say) -> None:
        """Returns once the other owner is known to be dead. Raises ValueError if it lives."""
        if other.get('host') == self._owner['host']:
            if _birth(other.get('pid', -1)) == other.get('process') is not None:
                raise ValueError(_refusal(self.path, other))
            return
        say(f'waiting {STALE_SECONDS:g} s to see whether the owner lives: {_described(other)}')
        until = time.monotonic() + STALE_SECONDS
        while time.monotonic() < until:
            stopping.check()
            time.sleep(min(1.0, STALE_SECONDS / 10))
            if (now := _read(self.path)) != other:
                if now is not None:
                    raise ValueError(_refusal(self.path, now))
                return

    def _is_mine(self) -> bool:
        return (_read(self.path) or {}).get('token') == self._owner['token']

    def _keep_renewing(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            try:
                if not self._is_mine():
                    folder = os.path.dirname(self.path)
                    gone = f'{folder} is gone, or another process has taken it over ({self.path})'
                    stopping.ask(gone)
                    return
                self._owner['renewed'] += 1
                write_atomic(self.path, (json.dumps(self._owner) + '\n').encode())
            except OSError:  # a full disk says so where it matters
                continue

    def release(self) -> None:
        """Gives the folder back, if this process still holds it."""
        self._released.set()
        with contextlib.suppress(OSError):
            _remove(self.path, self._owner['token'])


@contextlib.contextmanager
def held(workdir: str, say) -> Iterator[Lock]:
    """A context in which this process, or the first of several, owns the folder, which is made if
    it is not there.

    Raises as Lock.take does.
    """
    is_new, lock = not os.path.isdir(workdir), Lock(workdir)

    def take() -> None:
        with naming(workdir):
            os.makedirs(workdir, exist_ok=True)
        lock.take(say)

    processes.on_main(take)
    try:
        with stopping.in_run(lambda _: lock.release()):
            yield lock
    finally:
        lock.release()
        if is_new:  # a run that was refused leaves nothing behind
            with contextlib.suppress(OSError):
                os.rmdir(workdir)


def living_owner(workdir: str) -> str | None:
    """The process of this machine that owns a folder, or one of another machine, in words; None if
    there is none, or it is dead.
    """
    owner = _read(os.path.join(workdir, NAME))
    if not owner:
        return None
    is_here = owner.get('host') == socket.gethostname()
    is_dead = is_here and not _birth(owner.get('pid', -1)) == owner.get('process')
    return None if is_dead else _described(owner)


def _birth(pid: int) -> str | None:
    """Which process of this machine has this number, by the machine's boot and the process's start;
    None if there is none.
    """
    try:
        with open('/proc/sys/kernel/random/boot_id') as boot, open(f'/proc/{pid}/stat') as stat:
            fields = stat.read().rpartition(')')[2].split()
            return None if fields[0] == 'Z' else f'{boot.read().strip()}/{fields[19]}'
    except FileNotFoundError:
        pass
    if os.path.exists('/proc/self/stat'):
        return None
    try:  # not Linux: only whether it is there
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 'alive'


def _read(path: str) -> dict | None:
    """What the lock says; None if there is none, {} where it says nothing (yet)."""
    try:
        with open(path) as file:
            value = json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _remove(path: str, token) -> None:
    """Removes the lock with this token, if it is still there."""
    if (_read(path) or {}).get('token') == token:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def _described(owner: dict) -> str:
    names = (
        ('process', owner.get('pid')),
        ('host', owner.get('host')),
        ('since', owner.get('since')),
    )
    return ', '.join(f'{name} {value}' for name, value in names if value is not None) or 'no name'


def _refusal(path: str, owner: dict) -> str:
    folder = os.path.dirname(path)
    return (
        f'{folder} belongs to a process that is running there: {_described(owner)}. '
        f'Two runs cannot share a folder; stop that one, or choose another workdir. If it does '
        f'not run any more, delete {path}'
    )
