"""The turns of a run: what a config's `start`, `round` and `by_round` say, bound and checked."""

import dataclasses
from typing import Any

from selfrew.run.binding import bind_arguments, typed

# --- turns ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Turn:
    """The five words, bound, and how to update."""

    name: str  # of its folder: '01', '02', '02-rehearsal'
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
    """The fields of a turn in a config.

    max_examples: a random subsample of so many is trained on, or None. balance: before that,
    examples of the most common first score are dropped at random until these are no larger a share,
    or None.
    """
    return dict(locals())


def bind_turns(
    *, rounds: int, round: dict, start: dict | None = None, by_round: dict | None = None
) -> list[Turn]:
    """The turns of a run, in order, bound and checked.

    Args:
      rounds: how many rounds there are, `start` counted as one.
      round: the turn of each round. Its field `rehearsal`, if any, is a turn of its own that
        follows it (`every`: after every so many rounds, 0 never; default 1).
      start: the turn of the first round, where that differs (SFT).
      by_round: fields of `round` that change: a tuple in a field's place holds its value for each
        round, the last one from then on. {'sampler': {'temperature': (0.8, 0.8, 1.3)}}
    Raises ValueError as `bind` does.
    """
    if rounds < 0:
        raise ValueError(f'rounds={rounds}: want 0 (evaluate only) or more')
    out = []
    for number in range(1, rounds + 1):
        first = start is not None and number == 1
        entry = (
            dict(start)
            if first
            else _replaced(round, by_round or {}, number - 1 - (start is not None), 'by_round')
        )
        rehearsal = dict(entry.pop('rehearsal', None) or {})
        every = typed(rehearsal.pop('every', 1), int, 'round.rehearsal.every')
        # bound, and so checked, even where it is off
        after = (
            [_turn(f'{number:02d}-rehearsal', number, True, rehearsal, 'round.rehearsal')]
            if rehearsal
            else []
        )
        after = after if every > 0 and number % every == 0 else []
        out += [
            _turn(f'{number:02d}', number, not after, entry, 'start' if first else 'round'),
            *after,
        ]
    return out


def _turn(name: str, number: int, ends: bool, entry: dict, where: str) -> Turn:
    if entry.get('scorer', ...) is None:
        raise ValueError(f'{where}.scorer is None; for data that need no judgement there is: given')
    return Turn(name, number, ends, **bind_arguments(turn, entry, where)())


def _replaced(entry: dict, changes: dict, index: int, where: str) -> dict:
    out = dict(entry)
    for name, value in changes.items():
        if name not in entry and isinstance(value, dict):
            raise ValueError(f'{where}: round has no {name!r}; there are: {", ".join(entry)}')
        if isinstance(value, dict):
            out[name] = _replaced(entry[name], value, index, f'{where}.{name}')
        elif isinstance(value, (list, tuple)) and value:
            out[name] = value[min(index, len(value) - 1)]
        else:
            raise ValueError(f'{where}.{name}={value!r}: want a value for each round, in a tuple')
    return out
