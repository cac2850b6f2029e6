"""The flags of the commands that take a config: --config=NAME and --config.FIELD=VALUE.

Imports no jax, but for an override of a field that the config does not state.
"""

from absl import flags
from ml_collections import ConfigDict, config_flags

from selfrew.running import config_files, refusal

_config: dict | None = None  # of the command line, set by `parse_flags`


def config() -> dict | None:
    """The config of the command line, with what was overridden; None if there was none."""
    return _config


def show_help(text: str | None, names: tuple[str, ...]) -> None:
    """Prints what a command does, and its flags."""
    print(text)
    print('  --config: A config file, or the name of one that ships, perhaps with :VARIANT.')
    print('  --config.FIELD: Sets a field of the config.')
    for name in names:
        print(f'  --{name}: {flags.FLAGS[name].help}')


def parse_flags(argv: list[str]) -> list[str]:
    """Parses absl's flags and the config's; returns the other arguments.

    On a mistake, exits with status 1 and a message.
    """
    global _config
    spec, assignments, others = _split(argv)
    overrides = dict(assignments)
    if spec is None and not overrides:
        _config = None
        return refusal.parse_flags(others)
    try:
        if spec is None:
            raise ValueError(
                f'--config.{next(iter(overrides))}: of which config? want --config=NAME'
            )
        stated = config_files.load(spec)
        completed = _completed(stated, overrides)
    except refusal.MISTAKES as problem:
        refusal.exit_with(problem)
    options = [f'--config.{name}={text}' for name, text in assignments]
    config_flags.DEFINE_config_dict('config', completed, sys_argv=options)
    remaining = refusal.parse_flags([*others, *options])
    value = flags.FLAGS.config
    _config = value.to_dict()
    if completed is not stated:
        from selfrew.running import overrides as fields  # noqa: PLC0415 (imports jax)

        _config = fields.applied(stated, value, overrides)
    return remaining


def _completed(stated: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
    """The config, with the fields that it does not state where one of them is overridden."""
    if all(_has(stated, name) and not name.endswith('.name') for name in overrides):
        return stated
    from selfrew.running import overrides as fields  # noqa: PLC0415 (imports jax: seconds)

    completed, left_out = fields.complete(stated, overrides)
    for line in left_out:
        print(line)
    return completed


def _split(argv: list[str]) -> tuple[str | None, list[tuple[str, str]], list[str]]:
    """(the config's name, (overridden field, text) of each, the other arguments)."""
    spec, assignments, others, rest = None, [], [], list(argv)
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.partition('=')
        name = name.removeprefix('-').removeprefix('-') if argument.startswith('-') else ''
        if name != 'config' and not name.startswith('config.'):
            others.append(argument)
            continue
        if not equals:
            text = rest.pop(0) if rest else ''
        if name == 'config':
            spec = text
        else:
            assignments.append((name.removeprefix('config.'), text))
    return spec, assignments, others


def _has(config, name: str) -> bool:
    """Whether a config states a field."""
    for step in name.split('.'):
        if not hasattr(config, 'keys') or step not in config:
            return False
        config = config[step]
    return True
