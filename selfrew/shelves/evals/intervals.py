"""Means, and 95 % intervals of shares and of means."""

import math

import numpy as np
from scipy import stats

Z_95 = 1.959963984540054  # standard deviations of a 95 % interval


def wilson(right: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of the proportion right / count (Wilson 1927); nans for count = 0."""
    if not count:
        return math.nan, math.nan
    share, z2 = right / count, Z_95 * Z_95
    middle = share + z2 / (2 * count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    low, high = (middle - half) / (1 + z2 / count), (middle + half) / (1 + z2 / count)
    # Exact at both ends, where rounding would be off.
    return 0.0 if right == 0 else low, 1.0 if right == count else high


def student(values) -> tuple[float, float]:
    """The 95 % interval of the mean of independent values (Student 1908); nans for fewer than 2."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return float(mean - half), float(mean + half)


def mean_of(values) -> float:
    """The mean; nan of nothing."""
    return float(np.mean(values)) if len(values) else math.nan
