"""Binds config entries to functions: looks up the name, checks and binds the keyword arguments.

An entry is a dict with 'name' and keyword arguments. The key it stands under picks the shelf that
the name is on. Entries inside entries bind the same way. A function's positional parameters are
data and come from the loop; its keyword-only parameters come from the config.
"""

import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from selfrew import tasks
from selfrew.engine import reference, schedules, train_state, trainer
from selfrew.engine.generate import options
from selfrew.mesh import keys
from selfrew.models import language_model
from selfrew.running import selection
from selfrew.shelves import evals, losses, optimizers, pairs, prompts, samplers, scorers
from selfrew.tasks import constraints, published, records, templates, words

# Key of an entry -> the module whose functions it may name.
SHELVES = {
    'prompts': prompts,
    'sampler': samplers,
    'base_sampler': samplers,
    'scorer': scorers,
    'scorers': scorers,
    'pairs': pairs,
    'loss': losses,
    'losses': losses,
    'optimizer': optimizers,
    'train': trainer,
}
# Keys whose choices are listed instead of read from the shelf.
LISTED_PARTS = {'train': ('train',)}
# Keys whose entry may leave out the name, or be left out itself.
DEFAULT_PARTS = {'train': 'train', 'optimizer': 'adamw'}


def check_weights(weights: tuple) -> None:
    """Raises ValueError for a weight that is not finite; the parts check the rest."""
    if any(isinstance(weight, float) and not math.isfinite(weight) for weight in weights):
        raise ValueError(f'{weights}: want finite numbers')


# Fields whose values are checked when the config is bound, hours before they are used. Most name
# something outside the config: a file, a task, a checkpoint.
FIELD_CHECKS = {
    'template': templates.get,
    'source': records.check_source,
    'tasks': tasks.get_all,
    'split': tasks.check_split,
    'schedule': schedules.check_schedule,
    'moments': optimizers.check_moments,
    'reference': reference.check_reference,
    'optimizer_state': train_state.check_optimizer_state,
    'only': train_state.check_only,
    'values': samplers.check_values,
    'mean': losses.check_mean,
    'tau': losses.check_tau,
    'margin_norm': losses.check_margin_norm,
    'opponent': evals.check_opponent,
    'judged_by': evals.check_judged_by,
    'checkpoint': scorers.check_checkpoint,
    'rho': pairs.check_rho,
    'form': published.get,
    'part': prompts.check_part,
    'kinds': constraints.check_kinds,
    'generator': language_model.resolve_folder,
    'shots': records.check_source,
    'balance': selection.check_balance,
    'seed': keys.check_seed,
    'stop': options.check_stop,
    'gap': words.check_gap,
    'scales': evals.check_scales,
    'sizes': evals.check_sizes,
    'strengths': evals.check_strengths,
    'weights': check_weights,
    **dict.fromkeys(('dtype', 'stored', 'params'), language_model.check_dtype),
}


class Range(NamedTuple):
    """Values of a field: from `least`, or more than it, to `most`, or less."""

    least: float
    most: float
    takes_least: bool = True
    takes_most: bool = True

    def holds(self, value) -> bool:
        """Whether a value lies in the range; a nan does not."""
        is_above = value >= self.least if self.takes_least else value > self.least
        is_below = value <= self.most if self.takes_most else value < self.most
        return is_above and is_below

    def __str__(self) -> str:
        if math.isinf(self.least) and math.isinf(self.most):
            return 'a finite number'
        low = f'{"at least" if self.takes_least else "more than"} {self.least:g}'
        if math.isinf(self.most):
            return low + ('' if self.takes_most else ', finite')
        return f'{low} and {"at most" if self.takes_most else "less than"} {self.most:g}'


