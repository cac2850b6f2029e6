"""Runs a config; see configs/ and README.md.

    python -m selfrew.main --config=configs/quickstart.py --workdir=runs/quickstart

--from=runs/other takes the samples of another run that differs only in what comes after them.
--config=FILE:smoke runs a small version in a minute; --config.FIELD=VALUE sets a field.
"""

import logging
import os
import sys

from absl import app, flags
from ml_collections import config_flags

from selfrew.run import refusal

# Configs import their neighbours from the current folder.
sys.path.insert(0, os.getcwd())

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A config file, e.g. configs/quickstart.py, or with ":smoke".'
)
WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder. A killed run resumes there.")
FROM = flags.DEFINE_string(
    'from',
    None,
    'Another run, whose prompts, samples and verdicts are taken where this config makes the same.',
)
COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'host:port of process 0, if the environment does not say.'
)
PROCESSES = flags.DEFINE_integer(
    'processes', None, 'The number of processes, if there are several.'
)
PROCESS = flags.DEFINE_integer(
    'process', None, 'The index of this process, from 0, if there are several.'
)


def main(argv) -> None:
    """Runs the config of the flags; on a mistake in it, exits with status 1 and a message."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown argument {argv[1]!r}; options start with --, see --help')
    if CONFIG.value is None or not WORKDIR.value:
        raise app.UsageError(
            'want --config=FILE and --workdir=FOLDER, e.g. --config=configs/quickstart.py '
            '--workdir=runs/quickstart'
        )
    logging.getLogger('absl').setLevel(logging.WARNING)
    # These import jax, which takes seconds: only once there is something to run.
    from selfrew import loop  # noqa: PLC0415 (imports jax)
    from selfrew.mesh import processes  # noqa: PLC0415 (imports jax)
    from selfrew.run import binding, console  # noqa: PLC0415 (imports jax)

    try:
        processes.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        config = CONFIG.value.to_dict()
        table = binding.bind_arguments(loop.run, config, 'config')(WORKDIR.value, FROM.value)
    except KeyboardInterrupt:
        message = f'\nstopped; the same command resumes from what {WORKDIR.value} holds'
        print(message, file=sys.stderr)
        sys.exit(130)
    except refusal.MISTAKES as problem:
        refusal.exit_with(problem)
    files = "summary.json, metrics.jsonl, curve.png, each round's files"
    console.say(f'\n{table}\n\nin {WORKDIR.value}: {files}')


def cli() -> None:
    """The console script `selfrew`."""
    app.run(main, flags_parser=refusal.parse_flags)


if __name__ == '__main__':
    cli()
