"""Parameters that are read when they are asked for: a function stands in the place of each."""

from typing import Any

import jax


def loaded(param) -> Any:
    """A parameter, or what the function in its place returns."""
    return param() if callable(param) else param


def load_all(params) -> Any:
    """The parameters, each that a function stands for read."""
    return jax.tree.map(loaded, params)
