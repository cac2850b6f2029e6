"""Prompt templates in jinja: for judging responses, for asking problems, for new instructions.

Import from it: get, render, constants, score_range; `templates` is imported whole.
It imports: nothing of selfrew.
"""

import functools
import os
from typing import cast

import jinja2
from jinja2 import nodes

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
    with open(path) as file:
        return file.read().strip()


@functools.cache
def get(name: str) -> jinja2.Template:
    """The template in that file, or the one that ships under that name.

    FileNotFoundError names the ones that ship.
    """
    return ENVIRONMENT.from_string(_source(name))


@functools.cache
def constants(name: str) -> dict:
    """The constants that a template sets for the reader of its answers, as in
    `{% set low, high = 1, 5 %}`.
    """
    values = {}
    for assignment in ENVIRONMENT.parse(_source(name)).find_all(nodes.Assign):
        try:
            value = cast(nodes.Expr, assignment.node).as_const()
        except nodes.Impossible:  # it depends on what is filled in
            continue
        if isinstance(assignment.target, nodes.Tuple):
            names = [cast(nodes.Name, target).name for target in assignment.target.items]
            values |= dict(zip(names, value))
        else:
            values[cast(nodes.Name, assignment.target).name] = value
    return values


def score_range(
    name: str, low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """(lowest, highest) score of a judge template.

    A bound that is None is the template's own constant, else 0 or 5. ValueError for an empty range.
    """
    defaults = {'low': 0, 'high': 5} | constants(name)
    low = float(defaults['low'] if low is None else low)
    high = float(defaults['high'] if high is None else high)
    if not low < high:
        raise ValueError(f'want low < high; got {low=}, {high=}')
    return low, high


def render(name: str, **fields) -> str:
    """A template's text with `fields`, such as prompt and response, inserted unchanged."""
    return get(name).render(**fields)
