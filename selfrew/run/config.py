"""Binds a run's whole config: its turns, its evaluations and its model."""

import functools
from typing import NamedTuple

from selfrew.engine import saved_models
from selfrew.models import language_model
from selfrew.run import binding
from selfrew.run.turns import Turn, bind_turns
from selfrew.shelves import evals

# Fields of a config that are numbers of rounds or states, and what they may be.
COUNTS = {'keep_states': int | None, 'evals_every': int, 'states_every': int}


class BoundConfig(NamedTuple):
    """What a config names, as functions that the loop calls."""

    turns: list[Turn]
    evaluations: dict[str, functools.partial]  # name in the config -> part of the shelf evals
    describe_model: functools.partial  # () -> lm, without parameters


def bind_config(config: dict) -> BoundConfig:
    """Binds and checks the fields of loop.run, before any parameters are loaded.

    Raises ValueError as binding.bind does, or if a part's max_tokens leaves a prompt no room in
    the context; FileNotFoundError if there is no such model.
    """
    for field, kinds in COUNTS.items():
        value = binding.checked_value(config.get(field, 1), kinds, field)
        binding.check_field(field, value, 'config')
    turns = turns_of(config)
    evaluations = {
        name: binding.bind('evals', entry, f'evals.{name}', evals)
        for name, entry in (config['evals'] or {}).items()
    }
    describe_model = model_describer(config)
    context = language_model.context_length(**describe_model.keywords)
    pipelines = [pipeline for turn in turns for pipeline in turn.pipelines]
    parts = [part for pipeline in pipelines for part in (pipeline.sampler, pipeline.scorer)]
    for part in [*parts, *evaluations.values()]:
        binding.check_lengths(part, context)
    for name, evaluation in evaluations.items():
        _check_opponents_room(name, evaluation)
    return BoundConfig(turns, evaluations, describe_model)


def _check_opponents_room(name: str, evaluation) -> None:
    """Raises ValueError if a response leaves an opponent no room for a prompt."""
    opponent = evaluation.keywords.get('opponent')
    if opponent is None:
        return
    try:
        binding.check_lengths(evaluation.keywords['sampler'], saved_models.context_length(opponent))
    except ValueError as problem:
        raise ValueError(f'evals.{name}, the opponent {opponent!r}: {problem}') from None


def turns_of(config: dict) -> list[Turn]:
    """The turns of a run, in order. Raises ValueError as bind_turns does."""
    return bind_turns(
        rounds=config['rounds'],
        round=config['round'],
        start=config.get('start'),
        by_round=config.get('by_round'),
    )


def model_describer(config: dict) -> functools.partial:
    """language_model.describe with the config's `model` and `mesh` bound."""
    arguments = dict(config['model']) | dict(config['mesh'])
    return binding.bind_arguments(language_model.describe, arguments, 'model, mesh')
