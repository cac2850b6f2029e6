"""Rows of files as prompts: what the parts that read data share."""

import dataclasses
import math
from collections.abc import Callable

from selfrew import tasks
from selfrew.mesh import keys
from selfrew.tasks import splitting
from selfrew.tasks.hashing import with_distinct_ids
from selfrew.tasks.records import read_records
from selfrew.types import Prompt

ROLES = 'system', 'user', 'assistant'


def is_on_side(text: str, split: str | None, heldout: float) -> bool:
    """Whether a text is on the side of a split, see data.records; any text for None.

    Raises ValueError for an unknown split.
    """
    if split is None:
        return True
    tasks.check_split(split)
    return splitting.is_held_out(text, heldout) == (split == 'heldout')


def read_prompts(lm, source: str, read_row: Callable, max_bad: int) -> list[Prompt]:
    """The prompt that `read_row(place, row)` makes of each row, without those that are None.

    Ids that occur twice are made distinct. A prompt that the chat template of `lm` refuses is a bad
    row; without an `lm` nothing is rendered.
    """

    def checked(place: str, row: dict) -> tuple[str, Prompt] | None:
        prompt = read_row(f'{source}:{place}', row)
        if prompt is None:
            return None
        if lm is not None:
            lm.text.check_prompt(prompt)
        return place, prompt

    placed = read_records(source, checked, max_bad)
    return with_distinct_ids(placed, source, 'occur more than once')


def check_portion(*, portion: int = 1, portions: int = 1, **_) -> None:
    """Raises ValueError for a portion that is not from 1 to `portions`."""
    if not 1 <= portion <= portions:
        raise ValueError(f'portion={portion}: want 1 to portions={portions}')


def in_portions(part):
    """Marks a part with the fields portion and portions, which are checked when it is bound."""
    part.check_options = check_portion
    return part


def draw(
    prompts: list[Prompt],
    n: int | None,
    source: str,
    key,
    *,
    portion: int = 1,
    portions: int = 1,
) -> list[Prompt]:
    """`n` prompts of a portion without replacement, in their order; all for None or if there are no
    more.

    Portions are consecutive and of equal size; the last ones of the source, fewer than there are
    portions, are in none.
    Raises ValueError for a portion that is not from 1 to `portions`, or is empty.
    """
    if n is not None and n < 1:
        raise ValueError(f'n={n} prompts of {source}: want at least 1, or None for all')
    check_portion(portion=portion, portions=portions)
    if portions > 1:
        size = len(prompts) // portions
        if not size:
            raise ValueError(f'{len(prompts)} prompts of {source} do not make {portions} portions')
        prompts = prompts[size * (portion - 1) : size * portion]
    if n is None or n >= len(prompts):
        return prompts
    drawn = keys.numpy_rng(key).choice(len(prompts), n, replace=False)
    return [prompts[i] for i in sorted(drawn)]


def with_given(prompt: Prompt, responses, grades) -> Prompt:
    """The prompt with responses as they were sampled and their grades, for the sampler and the
    scorer `given`. nan is no grade.
    """
    given = {
        'responses': [response.text for response in responses],
        'tokens': [list(response.tokens) for response in responses],
        'finishes': [response.finish for response in responses],
        'grades': [None if math.isnan(grade) else grade for grade in grades],
    }
    return dataclasses.replace(prompt, meta=prompt.meta | given)


def messages_of(row: dict, field: str) -> list[dict]:
    """The chat messages in a row's field, or else in its field 'messages'."""
    value = row.get(field, row.get('messages'))
    if value is None:
        raise ValueError(f'no field {field!r} and no messages; there are: {", ".join(row)}')
    if isinstance(value, str):
        value = [{'role': 'user', 'content': value}]
    if not isinstance(value, list) or not all(map(_is_message, value)):
        raise ValueError(
            f'{field!r} is neither a string nor a list of messages with role and content'
        )
    for message in value:
        if message['role'] not in ROLES:
            raise ValueError(
                f'{field!r}: no role {message["role"]!r}; there are: {", ".join(ROLES)}'
            )
    return [{'role': message['role'], 'content': message['content']} for message in value]


def _is_message(value) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) for name in ('role', 'content')
    )
