"""Compiles a run's programs for a TPU that is not there; says what they take of it, and how long.
Layer 9.

    python -m selfrew.plan --config=configs/self_rewarding.py:llama2_70b --topology=v5p:8x8x4

Needs no weights, no data and no TPU: jax on a CPU and libtpu's compiler (`pip install -e
'.[plan]'`).
"""

import json
import os
import sys

from absl import app, flags
from ml_collections import config_flags

from selfrew.plan import chips

sys.path.insert(
    0, os.getcwd()
)  # configs import their neighbours from the folder in which the command stands


def main(argv) -> None:
    given = flags.FLAGS
    if len(argv) > 1 or given.config is None or not given.topology:
        raise app.UsageError(
            'want --config=FILE:VARIANT and --topology=NAME, e.g. --topology=v5p:4x4x4'
        )
    os.environ |= chips.ENVIRONMENT
    from selfrew.plan import planner  # jax comes with it, and reads the environment then

    say = lambda words: print(words, file=sys.stderr, flush=True)
    try:
        plan = planner.make(given.config.to_dict(), given.topology, given.prompt_tokens, say)
    except (ValueError, OSError, KeyError) as problem:
        if os.environ.get('SELFREW_TRACEBACK'):
            raise
        sys.exit(f'selfrew: {problem.args[0] if isinstance(problem, KeyError) else problem}')
    print(json.dumps(plan, indent=2) if given.json else planner.show(plan))


if __name__ == '__main__':
    config_flags.DEFINE_config_file(
        'config', None, 'A config file, with a variant: FILE:llama2_70b.'
    )
    flags.DEFINE_string('topology', None, 'v5p:8x8x4, v5p-512, v6e:4x4, v5e-8, v4:2x2x2, …')
    flags.DEFINE_integer('prompt_tokens', 512, 'How long prompts are taken to be.', lower_bound=1)
    flags.DEFINE_boolean('json', False, 'Print JSON and nothing else.')
    app.run(main)
