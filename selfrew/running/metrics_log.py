"""Metrics over a run: metrics.jsonl, TensorBoard, W&B, and the count of compiled programs."""

import contextlib
import json
import logging
import math
import os
import re
import time
from typing import Any

import jax

from selfrew.engine.run_files import naming, turn_order, write_atomic
from selfrew.mesh import processes
from selfrew.types import to_json


class MetricsLog:
    """Appends metrics. A turn that runs again replaces what its first try wrote.

    `compiled` counts the programs that XLA compiled since the log was opened.
    """

    def __init__(self, workdir: str, tensorboard: bool = True, wandb: str | None = None):
        """tensorboard: whether to write its files. wandb: the project to log to, or None."""
        self.compiled = 0
        self._path = os.path.join(workdir, 'metrics.jsonl')
        self._boards = []
        if processes.is_main():
            if tensorboard:
                folder = os.path.join(workdir, 'tensorboard')
                self._boards.append(_Guarded('TensorBoard', lambda: TensorBoard(folder)))
            if wandb:
                self._boards.append(_Guarded('W&B', lambda: WeightsAndBiases(wandb, workdir)))
        jax.monitoring.register_event_duration_secs_listener(self._count_compilation)

    def _count_compilation(self, event: str, duration_secs: float, **_) -> None:
        self.compiled += event == '/jax/core/compile/backend_compile_duration'

    def start_turn(self, turn: str, step: int = 0) -> None:
        """Deletes the lines that a killed run wrote of later turns, and of this one from `step`."""
        processes.on_main(lambda: self._drop_from(turn, step))

    def _drop_from(self, turn: str, step: int) -> None:
        if not os.path.exists(self._path):
            return
        first = turn_order(turn)
        earlier = [
            json.dumps(row) + '\n'
            for row in read_rows(self._path)
            if turn_order(row['turn']) < first or (row['turn'] == turn and row['step'] < step)
        ]
        write_atomic(self._path, ''.join(earlier).encode())

    def write(self, turn: str, step: int, metrics: dict) -> None:
        """Appends a line. `step` counts updates from the start of the run.

        Raises OSError, with the path, where metrics.jsonl cannot be written.
        """
        if not processes.is_main():
            return
        now = time.strftime('%Y-%m-%dT%H:%M:%S%z')
        line = {'turn': turn, 'step': step, 'time': now, **to_json(metrics)}
        with naming(self._path), open(self._path, 'a') as file:
            file.write(json.dumps(line) + '\n')
        for board in self._boards:
            board.write(step, metrics)

    def close(self) -> None:
        """Closes what is open and stops counting."""
        for board in self._boards:
            board.close()
        jax.monitoring.unregister_event_duration_listener(self._count_compilation)


def read_rows(path: str) -> list[dict]:
    """The lines of a metrics.jsonl, without half a line of a killed run, and damaged ones."""
    rows = []
    with open(path, 'rb') as file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and {'turn', 'step'} <= set(row) and line.endswith(b'\n'):
                    rows.append(row)
    return rows


class _Guarded:
    """A board that cannot hurt a run: what fails in it is said once, and ends it."""

    def __init__(self, name: str, make):
        self._name, self._board = name, None
        self._board = self._try(make)

    def _try(self, action):
        try:
            return action()
        except Exception as problem:
            reason = f'{type(problem).__name__}: {problem}'
            logging.warning('%s gets no more metrics (%s); the run goes on', self._name, reason)
            self._board = None
            return None

    def write(self, step: int, metrics: dict) -> None:
        """Logs the numbers among the metrics."""
        numbers = {
            name: value
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and not math.isnan(value)
        }
        board = self._board
        if board is not None:
            self._try(lambda: board.write(step, numbers))

    def close(self) -> None:
        board = self._board
        if board is not None:
            self._try(board.close)


class TensorBoard:
    """An event file of TensorBoard, written in the caller's thread.

    tensorboardX's SummaryWriter hands events to a thread through a queue, which blocks for ever
    once its thread has died of a full disk.
    """

    FLUSH_SECONDS = 5.0

    def __init__(self, folder: str):
        from tensorboardX.event_file_writer import EventsWriter  # noqa: PLC0415 (half a second)

        os.makedirs(folder, exist_ok=True)
        self._events = EventsWriter(os.path.join(folder, 'events'))
        self._events.flush()
        self._flushed = time.monotonic()

    def write(self, step: int, numbers: dict) -> None:
        from tensorboardX import summary  # noqa: PLC0415 (as above)
        from tensorboardX.proto import event_pb2  # noqa: PLC0415 (as above)

        for name, value in numbers.items():
            event: Any = getattr(event_pb2, 'Event')(wall_time=time.time(), step=step)  # noqa: B009
            event.summary.CopyFrom(summary.scalar(re.sub(r'[^-/\w.]', '_', name), value))
            self._events.write_event(event)
        if time.monotonic() - self._flushed >= self.FLUSH_SECONDS:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run of W&B, which sends in a process of its own."""

    def __init__(self, project: str, workdir: str):
        import wandb  # noqa: PLC0415 (optional)  # pyright: ignore[reportMissingImports]

        name = os.path.basename(os.path.normpath(workdir))
        self._run = wandb.init(project=project, name=name, dir=workdir, resume='allow')

    def write(self, step: int, numbers: dict) -> None:
        self._run.log({**numbers, 'update': step})

    def close(self) -> None:
        self._run.finish()
