"""A config entry -> the function it names, its arguments bound and checked. Layer 6.

An entry is a dict with 'name' and keyword arguments. Its key says which shelf the name is on;
entries inside entries bind alike. A function's positional parameters are data and come from the
loop; its keyword-only ones are the config's.
"""

import functools
import inspect
import json
import types
import typing
from typing import Any

from selfrew import tasks
from selfrew.engine import reference, schedules, trainer
from selfrew.models import language_model
from selfrew.shelves import losses, optimizers, pairs, prompts, samplers, scorers
from selfrew.tasks import published, records, templates


def check_balance(balance: float) -> None:
    """ValueError where it is no share."""
    if not 0 < balance < 1:
        raise ValueError(f'{balance}: want more than 0 and less than 1, or None')


SHELVES = {
    'prompts': prompts,
    'sampler': samplers,
    'scorer': scorers,
    'scorers': scorers,
    'pairs': pairs,
    'loss': losses,
    'optimizer': optimizers,
    'train': trainer,
}
ON_UPDATE = {'train': ('train',)}
DEFAULT = {'train': 'train', 'optimizer': 'adamw'}
# Fields that name something outside the config: looked up when the config is bound, hours before
# they are used.
LOOKED_UP = {
    'template': templates.get,
    'source': records.check_source,
    'tasks': tasks.get_all,
    'split': tasks.check_split,
    'schedule': schedules.check_schedule,
    'moments': optimizers.check_moments,
    'reference': reference.check_reference,
    'mean': losses.check_mean,
    'checkpoint': scorers.check_checkpoint,
    'rho': pairs.check_rho,
    'form': published.get,
    'part': prompts.check_part,
    'generator': language_model.resolve_folder,
    'shots': records.check_source,
    'balance': check_balance,
}
COUNTS = (
    'n',
    'batch',
    'accumulate',
    'epochs',
    'max_steps',
    'row_length',
    'votes',
    'max_tokens',
    'rows',
    'slots',
    'count',
    'keep_states',
    'shown',
    'longest',
    'seeds',
    'own',
    'tries',
    'max_examples',
)


def part_names(key: str, module) -> tuple:
    """The functions of a shelf: public, and defined there."""
    if key in ON_UPDATE:
        return ON_UPDATE[key]
    found = inspect.getmembers(module, inspect.isfunction)
    # A part takes data first: the fillers of a shelf's own vocabulary (scorers.correctness,
    # prompts.check_part, …) are no parts.
    return tuple(
        n
        for n, f in found
        if f.__module__.startswith(module.__name__) and not n.startswith('_') and _contract(f, key)
    )


def _contract(function, key: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    if key == 'optimizer':  # which takes no data
        return all(p.kind is p.KEYWORD_ONLY for p in parameters)
    first = next((p.name for p in parameters), '')
    return first == {'pairs': 'judgement', 'loss': 'out'}.get(key, 'lm')


def bind(key: str, entry: dict, where: str, module=None):
    """The function that an entry names, its keyword arguments bound.

    Args:
      key: names the shelf (see SHELVES), or gives `module` a key of its own.
      where: the entry's place in the config, for messages.
    Raises ValueError for an unknown name, an unknown or missing argument, or a value of another
    type. The same entry gives the same object, so that what is compiled for it is found again.
    """
    if not isinstance(entry, dict):
        raise ValueError(f'{where}: want an entry with a name, got {entry!r}')
    return _bind(key, json.dumps(entry, sort_keys=True), where, module or SHELVES[key])


_bound = {}


def _bind(key, packed, where, module):
    if (key, packed) not in _bound:
        entry = json.loads(packed)
        name = entry.pop('name', DEFAULT.get(key))
        if name not in part_names(key, module):
            raise ValueError(
                f'{where}: no {key} named {name!r}; there are: {", ".join(part_names(key, module))}'
            )
        _bound[key, packed] = bind_arguments(getattr(module, name), entry, f'{where} ({name})')
    return _bound[key, packed]


def bind_arguments(function, arguments: dict, where: str):
    """`function` with `arguments` as its keyword-only parameters, entries among them bound. Raises
    as `bind` does.
    """
    hints = typing.get_type_hints(function)
    fields = {
        n: p for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    choices = ', '.join(fields) or 'none'
    for name in arguments:
        if name not in fields:
            raise ValueError(
                f'{where}: nothing reads {name}={arguments[name]!r}; there are: {choices}'
            )
    values = {}
    for name, field in fields.items():
        if name in SHELVES and (name in arguments or name in DEFAULT):
            values[name] = _nested(
                name, arguments.get(name, {}), f'{where}.{name}', hints.get(name) is tuple
            )
        elif name in arguments:
            values[name] = typed(arguments[name], hints.get(name, Any), f'{where}.{name}')
            if name in COUNTS and values[name] is not None and values[name] < 1:
                raise ValueError(f'{where}.{name}={values[name]}: want at least 1')
            if name in LOOKED_UP and values[name] is not None:
                _look_up(name, values[name], where)
        elif field.default is field.empty:
            raise ValueError(f'{where}: {name} is missing; the fields are: {choices}')
    return functools.partial(function, **values)


def _look_up(name, value, where):
    try:
        LOOKED_UP[name](value)
    except (KeyError, ValueError, FileNotFoundError) as problem:
        raise ValueError(f'{where}.{name}: {problem.args[0]}') from None


def _nested(key, value, where, several: bool):
    if several != isinstance(value, (list, tuple)):
        raise ValueError(
            f'{where}: want {"a list of entries" if several else "one entry"}, got {value!r}'
        )
    if several:
        return tuple(bind(key, entry, f'{where}[{i}]') for i, entry in enumerate(value))
    return bind(key, value, where)


def typed(value, hint, where):
    """The value, if it is of the hinted type; a whole number serves as a float, a list as a tuple."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if hint is Any or (type(value) is int and float in kinds) or type(value) in kinds:
        return value
    if tuple in kinds and isinstance(value, (list, tuple)):
        return tuple(value)
    wanted = ' or '.join('None' if k is type(None) else k.__name__ for k in kinds)
    raise ValueError(f'{where}={value!r}: want {wanted}, got {type(value).__name__}')


def check_lengths(part, context: int) -> None:
    """ValueError where a bound part, or one inside it, writes so many tokens that no prompt fits
    into the context.
    """
    for name, value in part.keywords.items():
        if name == 'max_tokens' and value >= context:
            raise ValueError(
                f'{part.func.__name__}: max_tokens={value} leaves no room for a prompt in the context of '
                f'{context}; lower it, or raise model.max_length'
            )
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, functools.partial):
                check_lengths(inner, context)
