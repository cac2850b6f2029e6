"""Sizes of arrays: few of them, so that what differs a little shares a compiled program. Layer 0."""

import math


def round_up(n: float, multiple: int) -> int:
    """The least multiple of `multiple` that is at least n."""
    return math.ceil(n / multiple) * multiple


def next_power_of_two(n: int) -> int:
    """The least power of 2 that is at least n, for n >= 1."""
    return 1 << (n - 1).bit_length()


def bucket(n: int, multiple: int = 1) -> int:
    """The least number >= n of the form k·2^j with 4 <= k < 8 (up to 4: n itself), then up to a
    multiple.

    Four steps an octave, 4 5 6 7 8 10 12 14 16 20 …: at most a quarter more than was asked for.
    """
    step = 1 << max((n - 1).bit_length() - 3, 0)
    return round_up(round_up(n, step), multiple)
