"""Finds and loads config files: a path, or the name of a config that ships. Imports no jax."""

import difflib
import importlib.util
import os
import sys

from ml_collections import ConfigDict

import selfrew

PACKAGE = os.path.dirname(os.path.abspath(selfrew.__file__))
# Where the package `configs` may be that ships: in an installation, and in a checkout.
SHIPPED_IN = os.path.join(PACKAGE, 'shipped'), os.path.dirname(PACKAGE)


def shipped() -> dict[str, str]:
    """Name -> path of each config that ships."""
    for parent in SHIPPED_IN:
        folder = os.path.join(parent, 'configs')
        if os.path.isfile(os.path.join(folder, 'base.py')):
            files = sorted(file for file in os.listdir(folder) if file.endswith('.py'))
            names = [file.removesuffix('.py') for file in files]
            return {n: os.path.join(folder, f'{n}.py') for n in names if n not in NO_CONFIGS}
    return {}


NO_CONFIGS = '__init__', 'base'


def resolve(name: str) -> str:
    """The path of a config: the name of a file, or of a config that ships (also as it is called in
    a checkout, configs/quickstart.py).

    Raises FileNotFoundError, with the choices, if there is no such config.
    """
    if os.path.isfile(name):
        return name
    known = shipped()
    stem = name.removesuffix('.py').removeprefix('configs/')
    if stem in known:
        return known[stem]
    close = difflib.get_close_matches(stem, known, n=1)
    guess = f'; did you mean {close[0]}?' if close else ''
    raise FileNotFoundError(
        f'no config {name!r}: neither a file nor one that ships ({", ".join(known)}){guess}'
    )


def load(spec: str) -> ConfigDict:
    """The config of 'NAME' or 'NAME:ARGUMENT', where get_config takes an argument.

    Configs import their neighbours: from the current folder, else from those that ship.
    Raises FileNotFoundError as `resolve` does, ValueError for a file that has no config.
    """
    name, colon, argument = spec.partition(':')
    path = resolve(name)
    for folder in (os.getcwd(), *SHIPPED_IN):
        if folder not in sys.path and os.path.isfile(os.path.join(folder, 'configs', 'base.py')):
            sys.path.append(folder)
    module_spec = importlib.util.spec_from_file_location('config_file', path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f'{path} is no Python file')
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as problem:
        raise ValueError(f'{path}: {problem}') from problem
    if not hasattr(module, 'get_config'):
        raise ValueError(f'{path} is no config: it has no function get_config')
    config = module.get_config(argument) if colon else module.get_config()
    if not isinstance(config, (dict, ConfigDict)):
        raise ValueError(f'{path}: get_config returned {type(config).__name__}, not a config')
    return config if isinstance(config, ConfigDict) else ConfigDict(config)
