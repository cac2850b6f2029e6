"""The command `selfrew`, also as `python -m selfrew`: it hands over to one of COMMANDS."""

import importlib
import sys

from selfrew.mesh import stopping

# Command -> its module, and what it does.
COMMANDS = {
    'run': ('main', 'runs a config, or resumes a run'),
    'eval': ('main', "makes a config's evaluations of a model, without training"),
    'report': ('check', 'prints the table of a run, and how it ended'),
    'check': ('check', 'verifies the files of a run'),
    'export': ('export', 'writes the model of a run as a Hugging Face folder'),
    'verdict': ('verdict', 'prints the verdict on each answer of a file'),
    'plan': ('plan.__main__', 'plans a run for TPUs that you do not have'),
}
EXAMPLES = """\
  selfrew run quickstart --workdir=runs/quickstart
  selfrew run quickstart:smoke --workdir=runs/smoke --config.round.train.lr=1e-4
  selfrew run my_config.py --workdir=runs/mine --from=runs/quickstart
  selfrew eval quickstart --workdir=runs/eval --config.model.folder=out
  selfrew report runs/quickstart
  selfrew check runs/quickstart
  selfrew export --workdir=runs/quickstart --folder=out --dtype=bfloat16
  selfrew verdict --form=gsm8k --file=answers.jsonl
  selfrew plan --config=configs/self_rewarding.py:llama2_70b --topology=v5p:4x4x4
"""


def usage() -> str:
    """What `selfrew --help` prints."""
    from selfrew.running import config_files  # noqa: PLC0415 (half a second)

    listed = '\n'.join(f'  {name:9} {what}' for name, (_, what) in COMMANDS.items())
    configs = ', '.join(config_files.shipped())
    return (
        'Language models that generate, judge and learn from their own answers.\n\n'
        f'selfrew COMMAND …\n\n{listed}\n\nExamples:\n{EXAMPLES}\n'
        f'Configs that ship: {configs}.\n`selfrew COMMAND --help` shows the flags of a command.'
    )


def cli() -> None:
    """Runs the command of the arguments; without one, flags alone are those of `run`."""
    stopping.listen()
    command, *arguments = sys.argv[1:] or ['--help']
    if command in ('--help', '-h', 'help'):
        print(usage())
        return
    if command.startswith('-'):
        command, arguments = 'run', [command, *arguments]
    if command not in COMMANDS:
        print(f'selfrew: no command {command!r}\n\n{usage()}', file=sys.stderr)
        sys.exit(2)
    if command in ('run', 'eval') and arguments and not arguments[0].startswith('-'):
        arguments[0] = f'--config={arguments[0]}'
    if command == 'eval':
        arguments.append('--config.rounds=0')
    module, _ = COMMANDS[command]
    sys.argv = [f'selfrew {command}', *arguments]
    chosen = importlib.import_module(f'selfrew.{module}')
    if module == 'main':
        chosen.cli()
    elif command == 'report':
        chosen.report_main()
    else:
        chosen.main()


if __name__ == '__main__':
    cli()
