"""Words of a response, and prompts that limit them (LIFT, arXiv 2406.17744)."""

import dataclasses
import importlib.util
import string

from selfrew.tasks import templates
from selfrew.types import Prompt

EXTRA = "counting words needs nltk: pip install 'selfrew[lift]'"


def check_installed() -> None:
    """Raises ValueError where nltk is not installed."""
    if importlib.util.find_spec('nltk') is None:
        raise ValueError(EXTRA)


def check_gap(gap: int) -> None:
    """Raises ValueError for a gap in which no limit fits, or where nltk is not installed."""
    if gap < 2:
        raise ValueError(f'{gap}: want at least 2 words, so that a limit fits between')
    check_installed()


def count_words(text: str) -> int:
    """The tokens of nltk's word_tokenize that are no punctuation (App. B).

    What is a part of string.punctuation is punctuation; other marks of several characters, such as
    '...', count as words. The text is not split into sentences, which would need a download: a full
    stop that then stays on its word does not change the count.
    Raises ImportError without nltk, which the extra `lift` installs.
    """
    try:
        from nltk.tokenize import word_tokenize  # noqa: PLC0415 (an extra)
    except ImportError as problem:
        raise ImportError(EXTRA) from problem
    return sum(word not in string.punctuation for word in word_tokenize(text, preserve_line=True))


def limited(prompt: Prompt, limit: int, template: str) -> Prompt:
    """The prompt with a limit of words: its last turn as the template has it.

    Its id says the limit, and meta['limit'] has it.
    """
    *earlier, last = prompt.messages
    asked = templates.render(template, prompt=last['content'], limit=limit)
    return dataclasses.replace(
        prompt,
        id=f'{prompt.id}/{limit} words',
        messages=(*earlier, last | {'content': asked}),
        meta=prompt.meta | {'limit': limit},
    )
