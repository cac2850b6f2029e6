"""The report of a run, from the files in its folder: a table by round, summary.json, curve.png."""

import contextlib
import glob
import io
import math
import os
from typing import Any

from selfrew.engine.run_files import read_json, turn_order, write_atomic
from selfrew.running.stage import json_bytes

# Columns of what a turn counts: key of a row, title, format.
TURN_COLUMNS = (
    ('pairs', 'pairs', '{:d}'),
    ('ties', 'ties', '{:.2f}'),
    ('parse_failures', 'unparsed', '{:.3f}'),
    ('gap', 'gap', '{:.0e}'),
    ('seconds', 'seconds', '{:.0f}'),
    ('tokens_per_s', 'tokens/s', '{:,.0f}'),
)
# Evaluations that come first in the table where a config has them.
FIRST_EVALUATIONS = 'accuracy', 'judge'
# Those of them that the table shows without interval; summary.json and curve.png have it.
WITHOUT_INTERVAL = ('judge',)
# What to do about a damaged file.
LEAVE_OUT = 'delete it: its numbers are then left out'
AGAIN = "start the run's command again: it evaluates anew"


def read_rounds(workdir: str) -> list[dict]:
    """A row for each evaluated round, in order; round 0 is the model before training.

    A row holds the numbers of the round's evaluations and turn.json; those of its rehearsal have
    the prefix 'rehearsal_'. 'seconds' is of both turns together.
    """
    rows = []
    paths = glob.glob(os.path.join(glob.escape(workdir), 'rounds', '*', 'evals.json'))
    folder_of = {os.path.basename(os.path.dirname(path)): path for path in paths}
    for name in sorted(folder_of, key=turn_order):
        path, (number, _) = folder_of[name], turn_order(name)
        row: dict[str, Any] = {'round': number}
        for suffix, prefix in (('', ''), ('-rehearsal', 'rehearsal_')):
            stats = os.path.join(workdir, 'rounds', f'{number:02d}{suffix}', 'turn.json')
            if os.path.exists(stats):
                row |= {prefix + name: value for name, value in read_json(stats, LEAVE_OUT).items()}
        if 'seconds' in row:
            row['seconds'] += row.get('rehearsal_seconds', 0.0)
        for name, metrics in read_json(path, AGAIN).items():
            row |= {name if k == 'value' else f'{name}_{k}': v for k, v in metrics.items()}
        rows.append(row)
    return rows


def evaluation_names(rows: list[dict]) -> list[str]:
    """The evaluations of the rows: accuracy, judge, then the others as the config has them.

    In a row, an evaluation has its value under its name, and the bounds of its interval.
    """
    names = {}
    for row in rows:
        names |= {name: None for name in row if f'{name}_low' in row and f'{name}_high' in row}
    return sorted(names, key=lambda name: (*(name != first for first in FIRST_EVALUATIONS),))


def write_report(workdir: str, end: dict | None = None) -> str:
    """Writes summary.json and, if there is an evaluation, curve.png; returns the table as text.

    end: how the run ended, or that it goes on: state, reason, time.
    """
    rows = read_rounds(workdir)
    summary = {'rounds': rows} | ({'end': end} if end else {})
    write_atomic(os.path.join(workdir, 'summary.json'), json_bytes(summary))
    if evaluation_names(rows):
        plot_curves(rows, os.path.join(workdir, 'curve.png'))
    return table(rows)


def write_if_possible(workdir: str) -> str:
    """The table of a finished run; the files of its report, where the disk can be written."""
    with contextlib.suppress(OSError):
        write_report(workdir, {'state': 'finished', 'reason': None})
    return table(read_rounds(workdir))


def table(rows: list[dict]) -> str:
    """The rows as aligned text: each evaluation with its interval, the mean length of responses of
    the first that has one, and what was counted in the turn; without columns that no row has.
    """
    columns = [c for c in _columns(rows) if any(row.get(c[0]) is not None for row in rows)]
    cells = [[title for _, title, _ in columns]]
    cells += [[_cell(row.get(key), form) for key, _, form in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return '\n'.join('  '.join(cell.rjust(w) for cell, w in zip(line, widths)) for line in cells)


def _columns(rows: list[dict]) -> list[tuple[str, str, str]]:
    """Key of a row, title and format of each column that the table may have."""
    columns, names = [('round', 'round', '{:d}')], evaluation_names(rows)
    for name in names:
        form = _form([row.get(name) for row in rows])
        columns.append((name, name, form))
        if name not in WITHOUT_INTERVAL:
            columns += [(f'{name}_low', 'from', form), (f'{name}_high', 'to', form)]
    lengths = [f'{name}_length' for name in names if any(f'{name}_length' in row for row in rows)]
    return columns + [(length, 'length', '{:.1f}') for length in lengths[:1]] + [*TURN_COLUMNS]


def _form(values) -> str:
    """The format of an evaluation's values: three decimals, fewer where they reach 100."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return '{:.3f}' if largest < 100 else '{:.1f}'


def _cell(value, form: str) -> str:
    return '–' if value is None else form.format(value)


def curve_groups(rows: list[dict]) -> list[list[str]]:
    """The evaluations on each axes of curve.png: all that lie in [0, 1] on one, each other alone.

    One without any value is left out.
    """
    names = [name for name in evaluation_names(rows) if _known(rows, name)]
    shares = [name for name in names if _is_share(rows, name)]
    return ([shares] if shares else []) + [[name] for name in names if name not in shares]


def _known(rows: list[dict], name: str) -> list[float]:
    """The values and bounds of an evaluation that are numbers."""
    values = [row.get(key) for row in rows for key in (name, f'{name}_low', f'{name}_high')]
    return [value for value in values if value is not None]


def _is_share(rows: list[dict], name: str) -> bool:
    return all(0 <= value <= 1 for value in _known(rows, name))


def plot_curves(rows: list[dict], path: str) -> None:
    """Draws each evaluation of the rows by round, with its interval, as a PNG file."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (takes half a second)

    groups = curve_groups(rows)
    figure = Figure(figsize=(5, 3.5 * max(len(groups), 1)), layout='constrained')
    panels = figure.subplots(max(len(groups), 1), squeeze=False)[:, 0]
    for axes, names in zip(panels, groups):
        for name in names:
            _plot_curve(axes, rows, name)
        axes.set(xlabel='round', xticks=[row['round'] for row in rows])
        if _is_share(rows, names[0]):
            axes.set(ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(loc='best')
    image = io.BytesIO()
    figure.savefig(image, format='png', dpi=120)
    write_atomic(path, image.getvalue())


def _plot_curve(axes, rows: list[dict], name: str) -> None:
    """Draws an evaluation by round, with its interval where it has one."""

    def column(key: str) -> list[float]:
        return [math.nan if row.get(key) is None else row[key] for row in rows]

    rounds, low, high = column('round'), column(f'{name}_low'), column(f'{name}_high')
    label = name if all(map(math.isnan, low)) else f'{name}, 95 % interval'
    (line,) = axes.plot(rounds, column(name), marker='o', label=label)
    axes.fill_between(rounds, low, high, alpha=0.2, linewidth=0, color=line.get_color())
    axes.vlines(rounds, low, high, alpha=0.5, color=line.get_color())
