"""The plot of reward against KL, and its numbers as a table."""

import numpy as np
from matplotlib.figure import Figure

CLASSICAL = 'best-of-n', 'tilted (ceiling)', 'best-of-n, first of ties'


def _methods(results: list[dict], task: str) -> list[str]:
    return list(dict.fromkeys(r['method'] for r in results if r['task'] == task and 'reward' in r))


def mean_points(results: list[dict], task: str, method: str) -> list[dict]:
    """Means over seeds of each knob (and β) of a method, with the spread over seeds."""
    rows = [r for r in results if r['task'] == task and r['method'] == method and 'reward' in r]
    points = []
    for setting in dict.fromkeys((r.get('beta'), r['knob']) for r in rows):
        own = [r for r in rows if (r.get('beta'), r['knob']) == setting]
        point = {
            'beta': setting[0],
            'knob': setting[1],
            'seeds': len(own),
            'kl_kind': own[0]['kl_kind'],
        }
        for name in ('reward', 'win_rate', 'kl', 'ceiling', 'samples'):
            values = [r[name] for r in own if r.get(name) is not None]
            if values:
                point[name] = float(np.mean(values))
                point[f'{name}_sd'] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        points.append(point)
    return points


def table(results: list[dict]) -> str:
    """Markdown: means over seeds, ± a standard deviation over seeds."""
    lines = [
        '| task | method | β | knob | reward | win rate | KL | kind | ceiling − reward |',
        '|---' * 9 + '|',
    ]
    for task in dict.fromkeys(r['task'] for r in results):
        for method in _methods(results, task):
            for p in mean_points(results, task, method):
                gap = p['ceiling'] - p['reward'] if 'ceiling' in p else float('nan')
                cells = [
                    task,
                    method,
                    '' if p['beta'] is None else f'{p["beta"]:g}',
                    f'{p["knob"]:g}',
                    *(
                        f'{p[name]:.3f} ± {p[f"{name}_sd"]:.3f}' if name in p else '–'
                        for name in ('reward', 'win_rate', 'kl')
                    ),
                    p['kl_kind'],
                    f'{gap:.3f}',
                ]
                lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def plot(results: list[dict], path: str) -> None:
    """A panel for each task: means over seeds, bars of one standard deviation."""
    tasks = list(dict.fromkeys(r['task'] for r in results))
    plane = Figure(figsize=(9 * len(tasks), 6), layout='constrained')
    for axes, task in zip(np.atleast_1d(plane.subplots(1, len(tasks))), tasks):
        methods = [m for m in _methods(results, task) if 'M=' not in m and m != 'base']
        for i, method in enumerate(methods):
            points = mean_points(results, task, method)
            for beta in dict.fromkeys(p['beta'] for p in points):
                own = sorted((p for p in points if p['beta'] == beta), key=lambda p: p['kl'])
                label = method if beta is None else f'{method}, β={beta:g}'
                is_bound = own[0]['kl_kind'] == 'bound'
                style = {'linestyle': '--' if is_bound else '-', 'color': f'C{i % 10}'}
                style |= {'marker': 'osv^DPX*<>'[i % 10], 'markersize': 4, 'linewidth': 1.0}
                if method in CLASSICAL:
                    style |= {'color': 'black', 'linewidth': 2.0}
                    style |= {'linestyle': ('-', ':', '-.')[CLASSICAL.index(method)]}
                axes.errorbar(
                    [p['kl'] for p in own],
                    [p['reward'] for p in own],
                    yerr=[p['reward_sd'] for p in own],
                    label=label + (' (KL: a bound)' if is_bound else ''),
                    **style,
                )
        axes.set_xlim(-0.2, 10)
        axes.set_xlabel('KL from the base, nats a response')
        axes.set_ylabel('expected reward')
        axes.set_title(task)
        axes.legend(fontsize=6, loc='upper left', bbox_to_anchor=(1.0, 1.0))
        axes.grid(alpha=0.3)
    plane.savefig(path, dpi=110)
