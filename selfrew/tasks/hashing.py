"""Ids, and stable hashes of texts for ids and for splits that are the same in every run."""

import hashlib


def short_id(text: str) -> str:
    """The first twelve hex digits of the text's SHA-1."""
    return hashlib.sha1(text.encode()).hexdigest()[:12]


def hash_digit(text: str) -> int:
    """A number from 0 to 9 by the text's SHA-1: about a tenth of all texts share each."""
    return hashlib.sha1(text.encode()).digest()[0] % 10


def new_id(id: str, taken: set[str]) -> str:
    """The id, or the first of its numbered variants, that is not taken."""
    new, number = id, 2
    while new in taken:
        new, number = f'{id} {number}', number + 1
    return new