POSITIVE = Range(0, math.inf, takes_least=False, takes_most=False)
NOT_NEGATIVE = Range(0, math.inf, takes_most=False)
SHARE = Range(0, 1)
FINITE = Range(-math.inf, math.inf, takes_least=False, takes_most=False)
LARGEST = 2**31 - 1  # of a count
AT_LEAST_ONE = Range(1, LARGEST)
# Ranges of fields that are numbers, wherever they appear.
FIELD_RANGES = {
    'lr': POSITIVE,
    'beta': POSITIVE,
    'eps': POSITIVE,
    'lora_alpha': POSITIVE,
    'cache_gib': POSITIVE,
    'sampling': Range(0, LARGEST),
    'clip': Range(0, math.inf, takes_least=False),
    'max_gap': Range(0, math.inf, takes_least=False),
    'weight_decay': NOT_NEGATIVE,
    'temperature': NOT_NEGATIVE,
    **dict.fromkeys('strength at_least label_at low high margin threshold'.split(), FINITE),
    'nll': NOT_NEGATIVE,
    'alpha': NOT_NEGATIVE,
    'gamma': NOT_NEGATIVE,
    'length': NOT_NEGATIVE,
    'odds': NOT_NEGATIVE,
    'penalty': NOT_NEGATIVE,
    'desirable': NOT_NEGATIVE,
    'undesirable': NOT_NEGATIVE,
    'gate_tau': POSITIVE,
    'tail': SHARE,
    'terse': SHARE,
    'explore': NOT_NEGATIVE,
    'top_k': NOT_NEGATIVE,
    'max_bad': NOT_NEGATIVE,
    'lora': NOT_NEGATIVE,
    'warmup': Range(0, 1, takes_most=False),
    'b1': Range(0, 1, takes_most=False),
    'b2': Range(0, 1, takes_most=False),
    'momentum': Range(0, 1, takes_most=False),
    'decay': Range(0, 1, takes_most=False),
    'save_minutes': POSITIVE,
    'epochs': Range(1, 10_000),  # all are packed at once
    'levels': Range(2, LARGEST),
    'responses': Range(2, LARGEST),
    'smoothing': Range(0, 0.5),
    'final': SHARE,
    'max_unread': SHARE,
    'min_p': SHARE,
    'similarity': SHARE,
    'top_p': Range(0, 1, takes_least=False),
    'heldout': Range(0, 1, takes_least=False, takes_most=False),
    **dict.fromkeys(
        (
            'n candidates block contrast batch accumulate max_steps row_length votes cap target '
            'max_tokens rows slots count least most portion portions keep_states evals_every '
            'states_every shown longest seeds own tries max_examples max_length save_every '
            'keep_saves'
        ).split(),
        AT_LEAST_ONE,
    ),
}


def part_names(key: str, module) -> tuple:
    """Names of the parts on a shelf: the functions that an entry under `key` may name.

    A part is public, defined on the shelf, and takes that shelf's data first. This leaves out
    helpers such as scorers.correctness and prompts.check_part.
    """
    if key in LISTED_PARTS:
        return LISTED_PARTS[key]
    return tuple(
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__.startswith(module.__name__)
        and not name.startswith('_')
        and _is_part(function, key)
    )


def _is_part(function, key: str) -> bool:
    """Whether a function's signature meets the contract of the shelf for `key`."""
    parameters = inspect.signature(function).parameters.values()
    if key == 'optimizer':  # takes no data
        return all(p.kind is p.KEYWORD_ONLY for p in parameters)
    first = next((p.name for p in parameters), '')
    return first == {'pairs': 'judgement', 'loss': 'out', 'losses': 'out'}.get(key, 'lm')


def bind(key: str, entry: dict, where: str, module=None):
    """The function that an entry names, with its keyword arguments bound (functools.partial).

    Equal entries return the same object, so that programs compiled for it are reused.

    Args:
      key: picks the shelf (see SHELVES), or is a new key for `module`.
      where: the entry's place in the config, for messages.
    Raises ValueError for an unknown name, an unknown or missing argument, or a value of the wrong
    type.
    """
    if not isinstance(entry, dict):
        raise ValueError(f'{where}: want an entry with a name, got {entry!r}')
    packed = json.dumps(entry, sort_keys=True)
    if (key, packed) not in _bound_entries:
        shelf = module or SHELVES[key]
        _bound_entries[key, packed] = _bind_new(key, json.loads(packed), where, shelf)
    return _bound_entries[key, packed]


