"""A folder has one owner; the lock of a dead process is taken over."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from selfrew.mesh import stopping
from selfrew.running import lock


def _owner(path, **fields):
    before = {'token': 'x', 'host': socket.gethostname(), 'pid': os.getpid(), 'process': 'y'}
    os.makedirs(path, exist_ok=True)
    with open(path / lock.NAME, 'w') as file:
        json.dump(before | fields, file)


def test_a_folder_is_held_and_given_back(tmp_path):
    with lock.held(str(tmp_path / 'w'), print):
        assert os.path.exists(tmp_path / 'w' / 'lock.json')
        assert lock.living_owner(str(tmp_path / 'w'))
        with pytest.raises(ValueError, match='belongs to a process that is running there') as told:
            with lock.held(str(tmp_path / 'w'), print):
                pass
        assert f'process {os.getpid()}' in str(told.value)
        (tmp_path / 'w' / 'file').write_text('')
    assert os.listdir(tmp_path / 'w') == ['file']
    assert lock.living_owner(str(tmp_path / 'w')) is None


def test_a_folder_that_was_made_for_a_refused_run_is_gone(tmp_path):
    with pytest.raises(KeyError), lock.held(str(tmp_path / 'w'), print):
        raise KeyError
    assert not os.path.exists(tmp_path / 'w')


def test_the_lock_of_a_dead_process_is_taken_over_at_once(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    _owner(tmp_path, pid=dead.pid)
    assert lock.living_owner(str(tmp_path)) is None
    said = []
    with lock.held(str(tmp_path), said.append):
        assert lock.living_owner(str(tmp_path))
    assert said and 'took over from a dead process' in said[0]


def test_another_process_with_the_number_of_a_dead_one_is_not_it(tmp_path):
    """The number of this process, but of an earlier boot."""
    _owner(tmp_path, process='another boot/1')
    with lock.held(str(tmp_path), print):
        pass


def test_a_dead_owner_on_another_machine_is_known_by_a_lock_that_is_not_renewed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(lock, 'STALE_SECONDS', 0.3)
    _owner(tmp_path, host='another')
    said = []
    with lock.held(str(tmp_path), said.append):
        pass
    assert 'waiting 0.3 s' in said[0] and 'took over' in said[1]


def test_a_living_owner_on_another_machine_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, 'STALE_SECONDS', 20.0)
    _owner(tmp_path, host='another', renewed=1)
    threading.Timer(0.5, _owner, (tmp_path,), {'host': 'another', 'renewed': 2}).start()
    with pytest.raises(ValueError, match='host another'), lock.held(str(tmp_path), print):
        pass


@pytest.mark.parametrize('text', ['', '{', '[]', '3'])
def test_a_damaged_lock_is_taken_over_in_the_end(tmp_path, monkeypatch, text):
    monkeypatch.setattr(lock, 'STALE_SECONDS', 0.2)
    (tmp_path / lock.NAME).write_text(text)
    with lock.held(str(tmp_path), print):
        pass


@pytest.mark.parametrize('lost', [True, False])
def test_a_run_whose_folder_was_lost_or_taken_over_is_asked_to_stop(tmp_path, monkeypatch, lost):
    monkeypatch.setattr(lock, 'RENEW_SECONDS', 0.05)
    with pytest.raises(stopping.Stopped, match='is gone, or another process has taken it over'):
        with lock.held(str(tmp_path / 'w'), print):
            time.sleep(0.2)
            stopping.check()
            for _ in range(100):  # again where it was being renewed at that moment
                if lost:
                    (tmp_path / 'w' / lock.NAME).unlink(missing_ok=True)
                else:
                    _owner(tmp_path / 'w', token='other')
                time.sleep(0.1)
                stopping.check()
    assert os.path.exists(tmp_path / 'w' / lock.NAME) != lost


def test_of_many_that_want_a_dead_owners_folder_one_gets_it(tmp_path):
    """Eight at the same time, each with a lock of its own."""
    _owner(tmp_path, process='dead')
    barrier, outcomes = threading.Barrier(8), []

    def want():
        own = lock.Lock(str(tmp_path))
        barrier.wait()
        try:
            own.take(lambda _: None)
            outcomes.append('mine')
        except ValueError as problem:
            outcomes.append(str(problem))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count('mine') == 1 and len(outcomes) == 8
