"""The figures of a trainer or a sampler as the JSON has them, and the versions that gave them."""

import importlib.metadata
import platform
import statistics
from collections.abc import Iterable

from experiments.speed import workload


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of those of the packages that are installed."""
    installed = {'python': platform.python_version()}
    for name in packages:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return installed


def update_figures(work: list[workload.Pair], steps: int, rounds: list[float], **more) -> dict:
    """A trainer's figures from the seconds of each round, which is `steps` updates on all of
    `work`.
    """
    seconds = statistics.median(rounds)
    tokens = workload.real_tokens(work)
    return {
        'tokens_per_s': tokens / seconds,
        'tokens_per_s_best': tokens / min(rounds),
        'step_s': seconds / steps,
        'rounds_s': rounds,
        **more,
    }


def sample_figures(tokens: list[int], rounds: list[float], **more) -> dict:
    """A sampler's figures from the real tokens and the seconds of each call."""
    rates = [count / seconds for count, seconds in zip(tokens, rounds)]
    return {
        'tokens_per_s': statistics.median(rates),
        'tokens_per_s_best': max(rates),
        'tokens': tokens,
        'rounds_s': rounds,
        **more,
    }
