"""What a run says while it runs: metrics.jsonl, TensorBoard, and what is worth seeing of a turn.
Layer 7.
"""

import json
import math
import os

import jax

from selfrew.mesh import processes
from selfrew.run.stage import write_atomic
from selfrew.types import to_json


class MetricsLog:
    """Appends metrics; a turn that is run again replaces what its first try wrote."""

    def __init__(self, workdir: str):
        from tensorboardX import SummaryWriter

        self._path = os.path.join(workdir, 'metrics.jsonl')
        self._board = (
            SummaryWriter(os.path.join(workdir, 'tensorboard')) if processes.is_main() else None
        )
        self.compiled = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, duration: float, **_) -> None:
        self.compiled += event == '/jax/core/compile/backend_compile_duration'

    def start_turn(self, turn: str) -> None:
        """Forgets what a killed run wrote of this turn and of later ones."""
        processes.on_main(lambda: self._drop_turn(turn))

    def _drop_turn(self, turn: str) -> None:
        if os.path.exists(self._path):
            with open(self._path) as file:
                rows = [
                    line for line in file if line.endswith('\n') and json.loads(line)['turn'] < turn
                ]
            write_atomic(self._path, ''.join(rows).encode())

    def write(self, turn: str, step: int, metrics: dict) -> None:
        """One line. `step` counts updates from the start of the run."""
        if not processes.is_main():
            return
        with open(self._path, 'a') as file:
            file.write(json.dumps({'turn': turn, 'step': step, **to_json(metrics)}) + '\n')
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and not math.isnan(value):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if processes.is_main():
            self._board.close()
        jax.monitoring.unregister_event_duration_listener(self._count)
