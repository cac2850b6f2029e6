"""The turns of a run: binds and checks a config's `start`, `round` and `by_round`."""

import dataclasses
import re
from typing import Any

from selfrew.running.binding import bind_arguments, checked_value

MOST_ROUNDS = 100_000
TAKEN = 'state', 'evals', 'update'  # names in a turn's folder that nothing joined to it may have


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
    max_unread: float  # the largest share of the first responses and verdicts that says nothing
    earlier: int  # how many earlier rounds' examples are trained on again, -1 for all
    first_round: int  # the first round with a turn of the same entry of the config
    optimizer_state: str  # 'fresh' or 'kept', see `turn`
    keeps_optimizer: bool = False  # goes on with the optimiser state of the turn before
    joined: tuple = ()  # of Turn: what also makes examples of M_t for this turn's training

    @property
    def title(self) -> str:
        """Of what is joined to a turn, its name in the config; '' for a turn itself."""
        return self.name.partition('/')[2]

    @property
    def pipelines(self) -> tuple:
        """The turn and what is joined to it, all sampled from the same parameters."""
        return (self, *self.joined)


def pipeline(
    *,
    prompts,
    sampler,
    scorer,
    pairs,
    max_examples: int | None = None,
    balance: float | None = None,
    earlier: int = 0,
    max_unread: float = 0.9,
) -> dict:
    """The fields of what is joined to a turn, by name; as those of `turn`."""
    return {
        'prompts': prompts,
        'sampler': sampler,
        'scorer': scorer,
        'pairs': pairs,
        'max_examples': max_examples,
        'balance': balance,
        'earlier': earlier,
        'max_unread': max_unread,
    }


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
    earlier: int = 0,
    max_unread: float = 0.9,
    optimizer_state: str = 'fresh',
) -> dict:
    """The fields of a turn in a config, by name. `join` and `rehearsal` are taken out before.

    Args:
      balance: drops random examples of the most common first score until these make up at most
        this share, or None for no limit.
      max_examples: then trains on a random subsample of this size, or None for all.
      earlier: also trains on the examples of so many rounds before this one, as they were made
        then; -1 for all rounds, 0 for none. The reference is that of this turn for all.
      max_unread: stops the run after its first samples, or first verdicts, if more than this share
        of them says nothing: they were cut, have no conclusion, or cannot be read. 1.0: never.
      optimizer_state: 'fresh': moments start at 0 in each round, as in iterative methods. 'kept':
        each round but the first goes on with those that the round before left, as in online methods
        with few updates a round; sampling then has that much less memory.
    """
    made = pipeline(
        prompts=prompts,
        sampler=sampler,
        scorer=scorer,
        pairs=pairs,
        max_examples=max_examples,
        balance=balance,
        earlier=earlier,
        max_unread=max_unread,
    )
    return made | {'loss': loss, 'train': train, 'optimizer_state': optimizer_state}


def bind_turns(
    *, rounds: int, round: dict, start: dict | None = None, by_round: dict | None = None
) -> list[Turn]:
    """The turns of a run, in order, bound and checked.

    Args:
      rounds: how many rounds there are, `start` included.
      round: the turn of each round. Its optional field `rehearsal` is a turn of its own that
        follows it (`every`: after every so many rounds, 0 for never; default 1). Its optional
        field `join` holds pipelines by name (prompts, sampler, scorer, pairs, …; `every` as
        above): they, too, sample from the parameters that the turn begins with, and the turn
        trains on the examples of all.
      start: the turn of the first round, if it differs (SFT).
      by_round: fields of `round` that change. A tuple in a field's place holds its value for each
        round after `start`; the last value stays. {'sampler': {'temperature': (0.8, 0.8, 1.3)}}
    Raises ValueError as binding.bind does.
    """
    for name, entry in (('round', round), ('start', start), ('by_round', by_round)):
        if entry is not None and not isinstance(entry, dict):
            raise ValueError(f'{name}={entry!r}: want fields by name')
    if not 0 <= rounds <= MOST_ROUNDS:
        raise ValueError(f'rounds={rounds}: want 0 (evaluate only) to {MOST_ROUNDS:,}')
    turns = []
    for number in range(1, rounds + 1):
        if start is not None and number == 1:
            turns += _bind_round(number, number, dict(start), 'start')
        else:
            index = number - 1 - (start is not None)
            entry = _replace_by_round(round, by_round or {}, index, 'by_round')
            turns += _bind_round(number, 1 + (start is not None), entry, 'round')
    return _with_kept_optimizers(turns)


