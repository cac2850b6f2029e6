"""Prefix scorers, which steer sampling (controlled decoding, arXiv 2310.17022)."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax

from selfrew.models import decoder


class Control(NamedTuple):
    """V(prefix + z), the value of each next token z: the sum over scorers of what they say of it.

    A scorer is a value head [D V], times its weight: one on the hidden states of the model that
    samples, and others on those of models of their own, which read the same tokens beside it. They
    have the vocabulary and the mesh of the model that samples.
    """

    head: Any = None  # on the hidden states of the model that samples; None: there is none
    scorers: tuple = ()  # of (lm, params with 'value')
    name: str = 'control'  # of all this in a journal


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=['head', 'params'], meta_fields=['modules']
)
@dataclasses.dataclass(frozen=True)
class Scorers:
    """The scorers of a `Control` as compiled programs take them."""

    head: Any
    params: tuple  # of each model
    modules: tuple


def scorers_of(control: Control | None, models: list) -> Scorers | None:
    """models: (lm, params) of the model that samples and then of each scorer, as they are computed
    with.
    """
    if control is None:
        return None
    own = models[1:]
    return Scorers(control.head, tuple(p for _, p in own), tuple(lm.module for lm, _ in own))


def token_values(scorers: Scorers, hidden_SD, scorer_hiddens):
    """The value [S V] of each next token, float32.

    hidden: of the model that samples. scorer_hiddens: [S D] of each scorer's model.
    """
    parts = [] if scorers.head is None else [decoder.values(scorers.head, hidden_SD)]
    for params, own_SD in zip(scorers.params, scorer_hiddens, strict=True):
        parts.append(decoder.values(params['value'], own_SD))
    return sum(parts[1:], parts[0])


def split_cache(modules, parts) -> list:
    """The parts of each module's cache, which lie one after another; None for each of None."""
    if parts is None:
        return [None] * len(modules)
    split, start = [], 0
    for module in modules:
        count = 1 if module.stacked else module.config.layers
        split.append(tuple(parts[start : start + count]))
        start += count
    assert start == len(parts), 'each module has its parts'
    return split
