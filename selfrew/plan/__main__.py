"""Compiles the programs of a run for TPUs; prints whether they fit and how long a round takes.

    python -m selfrew.plan --config=configs/self_rewarding.py:llama2_70b --topology=v5p:8x8x4

It needs no weights, no data and no TPU: only jax on a CPU and libtpu's compiler
(`pip install -e '.[plan]'`). With --here it plans for the devices of this machine: what memory each
program takes, and how an update is split to fit. With --search it tries meshes for updates and for
sampling, and what updates recompute, and says which are the fastest; with --chips in the place of
--topology, on so many chips of each kind.
"""

import json
import os
import sys

from absl import app, flags

from selfrew.plan import chips
from selfrew.running import command_line, refusal


def _report_progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _response_lengths(words: list[str] | None):
    """The lengths that --response_tokens says; None: it does not. Raises ValueError otherwise."""
    from selfrew.plan import jobs  # noqa: PLC0415 (imports jax, after ENVIRONMENT is set)

    if words is None:
        return None
    numbers = [int(word) for word in words if word.isdecimal()]
    if len(words) != 2 or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
        raise ValueError(
            f'--response_tokens={",".join(words)}: want the mean and the longest, e.g. 300,1024'
        )
    return jobs.Lengths(*numbers)


def _plan(argv) -> None:
    options, config = flags.FLAGS, command_line.config()
    where = [bool(options.topology), options.here, options.chips is not None]
    if len(argv) > 1 or config is None or where.count(True) != 1:
        raise app.UsageError(
            'want --config=FILE:VARIANT and one of --topology=NAME, e.g. --topology=v5p:4x4x4, '
            '--chips=NUMBER or --here'
        )
    from selfrew.plan import planner, search, summary  # noqa: PLC0415 (imports jax, after ENVIRONMENT is set)

    tokens = options.prompt_tokens
    if options.search and (options.here or options.json):
        raise app.UsageError('--search wants --topology or --chips, and prints text')
    if options.chips is not None and not options.search:
        raise app.UsageError('--chips wants --search')
    if options.response_tokens and (options.here or options.search):
        raise app.UsageError('--response_tokens is read with --topology alone, without --search')
    try:
        if options.chips is not None:
            found = search.search_chips(config, options.chips, tokens, _report_progress)
            print(search.chips_as_text(found))
            return
        if options.search:
            found = search.search(config, options.topology, tokens, _report_progress)
            print(search.as_text(found))
            return
        if options.here:
            plan = planner.make_here(config, tokens, _report_progress)
        else:
            response = _response_lengths(options.response_tokens)
            plan = planner.make(config, options.topology, tokens, _report_progress, response)
    except refusal.MISTAKES as problem:
        refusal.exit_with(problem)
    as_text = summary.here_text if options.here else summary.plan_text
    print(json.dumps(plan, indent=2) if options.json else as_text(plan))


def main() -> None:
    """The command."""
    if not any(argument.lstrip('-').partition('=')[0] == 'here' for argument in sys.argv):
        os.environ |= chips.ENVIRONMENT
    flags.DEFINE_string('topology', None, 'v5p:8x8x4, v5p-512, v6e:4x4, v5e-8, v4:2x2x2, …')
    flags.DEFINE_boolean('here', False, 'Plan for the devices of this machine.')
    flags.DEFINE_integer('chips', None, 'With --search: so many chips of each kind.', lower_bound=1)
    flags.DEFINE_boolean('search', False, 'Find the fastest meshes; compiles for minutes.')
    flags.DEFINE_integer('prompt_tokens', 512, 'The assumed length of prompts.', lower_bound=1)
    flags.DEFINE_list(
        'response_tokens', None, 'Their mean and longest, e.g. 300,1024; by default full length.'
    )
    flags.DEFINE_boolean('json', False, 'Print JSON and nothing else.')
    if '--help' in sys.argv:
        command_line.show_help(
            __doc__,
            ('topology', 'here', 'search', 'chips', 'prompt_tokens', 'response_tokens', 'json'),
        )
        return
    app.run(_plan, flags_parser=command_line.parse_flags)


if __name__ == '__main__':
    main()
