"""Prompt templates in jinja: for judging responses, for asking problems, for new instructions.

Import from it: get, check, shows, render, constants, score_range; `templates` is imported whole.
It imports: nothing of selfrew.
"""

import contextlib
import functools
import inspect
import math
import os
from collections.abc import Iterator
from typing import cast

import jinja2
from jinja2 import meta, nodes

TEMPLATES = os.path.dirname(__file__)
ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined)


@functools.cache
def _source(name: str) -> str:
    """The text of a template: of that file, or of the one that ships under that name."""
    path = name if os.path.isfile(name) else os.path.join(TEMPLATES, f'{name}.jinja')
    if not os.path.isfile(path):
        files = sorted(file for file in os.listdir(TEMPLATES) if file.endswith('.jinja'))
        shipped = ', '.join(file.removesuffix('.jinja') for file in files)
        raise FileNotFoundError(
            f'no template {name!r}: not a file, and not one that ships ({shipped})'
        )
    with open(path, encoding='utf-8') as file:
        try:
            return file.read().strip()
        except UnicodeDecodeError as problem:
            raise ValueError(f'the template {path} is not text in UTF-8: {problem}') from None


@functools.cache
def get(name: str) -> jinja2.Template:
    """The template in that file, or the one that ships under that name.

    FileNotFoundError names the ones that ship; ValueError says what is wrong with a file.
    """
    with _told(name):
        return ENVIRONMENT.from_string(_source(name))


def check(name: str, fields: dict, wanted: tuple[str, ...]) -> None:
    """Renders a template with stand-ins for its fields, as it will be rendered with real ones.

    Args:
      fields: field -> stand-in. wanted: those of them that the template has to show.
    Raises FileNotFoundError or ValueError as `get` does, ValueError also for a field that there is
    not, one that is not shown, and an empty text.
    """
    get(name)
    used = meta.find_undeclared_variables(ENVIRONMENT.parse(_source(name)))
    if unknown := sorted(used - set(fields)):
        raise ValueError(
            f'the template {name!r} shows {{{{ {unknown[0]} }}}}; there are: {", ".join(fields)}'
        )
    if missing := sorted(set(wanted) - used):
        raise ValueError(f'the template {name!r} does not show {{{{ {missing[0]} }}}}')
    with _told(name):
        text = render(name, **fields)
    if not text.strip():
        raise ValueError(f'the template {name!r} is empty')


def shows(*wanted: str, **fields):
    """Marks a part whose field `template` is a template with these fields (field -> stand-in), that
    has to show the wanted ones. It is checked when the part is bound (see `check`), and so is the
    range of scores.
    """

    def mark(part):
        before = getattr(part, 'check_options', None)
        default = inspect.signature(part).parameters['template'].default

        def check_options(*, template: str | None = default, low=None, high=None, **options):
            if before is not None:
                before(**options)
            if template is not None:
                check(template, fields, wanted)
                score_range(template, low, high)

        part.check_options = check_options
        return part

    return mark


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Turns what jinja, and the code of a template, raise into a ValueError that says where."""
    try:
        yield
    except (FileNotFoundError, ValueError):
        raise
    except Exception as problem:
        line = getattr(problem, 'lineno', None)
        where = f', line {line}' if line else ''
        raise ValueError(f'the template {name!r}{where}: {problem}') from problem


@functools.cache
def constants(name: str) -> dict:
    """The constants that a template sets for the reader of its answers, as in
    `{% set low, high = 1, 5 %}`.
    """
    values = {}
    with _told(name):
        tree = ENVIRONMENT.parse(_source(name))
    for assignment in tree.find_all(nodes.Assign):
        try:
            value = cast(nodes.Expr, assignment.node).as_const()
        except nodes.Impossible:  # it depends on what is filled in
            continue
        if isinstance(assignment.target, nodes.Tuple):
            names = [cast(nodes.Name, target).name for target in assignment.target.items]
            if not isinstance(value, (list, tuple)) or len(value) != len(names):
                raise ValueError(f'the template {name!r} sets {len(names)} names to {value!r}')
            values |= dict(zip(names, value))
        elif isinstance(assignment.target, nodes.Name):
            values[assignment.target.name] = value
    return values


def score_range(
    name: str, low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """(lowest, highest) score of a judge template.

    A bound that is None is the template's own constant, else 0 or 5. ValueError for an empty range.
    """
    defaults = {'low': 0, 'high': 5} | constants(name)
    bounds = defaults['low'] if low is None else low, defaults['high'] if high is None else high
    if not all(isinstance(bound, (int, float)) for bound in bounds):
        raise ValueError(f'the template {name!r} sets low, high to {bounds}: want numbers')
    low, high = map(float, bounds)
    if not low < high or math.isinf(high - low):
        raise ValueError(f'want low < high; got {low=}, {high=} with the template {name!r}')
    return low, high


def render(name: str, **fields) -> str:
    """A template's text with `fields`, such as prompt and response, inserted unchanged."""
    return get(name).render(**fields)
