"""A program of tests/test_signals.py: `python tests/stopped_runs.py FOLDER MOMENTS`.

Runs a small config in one process, so that its programs are compiled once, and sends this process
signals at seeded moments, of its time or of its safe points, until so many runs were stopped.
Prints what happened, as JSON.
"""

import functools
import glob
import json
import os
import random
import signal
import sys
import threading
import time

from selfrew.mesh import stopping

SIGNALS = 'SIGINT', 'SIGTERM', 'SIGHUP'


def main(folder: str, moments: int) -> None:
    from configs import quickstart  # noqa: PLC0415 (what is imported after `listen` is heavy)
    from selfrew import loop  # noqa: PLC0415
    from selfrew.models import language_model  # noqa: PLC0415
    from selfrew.running import binding, report  # noqa: PLC0415

    language_model.describe = functools.cache(language_model.describe)
    report.plot_curves = lambda rows, path: None  # a quarter of the time
    config = quickstart.get_config('smoke').to_dict()
    config['round']['prompts']['n'] = 6
    config['round']['scorer'] = {'name': 'length'}
    config['round']['train'] |= {'epochs': 8, 'batch': 8, 'row_length': 128}
    del config['evals']['judge']
    config['evals']['accuracy']['prompts']['n'] = 8
    config['round']['sampler'] |= {'n': 3, 'max_tokens': 12}
    config['evals']['accuracy']['sampler']['max_tokens'] = 12
    config['rounds'] = 2
    run = binding.bind_arguments(loop.run, config, 'config')
    run(f'{folder}/compiled')
    points = _SafePoints()
    stopping.is_asked = points.is_asked
    begun = time.monotonic()
    run(f'{folder}/whole')
    seconds, safe_points = time.monotonic() - begun, points.passed
    rng, stops, number = random.Random(0), [], 0
    while len(stops) < moments:
        workdir, name = f'{folder}/stopped{number}', SIGNALS[len(stops) % len(SIGNALS)]
        part, timer = rng.uniform(0.0, 0.35), None
        if rng.random() < 0.5:
            timer = threading.Timer(part * seconds, _send, (name,))
            timer.start()
        else:
            points.send_after(1 + int(part * safe_points), name)
        try:
            run(workdir)
            number += 1
        except stopping.Stopped as stop:
            stops.append(_told(workdir, name, stop))
        points.send_after(None, name)
        if timer is not None:
            timer.cancel()
    run(f'{folder}/stopped{number}')
    print(json.dumps({'stops': stops, 'runs': number + 1, 'seconds': seconds}))


class _SafePoints:
    """Counts the safe points that a run passes, and sends a signal at one of them."""

    def __init__(self):
        self._is_asked, self.passed, self._last, self._name = stopping.is_asked, 0, None, ''

    def send_after(self, count: int | None, name: str) -> None:
        """Sends the signal at the `count`-th point from now; None: never."""
        self._last, self._name = None if count is None else self.passed + count, name

    def is_asked(self) -> bool:
        self.passed += 1
        if self.passed == self._last:
            _send(self._name)
            time.sleep(0.1)  # until the thread that answers it has asked the run to stop
        return self._is_asked()


def _send(name: str) -> None:
    if stopping.is_on():
        os.kill(os.getpid(), getattr(signal, name))


def _told(workdir: str, name: str, stop: stopping.Stopped) -> dict:
    """What a stopped run says, and the updates that it saved within its turn."""
    with open(f'{workdir}/status.json') as file:
        status = json.load(file)
    saves = []
    for manifest in glob.glob(f'{workdir}/rounds/*/manifest.json'):
        with open(manifest) as file:
            saves += [entry for entry in json.load(file) if entry.startswith('update/')]
    told = {'signal': name, 'code': stop.code, 'reason': str(stop), 'saves': saves}
    return told | {'state': status['state'], 'error': status.get('error')}


if __name__ == '__main__':
    stopping.listen()
    main(sys.argv[1], int(sys.argv[2]))
