"""Mathematics that takes too long is ended, wherever it runs."""

import multiprocessing
import os
import threading
import time

import pytest

from selfrew.tasks.answers import math_process

HALF = '\\frac12', '0.5'
ENDLESS = '10^{10^{10}}', '3^{10^{10^{10}}}'


@pytest.fixture
def short_limit(monkeypatch):
    math_process.same(*HALF)  # starts the process
    monkeypatch.setattr(math_process, 'LIMIT_S', 1.0)


def test_answers_are_compared_in_another_process():
    assert math_process.same(*HALF) and not math_process.same('\\frac12', '0.6')
    assert math_process.key('\\frac12') == '1/2'


def test_a_verdict_that_takes_too_long_is_no_match_and_the_next_is_given(short_limit, caplog):
    begun = time.monotonic()
    assert not math_process.same(*ENDLESS)
    assert time.monotonic() - begun < 30  # a limit of 1, and a busy machine
    assert 'no verdict on' in caplog.text
    assert math_process.same('\\frac14', '0.25')


def test_the_limit_works_outside_the_main_thread(short_limit):
    results = []
    pair = '2^{10^{10}}', '5^{10^{10}}'
    thread = threading.Thread(target=lambda: results.append(math_process.same(*pair)))
    thread.start()
    thread.join(60)
    assert results == [False]


def _same_in_worker(i: int) -> tuple[bool, int]:
    return math_process.same('\\sqrt{8}', f'{i}\\sqrt{{2}}'), os.getpid()


def test_workers_have_processes_of_their_own():
    with multiprocessing.get_context('spawn').Pool(2) as pool:
        results = pool.map(_same_in_worker, [1, 2, 3])
    assert [is_same for is_same, _ in results] == [False, True, False]
    assert os.getpid() not in {pid for _, pid in results}


def test_what_sympy_cannot_read_is_no_match():
    assert not math_process.same('((' * 200 + '1' + '))' * 200, '2')
    assert not math_process.same('\\frac{1}{', '\\sqrt{')
