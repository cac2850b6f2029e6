"""Prompt templates in jinja: what a judge is asked, how problems are put, how instructions are
asked for.
"""

import functools
import os

TEMPLATES = os.path.dirname(__file__)


@functools.cache
def _parsed(name: str):
    """(The jinja environment, the template's source)."""
    import jinja2

    path = name if os.path.isfile(name) else os.path.join(TEMPLATES, f'{name}.jinja')
    if not os.path.isfile(path):
        shipped = ', '.join(
            sorted(f.removesuffix('.jinja') for f in os.listdir(TEMPLATES) if f.endswith('.jinja'))
        )
        raise FileNotFoundError(
            f'no template {name!r}: not a file, and not one that ships ({shipped})'
        )
    with open(path) as file:
        return jinja2.Environment(undefined=jinja2.StrictUndefined), file.read().strip()


@functools.cache
def get(name: str):
    """The jinja template in that file, or of that name among the ones that ship. FileNotFoundError
    names them.
    """
    environment, source = _parsed(name)
    return environment.from_string(source)


@functools.cache
def constants(name: str) -> dict:
    """The constants that a template sets for whoever reads its answers: `{% set low, high = 1, 5
    %}`.
    """
    from jinja2 import nodes

    environment, source = _parsed(name)
    out = {}
    for node in environment.parse(source).find_all(nodes.Assign):
        try:
            values = node.node.as_const()
        except nodes.Impossible:  # it hangs on what is filled in
            continue
        if isinstance(node.target, nodes.Tuple):
            out |= dict(zip([target.name for target in node.target.items], values))
        else:
            out[node.target.name] = values
    return out


def score_range(
    name: str, low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """The range of a judge template's scores: as given, else as the template sets it, else 0 to 5.
    ValueError where empty.
    """
    said = constants(name)
    low, high = (
        float(said.get(n, d) if v is None else v)
        for n, v, d in (('low', low, 0), ('high', high, 5))
    )
    if not low < high:
        raise ValueError(f'want low < high; got {low=}, {high=}')
    return low, high


def render(name: str, **fields) -> str:
    """A judge's prompt: the template's text with `fields` (prompt, response) put in as they are."""
    return get(name).render(**fields)
