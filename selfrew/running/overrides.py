"""Overrides from the command line of fields that a config does not state.

ml_collections sets any field that a config has. Here those that it could have are added: the
parameters of every function that it names.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from selfrew.models import language_model
from selfrew.running import binding, turns
from selfrew.running.config import COUNTS
from selfrew.shelves import evals

PLAIN = bool, int, float, str, tuple  # types whose values a command line can give


def complete(config: ConfigDict, overrides: dict[str, str]) -> tuple[ConfigDict, list[str]]:
    """(the config with every field that its functions have, what was left out, in words).

    Args:
      overrides: dotted name -> text, as on the command line. Where one names another function,
        what only the old one had is left out.
    Raises ValueError, with the choices, for an override of a field that there is not.
    """
    fields, left_out = config.to_dict(), []
    for name, text in overrides.items():
        if name.endswith('.name'):
            _rename(fields, name, text, left_out, overrides)
    completed = _complete_run(fields)
    for name in overrides:
        _check_name(completed, name)
    return ConfigDict(completed), left_out


def applied(config: ConfigDict, completed: Any, overrides: dict[str, str]) -> dict:
    """The config with the overridden fields as `completed` has them, and without the others that
    were added to it.
    """
    fields = config.to_dict()
    for name in sorted(overrides, key=lambda name: (not name.endswith('.name'), name)):
        *path, last = name.split('.')
        target, source = fields, completed
        for step in path:
            target, source = target.setdefault(step, {}), source[step]
        value = source[last]
        if last == 'name' and target.get('name') != value:
            kept = {f for f in target if f in source}
            for field in set(target) - kept:
                del target[field]
        target[last] = value.to_dict() if isinstance(value, ConfigDict) else value
    return fields


def _rename(fields: dict, name: str, text: str, left_out: list[str], overrides: dict) -> None:
    """Gives an entry the name of another part, without the fields that this one does not have."""
    *path, key = name.removesuffix('.name').split('.')
    entry = fields
    for step in (*path, key):
        entry = entry.get(step) if isinstance(entry, dict) else None
    shelf = key if key in binding.SHELVES else (path or [''])[-1]
    function = _part(shelf, {'name': text})
    if not isinstance(entry, dict) or function is None or entry.get('name') == text:
        return
    known = set(_parameters(function)) | {'name', *binding.SHELVES}
    for field in [f for f in entry if f not in known and f'{name[:-5]}.{f}' not in overrides]:
        where = name.removesuffix('.name')
        left_out.append(f'{where} is now {text}: without {field}={entry.pop(field)!r}')
    entry['name'] = text


def _complete_run(config: dict) -> dict:
    completed = {name: placeholder(int) for name in COUNTS} | config
    completed['model'] = _with_parameters(config.get('model') or {}, language_model.describe)
    for field in ('round', 'start'):
        if isinstance(config.get(field), dict) and config[field]:
            completed[field] = _complete_turn(config[field])
    tests = config.get('evals') or {}
    completed['evals'] = {name: _complete_entry('evals', test) for name, test in tests.items()}
    return completed


def _complete_turn(entry: dict, kind: Callable = turns.turn) -> dict:
    completed = {name: _complete_entry(name, value) for name, value in entry.items()}
    completed = _with_parameters(completed, kind)
    if isinstance(entry.get('rehearsal'), dict) and entry['rehearsal']:
        completed['rehearsal'] = {'every': 1} | _complete_turn(entry['rehearsal'])
    if isinstance(entry.get('join'), dict):
        joined = entry['join'].items()
        completed['join'] = {n: {'every': 1} | _complete_turn(e, turns.pipeline) for n, e in joined}
    return completed


def _complete_entry(key: str, entry):
    """An entry with all parameters of the function that it names, nested entries included."""
    function = _part(key, entry)
    if function is None:
        return entry
    completed = {name: _complete_entry(name, value) for name, value in entry.items()}
    for name in _parameters(function):
        if name in binding.DEFAULT_PARTS and name not in completed:
            completed[name] = _complete_entry(name, {'name': binding.DEFAULT_PARTS[name]})
    return _with_parameters(completed, function)


def _part(key: str, entry) -> Callable | None:
    """The function that an entry names; None if it is no entry, or names none."""
    if not isinstance(entry, dict):
        return None
    if key == 'evals':
        return _function(evals, 'evals', entry)
    return _function(binding.SHELVES[key], key, entry) if key in binding.SHELVES else None


def _function(shelf, key: str, entry: dict) -> Callable | None:
    name = entry.get('name', binding.DEFAULT_PARTS.get(key))
    return getattr(shelf, name) if name in binding.part_names(key, shelf) else None


@functools.cache
def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters.items()
    return {name: p for name, p in parameters if p.kind is p.KEYWORD_ONLY}


def _with_parameters(entry: dict, function: Callable) -> dict:
    """The entry, and each parameter that it does not state, with its default."""
    hints, added = typing.get_type_hints(function), {}
    for name, parameter in _parameters(function).items():
        if name in entry or name in binding.SHELVES:
            continue
        kind = _plain_type(hints.get(name))
        if kind is not None:
            default = parameter.default
            is_open = default is None or default is parameter.empty
            added[name] = placeholder(kind) if is_open else default
    return entry | added


def _plain_type(hint) -> type | None:
    """The type of the values that a command line may give; None if it can give none."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((kind for kind in kinds if kind in PLAIN), None)


def _check_name(fields: dict, name: str) -> None:
    """Raises ValueError, with the choices, where an override names no field."""
    node, path = fields, []
    for step in name.split('.'):
        if not isinstance(node, dict) or step not in node:
            where = '.'.join(['config', *path])
            choices = (
                f'there are: {", ".join(node)}' if isinstance(node, dict) else 'it is no entry'
            )
            raise ValueError(f'--config.{name}: no field {step!r} in {where}; {choices}')
        node = node[step]
        path.append(step)
