"""Stable hashes of texts, for ids and for splits that are the same in every run."""

import hashlib


def short_id(text: str) -> str:
    """The first twelve hex digits of the text's SHA-1."""
    return hashlib.sha1(text.encode()).hexdigest()[:12]


def hash_digit(text: str) -> int:
    """A number from 0 to 9 by the text's SHA-1: about a tenth of all texts share each."""
    return hashlib.sha1(text.encode()).digest()[0] % 10
