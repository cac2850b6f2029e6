"""How the commands end on a mistake: with a message and status 1, without a traceback.

Imports no jax, so that a mistake in the flags is told at once.
"""

import os
import sys
from typing import NoReturn

from absl import app

MISTAKES = ValueError, OSError, KeyError  # of the caller: a config, a file, a name


def exit_with(problem: Exception) -> NoReturn:
    """Prints the problem and exits with status 1; raises it if SELFREW_TRACEBACK is set."""
    if os.environ.get('SELFREW_TRACEBACK'):
        raise problem
    message = problem.args[0] if isinstance(problem, KeyError) else problem
    print(f'\nselfrew: {message}\n(SELFREW_TRACEBACK=1 shows where)', file=sys.stderr)
    sys.exit(1)


def parse_flags(argv):
    """Parses absl's flags; an override of an unknown config field exits like any other mistake."""
    try:
        return app.parse_flags_with_usage(argv)
    except (KeyError, AttributeError) as problem:
        message = f'an override names a field that the config does not have: {problem.args[0]}'
        exit_with(ValueError(message))
    except OSError as problem:
        exit_with(problem)