def _with_kept_optimizers(turns: list[Turn]) -> list[Turn]:
    """The turns, each with whether it goes on with the optimiser state of the one before.

    Raises ValueError where that is asked for and cannot be.
    """
    marked = []
    for before, turn in zip((None, *turns), turns):
        keeps = turn.optimizer_state == 'kept' and turn.round > turn.first_round
        if keeps:
            assert before is not None
            if before.round == turn.round or not before.name.isdigit():
                raise ValueError(
                    f"turn {turn.name}: optimizer_state='kept' wants the turn of the round before "
                    f'to come directly before it; {before.name} does'
                )
            if before.train.keywords['optimizer'] is not turn.train.keywords['optimizer']:
                raise ValueError(
                    f"turn {turn.name}: optimizer_state='kept' with another train.optimizer than "
                    f'turn {before.name}'
                )
            if before.train.keywords.get('only') != turn.train.keywords.get('only'):
                raise ValueError(
                    f"turn {turn.name}: optimizer_state='kept' with another train.only than turn "
                    f'{before.name}'
                )
        marked.append(dataclasses.replace(turn, keeps_optimizer=keeps))
    return marked


def _bind_round(number: int, first: int, entry: dict, where: str) -> list[Turn]:
    """The turn of a round and, if it is due, its rehearsal. Takes `rehearsal` out of the entry."""
    rehearsal = entry.pop('rehearsal', None) or {}
    if not isinstance(rehearsal, dict):
        raise ValueError(f'round.rehearsal={rehearsal!r}: want the fields of a turn')
    rehearsal = dict(rehearsal)
    every = checked_value(rehearsal.pop('every', 1), int, 'round.rehearsal.every')
    after = []
    if rehearsal:  # bound, and so checked, even if it is never due
        name = f'{number:02d}-rehearsal'
        after = [_bind_turn(name, number, first, True, rehearsal, 'round.rehearsal')]
    if every <= 0 or number % every != 0:
        after = []
    return [_bind_turn(f'{number:02d}', number, first, not after, entry, where), *after]


def _bind_turn(
    name: str, number: int, first: int, ends_round: bool, entry: dict, where: str
) -> Turn:
    """The turn of an entry; what is joined to it has its loss and train."""
    entry = dict(entry)
    join = entry.pop('join', None) or {}
    if not isinstance(join, dict):
        raise ValueError(f'{where}.join={join!r}: want pipelines by name')
    fields = _bind_fields(turn, entry, where)
    bound = Turn(name, number, ends_round, first_round=first, **fields)
    joined = [
        _bind_joined(bound, title, joined_entry, f'{where}.join.{title}')
        for title, joined_entry in join.items()
    ]
    return dataclasses.replace(bound, joined=tuple(j for j in joined if j is not None))


def _bind_joined(parent: Turn, title: str, entry, where: str) -> Turn | None:
    """What is joined to a turn under a title, with the turn's loss and train; None if not due."""
    if not re.fullmatch(r'[a-z][a-z0-9_]*', title) or title in TAKEN:
        raise ValueError(f'{where}: want a name of small letters, but not {", ".join(TAKEN)}')
    if not isinstance(entry, dict):
        raise ValueError(f'{where}: want a pipeline, got {entry!r}')
    entry = dict(entry)
    every = checked_value(entry.pop('every', 1), int, f'{where}.every')
    fields = _bind_fields(pipeline, entry, where)
    if every <= 0 or parent.round % every != 0:
        return None
    return dataclasses.replace(parent, name=f'{parent.name}/{title}', joined=(), **fields)


def _bind_fields(kind, entry: dict, where: str) -> dict:
    """The bound fields of a turn or a pipeline."""
    if entry.get('scorer', ...) is None:
        raise ValueError(
            f'{where}.scorer is None; for data that need no judgement use '
            "scorer={'name': 'given'}"
        )
    fields = bind_arguments(kind, entry, where)()
    if fields['earlier'] < -1:
        raise ValueError(f'{where}.earlier={fields["earlier"]}: want a number of rounds, or -1')
    return fields


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
