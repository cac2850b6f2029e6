"""Selects which of a turn's examples are trained on."""

import collections
from fractions import Fraction

from selfrew.types import Example


def check_balance(balance: float) -> None:
    """Raises ValueError unless 0 < balance < 1."""
    if not 0 < balance < 1:
        raise ValueError(f'{balance}: want more than 0 and less than 1, or None')


def balance_scores(examples: list[Example], balance: float | None, rng) -> list[Example]:
    """Drops random examples of the most common first score until they make up at most `balance`;
    keeps the order. None, or a single score, drops nothing.
    """
    if balance is None or len({e.scores[0] for e in examples}) < 2:
        return examples
    [(score, count)] = collections.Counter(e.scores[0] for e in examples).most_common(1)
    share = Fraction(str(balance))  # as it is written: a float's 0.9 is less
    limit = int(share * (len(examples) - count) / (1 - share))
    with_score = [i for i, e in enumerate(examples) if e.scores[0] == score]
    kept = set(rng.choice(with_score, min(limit, count), replace=False).tolist())
    return [e for i, e in enumerate(examples) if e.scores[0] != score or i in kept]


def subsample(examples: list[Example], size: int | None, rng) -> list[Example]:
    """`size` random examples, in order; all if there are no more, or if `size` is None."""
    if size is None or size >= len(examples):
        return examples
    return [examples[i] for i in sorted(rng.choice(len(examples), size, replace=False))]
