"""What studies share: they run arms × seeds of a config, and tabulate and plot the results.

A result is a row of results.json: the figures of one round of one run.
"""

import json
import os
import types
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from selfrew import loop
from selfrew.engine.run_files import write_atomic
from selfrew.running import binding
from selfrew.running.stage import json_bytes

TUNING_SEED = 100
REWARDS = (
    'logps/chosen',
    'logps/rejected',
    'rewards/chosen',
    'rewards/rejected',
    'rewards/accuracies',
)


def run(
    folder: str,
    configs: dict[tuple[str, int], dict],
    extra_figures: Callable[[str, int], dict] = lambda workdir, number: {},
    sources: Mapping[tuple[str, int], str] = types.MappingProxyType({}),
) -> list[dict]:
    """Runs what is not in the folder yet; returns a row for each run and round.

    configs: (arm, seed) -> config. extra_figures(workdir, round): further figures of a row. A run's
    rows are kept in its folder, as figures.json, and after each run all are written to
    results.json. A run that was killed continues where it stopped.
    sources: (arm, seed) -> the arm of the same seed whose samples, and evaluations before training,
    are taken where its own would be the same.
    """
    results = []
    for (arm, seed), config in configs.items():
        workdir = os.path.join(folder, f'{arm}-{seed}')
        print(f'##### {workdir}', flush=True)
        other = sources.get((arm, seed), arm)
        source = None if other == arm else os.path.join(folder, f'{other}-{seed}')
        print(binding.bind_arguments(loop.run, config, 'config')(workdir, source), flush=True)
        for row in _rows(workdir, extra_figures):
            results.append({'method': arm, 'seed': seed} | row)
        write_atomic(os.path.join(folder, 'results.json'), json_bytes(results))
    return results


def _rows(workdir: str, extra_figures: Callable[[str, int], dict]) -> list[dict]:
    """The figures of a finished run, by round. They are made once."""
    with open(os.path.join(workdir, 'summary.json')) as file:
        rounds = json.load(file)['rounds']
    path = os.path.join(workdir, 'figures.json')
    if os.path.exists(path):
        with open(path) as file:
            rows = json.load(file)
        if len(rows) == len(rounds):
            return rows
    rows = [
        row | reward_means(workdir, row['round']) | extra_figures(workdir, row['round'])
        for row in rounds
    ]
    write_atomic(path, json_bytes(rows))
    return rows


def tune(
    folder: str, config_of: Callable, arms: Iterable[str], grid: Iterable[float]
) -> list[dict]:
    """Runs each arm with each learning rate of the grid, on a seed that no study uses; see `run`.

    config_of: (arm, seed, learning rate) -> config.
    """
    trials = {}
    for arm in arms:
        for rate in grid:
            trials[f'{arm}@{rate:g}', TUNING_SEED] = config_of(arm, TUNING_SEED, rate)
    return run(folder, trials)


def reward_means(workdir: str, number: int) -> dict:
    """The means of REWARDS over a round's first and last quarter of updates.

    Their names are 'first rewards/chosen', 'last rewards/chosen' and so on.
    """
    with open(os.path.join(workdir, 'metrics.jsonl')) as file:
        rows = [row for row in map(json.loads, file) if row['turn'] == f'{number:02d}']
    means = {}
    for name in REWARDS:
        values = [row[name] for row in rows if name in row]
        if values:
            quarter = max(len(values) // 4, 1)
            means[f'first {name}'] = float(np.mean(values[:quarter]))
            means[f'last {name}'] = float(np.mean(values[-quarter:]))
    return means


def series(results: list[dict], arm: str, key: str) -> np.ndarray:
    """[seeds, rounds] of a figure; nan where there is none."""
    rows = [row for row in results if row['method'] == arm]
    seeds = sorted({row['seed'] for row in rows})
    return np.array(
        [[row.get(key) for row in rows if row['seed'] == seed] for seed in seeds], float
    )


def half_width(values: np.ndarray, axis: int = 0):
    """Half the width of the 95 % t interval of the mean over seeds."""
    count = np.shape(values)[axis]
    deviation = np.std(values, axis=axis, ddof=1)
    return stats.t.ppf(0.975, count - 1) * deviation / np.sqrt(count)


def table(results: list[dict], key: str = 'accuracy', seeds: bool = True) -> str:
    """A figure by round in Markdown, for each seed (where `seeds`) and as the mean over seeds.

    A seed's figure has its 95 % interval where it has one, the mean its 95 % t interval.
    """
    arms = list(dict.fromkeys(row['method'] for row in results))
    rounds = sorted({row['round'] for row in results})
    header = ['arm', 'seed', *[f'M{number}' for number in rounds]]
    lines = [_markdown_row(header), '|---' * len(header) + '|']
    for arm in arms:
        values = series(results, arm, key)
        low, high = series(results, arm, f'{key}_low'), series(results, arm, f'{key}_high')
        arm_seeds = sorted({row['seed'] for row in results if row['method'] == arm})
        for i, seed in enumerate(arm_seeds if seeds else ()):
            cells = map(_with_interval, values[i], low[i], high[i])
            lines.append(_markdown_row([arm, str(seed), *cells]))
        if len(arm_seeds) > 1:
            pairs = zip(values.mean(axis=0), half_width(values))
            cells = [f'{mean:.3f} ± {half:.3f}' for mean, half in pairs]
            lines.append(_markdown_row([f'**{arm}**', 'mean, 95 % t', *cells]))
    return '\n'.join(lines)


def _markdown_row(cells: list[str]) -> str:
    return '| ' + ' | '.join(cells) + ' |'


def _with_interval(value: float, low: float, high: float) -> str:
    interval = '' if np.isnan(low) else f' ({low:.3f}–{high:.3f})'
    return f'{value:.3f}{interval}'


def difference(results: list[dict], arm: str, other: str, key: str = 'accuracy') -> list[str]:
    """By round, how much more an arm has than another: the mean over seeds, paired, with its 95 % t
    interval.
    """
    gains = series(results, arm, key) - series(results, other, key)
    pairs = zip(gains.mean(axis=0), half_width(gains))
    return [f'{mean:+.3f} ± {half:.3f}' for mean, half in pairs]


def plot(results: list[dict], path: str, panels: dict) -> None:
    """Plots figures by round, a faint line for each seed and their mean.

    panels: a figure's key -> (title, its axis' limits or None).
    """
    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout='constrained')
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, (key, (title, limits)) in zip(grid[0], panels.items()):
        rounds = 0
        for i, arm in enumerate(dict.fromkeys(row['method'] for row in results)):
            values = series(results, arm, key)
            rounds = values.shape[1]
            axes.plot(values.T, color=f'C{i}', alpha=0.3)
            axes.plot(values.mean(axis=0), color=f'C{i}', marker='o', label=arm)
        axes.set(title=title, xlabel='round', ylim=limits, xticks=range(rounds))
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
