"""Metrics over a run: metrics.jsonl and TensorBoard, and the count of compiled programs."""

import json
import math
import os

import jax
from tensorboardX import SummaryWriter

from selfrew.mesh import processes
from selfrew.run.stage import write_atomic
from selfrew.types import to_json


class MetricsLog:
    """Appends metrics. A turn that runs again replaces what its first try wrote.

    `compiled` counts the programs that XLA compiled since the log was opened.
    """

    def __init__(self, workdir: str):
        self.compiled = 0
        self._path = os.path.join(workdir, 'metrics.jsonl')
        self._board = None
        if processes.is_main():
            self._board = SummaryWriter(os.path.join(workdir, 'tensorboard'))
        jax.monitoring.register_event_duration_secs_listener(self._count_compilation)

    def _count_compilation(self, event: str, duration_secs: float, **_) -> None:
        self.compiled += event == '/jax/core/compile/backend_compile_duration'

    def start_turn(self, turn: str) -> None:
        """Deletes the lines of this turn and of later ones, which a killed run wrote."""
        processes.on_main(lambda: self._drop_from(turn))

    def _drop_from(self, turn: str) -> None:
        if not os.path.exists(self._path):
            return
        with open(self._path) as file:
            whole = [line for line in file if line.endswith('\n')]
        earlier = [line for line in whole if json.loads(line)['turn'] < turn]
        write_atomic(self._path, ''.join(earlier).encode())

    def write(self, turn: str, step: int, metrics: dict) -> None:
        """Appends a line. `step` counts updates from the start of the run."""
        if self._board is None:
            return
        with open(self._path, 'a') as file:
            file.write(json.dumps({'turn': turn, 'step': step, **to_json(metrics)}) + '\n')
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and not math.isnan(value):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes TensorBoard's file and stops counting."""
        if self._board is not None:
            self._board.close()
        jax.monitoring.unregister_event_duration_listener(self._count_compilation)
