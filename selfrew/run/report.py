"""A run, read back from its folder: a table by round, summary.json and curve.png. Layer 7."""

import glob
import json
import os

from selfrew.run.stage import dump, write_atomic

COLUMNS = (
    ('round', 'round', '{:d}'),
    ('accuracy', 'accuracy', '{:.3f}'),
    ('accuracy_low', 'from', '{:.3f}'),
    ('accuracy_high', 'to', '{:.3f}'),
    ('judge', 'judge', '{:.3f}'),
    ('accuracy_length', 'length', '{:.1f}'),
    ('pairs', 'pairs', '{:d}'),
    ('ties', 'ties', '{:.2f}'),
    ('parse_failures', 'unparsed', '{:.3f}'),
    ('gap', 'gap', '{:.0e}'),
    ('seconds', 'seconds', '{:.0f}'),
    ('tokens_per_s', 'tokens/s', '{:,.0f}'),
)


def read_rounds(workdir: str) -> list[dict]:
    """A dict for each finished round, round 0 the model as it came: evaluation, and the counts of
    its first turn.
    """
    out = []
    for path in sorted(glob.glob(os.path.join(workdir, 'rounds', '*', 'evals.json'))):
        with open(path) as file:
            found = json.load(file)
        row = {'round': int(os.path.basename(os.path.dirname(path)).split('-')[0])}
        for name, prefix in (('', ''), ('-rehearsal', 'rehearsal_')):
            turn = os.path.join(workdir, 'rounds', f'{row["round"]:02d}{name}', 'turn.json')
            if os.path.exists(turn):
                with open(turn) as file:
                    row |= {prefix + k: v for k, v in json.load(file).items()}
        if 'seconds' in row:
            row['seconds'] += row.get('rehearsal_seconds', 0.0)
        for name, metrics in found.items():
            row |= {name if k == 'value' else f'{name}_{k}': v for k, v in metrics.items()}
        out.append(row)
    return out


def write_report(workdir: str) -> str:
    """Writes summary.json and, where there is an accuracy, curve.png; returns the table as text."""
    rows = read_rounds(workdir)
    write_atomic(os.path.join(workdir, 'summary.json'), dump({'rounds': rows}))
    if any('accuracy' in row for row in rows):
        _curve(rows, os.path.join(workdir, 'curve.png'))
    return table(rows)


def table(rows: list[dict]) -> str:
    """The columns that any row has, as aligned text."""
    columns = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    cells = [[title for _, title, _ in columns]]
    for row in rows:
        cells.append(
            ['–' if row.get(key) is None else form.format(row[key]) for key, _, form in columns]
        )
    widths = [max(map(len, column)) for column in zip(*cells)]
    return '\n'.join('  '.join(cell.rjust(w) for cell, w in zip(line, widths)) for line in cells)


def _curve(rows: list[dict], path: str) -> None:
    import matplotlib  # slow to import

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    rows = [row for row in rows if 'accuracy' in row]
    x, y = [row['round'] for row in rows], [row['accuracy'] for row in rows]
    figure, axes = plt.subplots(figsize=(5, 3.5), layout='constrained')
    axes.fill_between(
        x,
        [r['accuracy_low'] for r in rows],
        [r['accuracy_high'] for r in rows],
        alpha=0.25,
        linewidth=0,
    )
    axes.plot(x, y, marker='o', label='held-out accuracy, 95 % interval')
    if all(row.get('judge') is not None for row in rows):
        axes.plot(
            x,
            [row['judge'] for row in rows],
            marker='s',
            linestyle='--',
            label='judge, pairwise accuracy',
        )
    axes.set(xlabel='round', ylim=(0, 1), xticks=x)
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    figure.savefig(f'{path}.partial', format='png', dpi=120)
    plt.close(figure)
    os.replace(f'{path}.partial', path)
