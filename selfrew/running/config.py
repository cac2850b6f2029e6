"""Binds a run's whole config: its turns, its evaluations and its model."""

import functools
from typing import NamedTuple

from selfrew.engine import loss_contract, saved_models
from selfrew.models import language_model
from selfrew.running import binding
from selfrew.running.turns import Turn, bind_turns
from selfrew.shelves import evals, samplers, scorers

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
    _check_values(turns, evaluations, describe_model.keywords)
    return BoundConfig(turns, evaluations, describe_model)


def _check_values(turns: list[Turn], evaluations: dict, model: dict) -> None:
    """Raises ValueError where a value head is read or trained that is not there, or read as it
    changes.
    """
    has_head, has_adapters = bool(model.get('value_head')), bool(model.get('lora'))
    for turn in turns:
        only, reads = turn.train.keywords.get('only'), loss_contract.reads_values(turn.loss)
        name = turn.loss.func.__name__
        if (reads or only == 'value') and not has_head:
            raise ValueError(
                f'turn {turn.name}: {name} with train.only={only!r} wants model.value_head=True'
            )
        if only == 'value' and not reads:
            raise ValueError(f"turn {turn.name}: train.only='value', and {name} reads no value")
        if loss_contract.wants_frozen_trunk(turn.loss) and only != 'value' and not has_adapters:
            raise ValueError(
                f'turn {turn.name}: {name} takes the expectation under the model as it is: want '
                f"train.only='value', or adapters (model.lora)"
            )
    samplers_of = [(f'turn {p.name}', p.sampler) for turn in turns for p in turn.pipelines]
    samplers_of += [(f'evals.{name}', e.keywords['sampler']) for name, e in evaluations.items()]
    for where, sampler in samplers_of:
        if samplers.OWN in samplers.values_of(sampler) and not has_head:
            raise ValueError(f"{where}: values='own' wants model.value_head=True")


def check_judges_fit(bound: BoundConfig, lm) -> None:
    """Raises ValueError, with the numbers, where not even the shortest prompt and response fit into
    the context beside a judge's template and its verdict.
    """
    places = [(f'turn {p.name}', p.scorer) for turn in bound.turns for p in turn.pipelines]
    places += [(f'evals.{name}', evaluation) for name, evaluation in bound.evaluations.items()]
    for where, outer in places:
        for part in binding.nested_parts(outer):
            if part.func not in (scorers.judge, scorers.compare):
                continue
            fields = (part.func.__kwdefaults__ or {}) | part.keywords
            length = scorers.shortest_judge_prompt(fields['template'], lm)
            verdict, context = fields['max_tokens'], lm.config.max_length
            if length + verdict > context:
                raise ValueError(
                    f'{where}: the judge cannot judge anything: its template '
                    f'{fields["template"]!r} takes {length} tokens with a prompt and a response of '
                    f'one word, and max_tokens={verdict}, but the context is {context}; take a '
                    f'shorter template, a smaller max_tokens, or a model with a longer context'
                )


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
