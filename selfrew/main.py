"""Runs a config; see configs/ and README.md.

    python -m selfrew.main --config=configs/quickstart.py --workdir=runs/quickstart

--config=FILE:smoke runs a small version in a minute; --config.FIELD=VALUE sets a field.
"""

import logging
import os
import sys

from absl import app, flags
from ml_collections import config_flags

# Configs import their neighbours from the folder in which the command stands.
sys.path.insert(0, os.getcwd())

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A config file, e.g. configs/quickstart.py, or with ":smoke".'
)
WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder. A killed run goes on there.")
COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'host:port of process 0, where the environment says nothing.'
)
PROCESSES = flags.DEFINE_integer('processes', None, 'Of several processes, how many there are.')
PROCESS = flags.DEFINE_integer('process', None, 'Of several processes, which this is, from 0.')


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'what is {argv[1]!r}? Options start with --; see --help')
    if CONFIG.value is None or not WORKDIR.value:
        raise app.UsageError(
            'want --config=FILE and --workdir=FOLDER, e.g. --config=configs/quickstart.py '
            '--workdir=runs/quickstart'
        )
    logging.getLogger('absl').setLevel(logging.WARNING)
    # jax and all that stands on it take seconds to import: only where there is something to run
    from selfrew import loop
    from selfrew.mesh import processes
    from selfrew.run import binding, console

    try:
        processes.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        config = CONFIG.value.to_dict()
        table = binding.bind_arguments(loop.run, config, 'config')(WORKDIR.value)
    except KeyboardInterrupt:
        print(
            f'\nstopped; the same command goes on from what is finished in {WORKDIR.value}',
            file=sys.stderr,
        )
        sys.exit(130)
    except (ValueError, OSError, KeyError) as problem:
        _refuse(problem)
    console.say(
        f"\n{table}\n\nin {WORKDIR.value}: summary.json, metrics.jsonl, curve.png, each round's files"
    )


def _refuse(problem: Exception) -> None:
    """What is wrong, in a line, and exit status 1."""
    if os.environ.get('SELFREW_TRACEBACK'):
        raise problem
    words = problem.args[0] if isinstance(problem, KeyError) else problem
    print(f'\nselfrew: {words}\n(SELFREW_TRACEBACK=1 shows where)', file=sys.stderr)
    sys.exit(1)


def _parse(argv):
    """The flags; a field of the config that does not exist is refused like any other mistake."""
    try:
        return app.parse_flags_with_usage(argv)
    except (KeyError, AttributeError) as problem:
        _refuse(ValueError(f'an override names a field that the config has not: {problem.args[0]}'))
    except OSError as problem:
        _refuse(problem)


def cli() -> None:
    """The console script `selfrew`."""
    app.run(main, flags_parser=_parse)


if __name__ == '__main__':
    cli()
