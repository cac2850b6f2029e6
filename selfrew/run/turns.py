"""The turns of a run: binds and checks a config's `start`, `round` and `by_round`."""

import dataclasses
from typing import Any

from selfrew.run.binding import bind_arguments, checked_value


@dataclasses.dataclass(frozen=True)
class Turn:
    """One pass of the loop: its five bound parts and how to update."""

    name: str  # also of its folder: '01', '02', '02-rehearsal'
    round: int  # from 1
    ends_round: bool
    prompts: Any
    sampler: Any
    scorer: Any
    pairs: Any
    loss: Any
    train: Any
    max_examples: int | None
    balance: float | None


def turn(
    *,
    prompts,
    sampler,
    scorer,
    pairs,
    loss,
    train,
    max_examples: int | None = None,
    balance: float | None = None,
) -> dict:
    """The fields of a turn in a config, by name.

    Args:
      balance: drops random examples of the most common first score until these make up at most
        this share, or None for no limit.
      max_examples: then trains on a random subsample of this size, or None for all.
    """
    return {
        'prompts': prompts,
        'sampler': sampler,
        'scorer': scorer,
        'pairs': pairs,
        'loss': loss,
        'train': train,
        'max_examples': max_examples,
        'balance': balance,
    }


def bind_turns(
    *, rounds: int, round: dict, start: dict | None = None, by_round: dict | None = None
) -> list[Turn]:
    """The turns of a run, in order, bound and checked.

    Args:
      rounds: how many rounds there are, `start` included.
      round: the turn of each round. Its optional field `rehearsal` is a turn of its own that
        follows it (`every`: after every so many rounds, 0 for never; default 1).
      start: the turn of the first round, if it differs (SFT).
      by_round: fields of `round` that change. A tuple in a field's place holds its value for each
        round after `start`; the last value stays. {'sampler': {'temperature': (0.8, 0.8, 1.3)}}
    Raises ValueError as binding.bind does.
    """
    if rounds < 0:
        raise ValueError(f'rounds={rounds}: want 0 (evaluate only) or more')
    turns = []
    for number in range(1, rounds + 1):
        if start is not None and number == 1:
            turns += _bind_round(number, dict(start), 'start')
        else:
            index = number - 1 - (start is not None)
            entry = _replace_by_round(round, by_round or {}, index, 'by_round')
            turns += _bind_round(number, entry, 'round')
    return turns


def _bind_round(number: int, entry: dict, where: str) -> list[Turn]:
    """The turn of a round and, if it is due, its rehearsal. Takes `rehearsal` out of the entry."""
    rehearsal = dict(entry.pop('rehearsal', None) or {})
    every = checked_value(rehearsal.pop('every', 1), int, 'round.rehearsal.every')
    after = []
    if rehearsal:  # bound, and so checked, even if it is never due
        after = [_bind_turn(f'{number:02d}-rehearsal', number, True, rehearsal, 'round.rehearsal')]
    if every <= 0 or number % every != 0:
        after = []
    return [_bind_turn(f'{number:02d}', number, not after, entry, where), *after]


def _bind_turn(name: str, number: int, ends_round: bool, entry: dict, where: str) -> Turn:
    if entry.get('scorer', ...) is None:
        raise ValueError(
            f'{where}.scorer is None; for data that need no judgement use '
            "scorer={'name': 'given'}"
        )
    return Turn(name, number, ends_round, **bind_arguments(turn, entry, where)())


def _replace_by_round(entry: dict, changes: dict, index: int, where: str) -> dict:
    """`entry` with the changed fields set to their values for round `index`, from 0."""
    replaced = dict(entry)
    for name, value in changes.items():
        if name not in entry and isinstance(value, dict):
            raise ValueError(f'{where}: round has no {name!r}; there are: {", ".join(entry)}')
        if isinstance(value, dict):
            replaced[name] = _replace_by_round(entry[name], value, index, f'{where}.{name}')
        elif isinstance(value, (list, tuple)) and value:
            replaced[name] = value[min(index, len(value) - 1)]
        else:
            raise ValueError(f'{where}.{name}={value!r}: want a value for each round, in a tuple')
    return replaced
