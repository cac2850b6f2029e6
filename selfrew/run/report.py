"""The report of a run, from the files in its folder: a table by round, summary.json, curve.png."""

import glob
import json
import os
from typing import Any

from selfrew.run.stage import json_bytes, write_atomic

# Key of a row, title, format.
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
    """A row for each evaluated round, in order; round 0 is the model before training.

    A row holds the numbers of the round's evaluations and turn.json; those of its rehearsal have
    the prefix 'rehearsal_'. 'seconds' is of both turns together.
    """
    rows = []
    for path in sorted(glob.glob(os.path.join(workdir, 'rounds', '*', 'evals.json'))):
        number = int(os.path.basename(os.path.dirname(path)).split('-')[0])
        row: dict[str, Any] = {'round': number}
        for suffix, prefix in (('', ''), ('-rehearsal', 'rehearsal_')):
            stats = os.path.join(workdir, 'rounds', f'{number:02d}{suffix}', 'turn.json')
            if os.path.exists(stats):
                row |= {prefix + name: value for name, value in _read_json(stats).items()}
        if 'seconds' in row:
            row['seconds'] += row.get('rehearsal_seconds', 0.0)
        for name, metrics in _read_json(path).items():
            row |= {name if k == 'value' else f'{name}_{k}': v for k, v in metrics.items()}
        rows.append(row)
    return rows


def _read_json(path: str) -> dict:
    with open(path) as file:
        return json.load(file)


def write_report(workdir: str) -> str:
    """Writes summary.json and, if there is an accuracy, curve.png; returns the table as text."""
    rows = read_rounds(workdir)
    write_atomic(os.path.join(workdir, 'summary.json'), json_bytes({'rounds': rows}))
    if any('accuracy' in row for row in rows):
        _plot_curve(rows, os.path.join(workdir, 'curve.png'))
    return table(rows)


def table(rows: list[dict]) -> str:
    """The rows as aligned text, with the columns that any row has."""
    columns = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    cells = [[title for _, title, _ in columns]]
    cells += [[_cell(row.get(key), form) for key, _, form in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return '\n'.join('  '.join(cell.rjust(w) for cell, w in zip(line, widths)) for line in cells)


def _cell(value, form: str) -> str:
    return '–' if value is None else form.format(value)


def _plot_curve(rows: list[dict], path: str) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 (takes half a second)

    rows = [row for row in rows if 'accuracy' in row]
    rounds = [row['round'] for row in rows]
    accuracy = [row['accuracy'] for row in rows]
    low, high = [row['accuracy_low'] for row in rows], [row['accuracy_high'] for row in rows]
    figure = Figure(figsize=(5, 3.5), layout='constrained')
    axes = figure.subplots()
    axes.fill_between(rounds, low, high, alpha=0.25, linewidth=0)
    axes.plot(rounds, accuracy, marker='o', label='held-out accuracy, 95 % interval')
    if all(row.get('judge') is not None for row in rows):
        judge = [row['judge'] for row in rows]
        label = 'judge, pairwise accuracy'
        axes.plot(rounds, judge, marker='s', linestyle='--', label=label)
    axes.set(xlabel='round', ylim=(0, 1), xticks=rounds)
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    figure.savefig(f'{path}.partial', format='png', dpi=120)
    os.replace(f'{path}.partial', path)
