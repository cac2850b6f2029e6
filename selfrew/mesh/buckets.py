"""Bucketed array sizes: similar sizes round up to one size and share a compiled program."""

import math


def round_up(size: float, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`."""
    return math.ceil(size / multiple) * multiple


def next_power_of_two(size: int) -> int:
    """The smallest power of 2 that is at least `size`, for size >= 1."""
    return 1 << (size - 1).bit_length()


def bucket(size: int, multiple: int = 1) -> int:
    """The smallest bucket that is at least `size`, rounded up to a multiple of `multiple`.

    Buckets have the form k·2^j with 4 <= k < 8; a size below 4 is its own bucket. These are four
    per octave, 4 5 6 7 8 10 12 14 16 20 …, so a bucket is at most a quarter larger than the size.
    """
    step = 1 << max((size - 1).bit_length() - 3, 0)
    return round_up(round_up(size, step), multiple)
