"""Ids, and stable hashes of texts for ids and for splits that are the same in every run."""

import dataclasses
import hashlib
import logging

from selfrew.types import Prompt


def short_id(text: str) -> str:
    """The first twelve hex digits of the text's SHA-1."""
    return hashlib.sha1(text.encode()).hexdigest()[:12]


def hash_digit(text: str) -> int:
    """A number from 0 to 9 by the text's SHA-1: about a tenth of all texts share each."""
    return hashlib.sha1(text.encode()).digest()[0] % 10


def with_distinct_ids(placed, source: str, clash: str) -> list[Prompt]:
    """Prompts with distinct ids, since the samples drawn for a prompt depend on its id.

    Of those with the same id, the later ones get their place added, which is logged.

    Args:
      placed: (place, prompt) pairs. source: where they come from. clash: what ids then do there,
        such as 'occur more than once'.
    """
    prompts, ids, repeated = [], set(), []
    for place, prompt in placed:
        if prompt.id in ids:
            repeated.append(prompt.id)
            prompt = dataclasses.replace(prompt, id=_new_id(f'{prompt.id} ({place})', ids))
        ids.add(prompt.id)
        prompts.append(prompt)
    if repeated:
        count, first = len(repeated), repeated[0]
        told = '%s: %d ids %s, first %r; the later ones get their place added'
        logging.warning(told, source, count, clash, first)
    return prompts


def _new_id(id: str, taken: set[str]) -> str:
    """The id, or the first of its numbered variants, that is not taken."""
    new, number = id, 2
    while new in taken:
        new, number = f'{id} {number}', number + 1
    return new