_bound_entries = {}  # (key, entry as JSON) -> its bound function, for the whole process


def _bind_new(key: str, entry: dict, where: str, module):
    name = entry.pop('name', DEFAULT_PARTS.get(key))
    choices = part_names(key, module)
    if name not in choices:
        raise ValueError(f'{where}: no {key} named {name!r}; there are: {", ".join(choices)}')
    bound = bind_arguments(getattr(module, name), entry, f'{where} ({name})')
    if check := getattr(bound.func, 'check_options', None):
        try:
            check(**bound.keywords)
        except ValueError as problem:
            raise ValueError(f'{where} ({name}): {problem}') from None
    return bound


def bind_arguments(function, arguments: dict, where: str) -> functools.partial:
    """`function` with `arguments` bound to its keyword-only parameters, nested entries included.

    Raises ValueError as `bind` does.
    """
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    fields = {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    choices = ', '.join(fields) or 'none'
    for name, value in arguments.items():
        if name not in fields:
            raise ValueError(f'{where}: nothing reads {name}={value!r}; there are: {choices}')
    values = {}
    for name, field in fields.items():
        if name in SHELVES and (name in arguments or name in DEFAULT_PARTS):
            nested, is_list = arguments.get(name, {}), hints.get(name) is tuple
            values[name] = _bind_nested(name, nested, f'{where}.{name}', is_list)
        elif name in arguments:
            values[name] = checked_value(arguments[name], hints.get(name, Any), f'{where}.{name}')
            check_field(name, values[name], where)
        elif field.default is field.empty:
            raise ValueError(f'{where}: {name} is missing; the fields are: {choices}')
    return functools.partial(function, **values)


def check_field(name: str, value, where: str) -> None:
    """Raises ValueError if a field's value is out of range or names something unknown."""
    if value is None:
        return
    if name in FIELD_RANGES and not FIELD_RANGES[name].holds(value):
        raise ValueError(f'{where}.{name}={value}: want {FIELD_RANGES[name]}')
    if name in FIELD_CHECKS:
        try:
            FIELD_CHECKS[name](value)
        except (KeyError, ValueError, TypeError) as problem:
            raise ValueError(f'{where}.{name}: {problem.args[0]}') from None
        except FileNotFoundError as problem:
            raise ValueError(f'{where}.{name}: {problem}') from None


def _bind_nested(key: str, value, where: str, is_list: bool):
    if is_list != isinstance(value, (list, tuple)):
        wanted = 'a list of entries' if is_list else 'one entry'
        raise ValueError(f'{where}: want {wanted}, got {value!r}')
    if is_list:
        return tuple(bind(key, entry, f'{where}[{i}]') for i, entry in enumerate(value))
    return bind(key, value, where)


def checked_value(value, hint, where: str) -> Any:
    """The value if it has the hinted type; an int passes as a float, a list becomes a tuple.

    Raises ValueError otherwise. `where` is the value's place in the config.
    """
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in hints)  # dict of dict[str, Any]
    if hint is Any or (type(value) is int and float in kinds) or type(value) in kinds:
        return value
    if tuple in kinds and isinstance(value, (list, tuple)):
        return tuple(value)
    wanted = ' or '.join('None' if k is type(None) else k.__name__ for k in kinds)
    raise ValueError(f'{where}={value!r}: want {wanted}, got {type(value).__name__}')


def nested_parts(part) -> Iterator[functools.partial]:
    """A bound part and all that are bound in it."""
    yield part
    for value in part.keywords.values():
        for nested in value if isinstance(value, tuple) else (value,):
            if isinstance(nested, functools.partial):
                yield from nested_parts(nested)


def check_lengths(part, context: int) -> None:
    """Raises ValueError if max_tokens of a bound part leaves a prompt no room in the context.

    Checks the parts nested in it too. `context` is a number of tokens.
    """
    for nested in nested_parts(part):
        value = nested.keywords.get('max_tokens', 0)
        if value >= context:
            raise ValueError(
                f'{nested.func.__name__}: max_tokens={value} leaves no room for a prompt in the '
                f'context of {context}; lower it, or raise model.max_length'
            )
