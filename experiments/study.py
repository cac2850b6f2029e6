"""What studies share: arms × seeds of a config, run once each, and what became of them as a table
and a plot.
"""

import json
import os

import numpy as np
from scipy import stats

from selfrew import loop
from selfrew.run import binding
from selfrew.run.stage import dump, write_atomic


def run(folder: str, configs: dict, more=lambda where, number: {}) -> list[dict]:
    """Runs what is not in the folder yet. Returns, and writes to results.json, a row for each run
    and round.

    configs: (arm, seed) -> config. more(a run's folder, a round): what else goes into a row.
    A run that was killed goes on where it stopped.
    """
    results = []
    for (arm, seed), config in configs.items():
        where = os.path.join(folder, f'{arm}-{seed}')
        print(f'##### {where}', flush=True)
        print(binding.bind_arguments(loop.run, config, 'config')(where), flush=True)
        with open(os.path.join(where, 'summary.json')) as file:
            rows = json.load(file)['rounds']
        results += [
            {
                'method': arm,
                'seed': seed,
                **row,
                **learnt(where, row['round']),
                **more(where, row['round']),
            }
            for row in rows
        ]
    write_atomic(os.path.join(folder, 'results.json'), dump(results))
    return results


LEARNT = (
    'logps/chosen',
    'logps/rejected',
    'rewards/chosen',
    'rewards/rejected',
    'rewards/accuracies',
)


def learnt(where: str, number: int) -> dict:
    """What the updates of a round said of winners and losers: 'first …' and 'last …' of LEARNT, a
    quarter of them each.
    """
    with open(os.path.join(where, 'metrics.jsonl')) as file:
        rows = [row for row in map(json.loads, file) if row['turn'] == f'{number:02d}']
    out = {}
    for name in LEARNT:
        found = [row[name] for row in rows if name in row]
        if found:
            few = max(len(found) // 4, 1)
            out |= {
                f'first {name}': float(np.mean(found[:few])),
                f'last {name}': float(np.mean(found[-few:])),
            }
    return out


def series(results, arm: str, key: str) -> np.ndarray:
    """[seeds, rounds] of a figure; nan where there is none."""
    seeds = sorted({r['seed'] for r in results if r['method'] == arm})
    found = [[r.get(key) for r in results if (r['method'], r['seed']) == (arm, s)] for s in seeds]
    return np.array(found, float)


def half_width(values, axis: int = 0):
    """Of the 95 % t interval of the mean over seeds."""
    n = np.shape(values)[axis]
    return stats.t.ppf(0.975, n - 1) * np.std(values, axis=axis, ddof=1) / np.sqrt(n)


def table(results, key: str = 'accuracy', seeds: bool = True) -> str:
    """Markdown: a figure by round, for each seed with its 95 % interval where it has one, and the
    mean over seeds.
    """
    arms = list(dict.fromkeys(r['method'] for r in results))
    rounds = sorted({r['round'] for r in results})
    lines = [
        '| arm | seed | ' + ' | '.join(f'M{r}' for r in rounds) + ' |',
        '|---' * (len(rounds) + 2) + '|',
    ]
    for arm in arms:
        y, low, high = (series(results, arm, k) for k in (key, f'{key}_low', f'{key}_high'))
        known = sorted({r['seed'] for r in results if r['method'] == arm})
        for i, seed in enumerate(known if seeds else ()):
            between = [f' ({a:.3f}–{b:.3f})' if a == a else '' for a, b in zip(low[i], high[i])]
            lines.append(
                f'| {arm} | {seed} | '
                + ' | '.join(f'{v:.3f}{b}' for v, b in zip(y[i], between))
                + ' |'
            )
        if len(known) > 1:
            cells = [f'{m:.3f} ± {h:.3f}' for m, h in zip(y.mean(axis=0), half_width(y))]
            lines.append(f'| **{arm}** | mean, 95 % t | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def difference(results, one: str, other: str, key: str = 'accuracy') -> list[str]:
    """By round, how much more one arm has than the other: the mean over seeds, paired, with its 95
    % t interval.
    """
    apart = series(results, one, key) - series(results, other, key)
    return [f'{m:+.3f} ± {h:.3f}' for m, h in zip(apart.mean(axis=0), half_width(apart))]


def plot(results, path: str, panels: dict) -> None:
    """Figures by round, a faint line a seed and the mean. panels: a figure's key -> (title, its
    axis' limits or None).
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, found = plt.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 3.5), layout='constrained', squeeze=False
    )
    for axes, (key, (title, limits)) in zip(found[0], panels.items()):
        for i, arm in enumerate(dict.fromkeys(r['method'] for r in results)):
            y = series(results, arm, key)
            axes.plot(y.T, color=f'C{i}', alpha=0.3)
            axes.plot(y.mean(axis=0), color=f'C{i}', marker='o', label=arm)
        axes.set(title=title, xlabel='round', ylim=limits, xticks=range(y.shape[1]))
        axes.grid(alpha=0.3)
    found[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
