"""Runs a config; see configs/ and README.md.

    selfrew run quickstart --workdir=runs/quickstart
    python -m selfrew.main --config=configs/quickstart.py --workdir=runs/quickstart

A config is a file, or the name of one that ships; NAME:smoke runs a small version in a minute, and
--config.FIELD=VALUE sets any field of any part. --from=runs/other takes the samples of another run
that differs only in what comes after them.
"""

import logging
import os
import sys

from selfrew.mesh import stopping

if __name__ == '__main__':
    stopping.listen()

from absl import app, flags

from selfrew.running import command_line, refusal

WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder. A killed run resumes there.")
FROM = flags.DEFINE_string(
    'from',
    None,
    'Another run, whose prompts, samples and verdicts are taken where this config makes the same.',
)
ALLOW_CHANGED_INPUTS = flags.DEFINE_bool(
    'allow_changed_inputs',
    False,
    'Go on with files of prompts or templates that are not those that the run began with.',
)
TENSORBOARD = flags.DEFINE_enum(
    'tensorboard', 'yes', ['yes', 'no'], 'Whether to write files for TensorBoard.'
)
WANDB = flags.DEFINE_string('wandb', None, 'A project of W&B to log to; needs wandb.')
COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'host:port of process 0, if the environment does not say.'
)
PROCESSES = flags.DEFINE_integer(
    'processes', None, 'The number of processes, if there are several.'
)
PROCESS = flags.DEFINE_integer(
    'process', None, 'The index of this process, from 0, if there are several.'
)
USAGE = (
    'want --config=FILE and --workdir=FOLDER, e.g. --config=configs/quickstart.py '
    '--workdir=runs/quickstart'
)


def main(argv) -> None:
    """Runs the config of the flags; on a mistake in it, exits with status 1 and a message."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown argument {argv[1]!r}; options start with --, see --help')
    config = command_line.config()
    if config is None or not WORKDIR.value:
        raise app.UsageError(USAGE)
    logging.getLogger('absl').setLevel(logging.WARNING)
    # These import jax, which takes seconds: only once there is something to run.
    from selfrew import loop  # noqa: PLC0415 (imports jax)
    from selfrew.mesh import processes  # noqa: PLC0415 (imports jax)
    from selfrew.running import binding, console, status  # noqa: PLC0415 (imports jax)

    try:
        processes.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        run = binding.bind_arguments(loop.run, config, 'config')
        logs = TENSORBOARD.value == 'yes', WANDB.value
        table = run(WORKDIR.value, FROM.value, ALLOW_CHANGED_INPUTS.value, *logs)
    except stopping.Stopped as stop:
        message = f'\nselfrew: {stop}: stopped; the same command goes on from {WORKDIR.value}'
        print(message, file=sys.stderr)
        sys.exit(stop.code)
    except Exception as problem:
        if processes.is_loss(problem):
            message = f'\nselfrew: {status.described(problem)}: stopped; start all processes again'
            print(message, file=sys.stderr, flush=True)
            os._exit(1)  # jax would wait for the others
        if not isinstance(problem, refusal.MISTAKES):
            raise
        refusal.exit_with(problem)
    files = "summary.json, metrics.jsonl, curve.png, each round's files"
    console.say(f'\n{table}\n\nin {WORKDIR.value}: {files}')


def cli() -> None:
    """The command."""
    if '--help' in sys.argv:
        own = WORKDIR, FROM, ALLOW_CHANGED_INPUTS, TENSORBOARD, WANDB, COORDINATOR
        command_line.show_help(__doc__, tuple(f.name for f in (*own, PROCESSES, PROCESS)))
        return
    app.run(main, flags_parser=command_line.parse_flags)


if __name__ == '__main__':
    cli()
