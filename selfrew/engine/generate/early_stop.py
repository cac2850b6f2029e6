"""Stops a stage after its first responses where these say nothing, instead of after all of them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from selfrew.types import Response

FIRST = 48  # responses that are looked at; a stage with fewer is not stopped
SHOWN, CHARACTERS = 3, 300  # of those that say nothing, in the message


class Watch(NamedTuple):
    """What a turn asks of the responses that it pays for."""

    max_unread: float  # the largest share that may say nothing
    reason: Callable  # (prompt, response) -> why a sample says nothing, in a few words; else None


class Check(NamedTuple):
    """What is asked once the responses to the first `count` requests are there."""

    count: int
    problem: Callable[[list[Response]], str | None]  # what is wrong with them; None: nothing


class StopEarly(ValueError):
    """A stage was stopped after its first responses."""


_watches: list[Watch] = []


@contextlib.contextmanager
def watching(max_unread: float, reason: Callable) -> Iterator[None]:
    """Parts that sample inside, and know how to read what they sample, check their first responses.

    The arguments are those of `Watch`.
    """
    _watches.append(Watch(max_unread, reason))
    try:
        yield
    finally:
        _watches.pop()


def current() -> Watch | None:
    """The innermost `watching`, or None: then nothing is checked."""
    return _watches[-1] if _watches else None


def unread_check(what: str, total: int, reason: Callable) -> list[Check]:
    """A check that the first responses do not say nothing; none outside of `watching`.

    The first requests are looked at and not the first that end, since those are the short ones.

    Args:
      what: the responses are, in the plural.
      total: requests that there are.
      reason: (index of a request, its response) -> why it says nothing, or None.
    """
    watch = current()
    if watch is None or total < FIRST:
        return []

    def problem(responses: list[Response]) -> str | None:
        reasons = [(r, reason(i, r)) for i, r in enumerate(responses)]
        unread = [(response, why) for response, why in reasons if why is not None]
        if len(unread) <= watch.max_unread * len(responses):
            return None
        shown = ''.join(
            f'\n  ({why}) {shortened(" ".join(r.text.split()), CHARACTERS)}'
            for r, why in unread[:SHOWN]
        )
        return (
            f'{len(unread)} of the first {len(responses)} {what} say nothing, more than '
            f'max_unread={watch.max_unread:g}; of them:{shown}'
        )

    return [Check(FIRST, problem)]


def ties_check(groups: list[list[int]], value: Callable) -> list[Check]:
    """A check that the first prompts are not all ties; none outside of `watching`.

    Args:
      groups: for each prompt with several responses, the indices of its requests.
      value: (the indices of a group, their responses) -> the scores of the prompt's responses.
    """
    watch = current()
    first = groups[: FIRST // 2]
    if watch is None or len(first) < FIRST // 2:
        return []

    def problem(responses: list[Response]) -> str | None:
        scores_of = [value(group, [responses[i] for i in group]) for group in first]
        ties = [scores for scores in scores_of if len(set(scores)) == 1]
        if watch.max_unread == 1.0 or len(ties) < len(first):
            return None
        shown = ', '.join(f'{scores[0]:.3g}' for scores in ties[:SHOWN])
        return (
            f'all responses to each of the first {len(first)} prompts have the same score '
            f'({shown}, …): there is nothing to choose between'
        )

    return [Check(1 + max(max(group) for group in first), problem)]


def shortened(text: str, characters: int) -> str:
    """The text; without its middle if it is longer than so many characters."""
    half = characters // 2
    return text if len(text) <= characters else f'{text[:half]} … {text[-half:]}'
