"""Verifies the files of a run: what is finished, and whether it is as it was written.

    python -m selfrew.check runs/quickstart

It reads everything and changes nothing. The exit status is 1 where something is damaged.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator

from selfrew.engine import run_files
from selfrew.running import inputs, lock, metrics_log, refusal, report
from selfrew.running.stage import Folder

STATES = 'state', 'update/'  # entries of a manifest that are states, or begin so


def verify(workdir: str) -> tuple[list[str], list[str]]:
    """(what the run has, a line for each turn; what is damaged, each with the file and what to do).

    Raises ValueError if the folder is no run.
    """
    if not os.path.isfile(os.path.join(workdir, 'config.json')):
        raise ValueError(f'{workdir!r} is not a run: it has no config.json')
    problems = [p for p in map(_json_problem, _json_files(workdir)) if p]
    problems += _changed_inputs(workdir)
    lines, rounds = [], os.path.join(workdir, 'rounds')
    names = os.listdir(rounds) if os.path.isdir(rounds) else []
    for name in sorted(names, key=run_files.turn_order):
        for folder_name in (name, *_joined(os.path.join(rounds, name), name)):
            line, damaged = _verify_turn(workdir, folder_name)
            lines.append(line)
            problems += damaged
    metrics = os.path.join(workdir, 'metrics.jsonl')
    if os.path.exists(metrics):
        with open(metrics, 'rb') as file:
            lost = sum(1 for _ in file) - len(metrics_log.read_rows(metrics))
        if lost:
            problems.append(f'{metrics}: {lost} lines cannot be read; they are left out')
    return lines, problems


def _joined(path: str, name: str) -> list[str]:
    """The pipelines that are joined to a turn."""
    folders = sorted(os.listdir(path)) if os.path.isdir(path) else []
    is_joined = [os.path.isfile(os.path.join(path, f, 'manifest.json')) for f in folders]
    return [f'{name}/{folder}' for folder, joined in zip(folders, is_joined) if joined]


def _json_files(workdir: str) -> Iterator[str]:
    names = 'config.json', 'started.json', 'inputs.json', 'summary.json', 'status.json'
    yield from (path for n in names if os.path.exists(path := os.path.join(workdir, n)))


def _json_problem(path: str) -> str | None:
    try:
        run_files.read_json(path, run_files.PUT_BACK)
    except (ValueError, OSError) as problem:
        return str(problem)
    return None


def _changed_inputs(workdir: str) -> list[str]:
    """The files that the run was made of and that are not what they were."""
    try:
        with open(os.path.join(workdir, 'config.json'), encoding='utf-8') as file:
            return inputs.changes(workdir, json.load(file))
    except (ValueError, OSError):  # told of already
        return []


def _verify_turn(workdir: str, name: str) -> tuple[str, list[str]]:
    """(what a turn has, what of it is damaged)."""
    try:
        folder = Folder(workdir, name)
    except (ValueError, OSError) as problem:
        return f'{name}: its manifest cannot be read', [str(problem)]
    problems = []
    for entry, about in folder.manifest.items():
        if entry.startswith(STATES):
            path = os.path.join(folder.path, entry)
            if problem := run_files.damage(path, about.get('files')):
                problems.append(f'{problem}; {run_files.MAKE_AGAIN}')
        elif entry == 'evals':
            if not folder.has_json('evals'):
                path = os.path.join(folder.path, 'evals.json')
                problems.append(f'{path} was changed after it was written; {report.AGAIN}')
        else:
            try:
                folder.read_stage(entry)
            except (ValueError, OSError) as problem:
                problems.append(str(problem))
    turn = os.path.join(folder.path, 'turn.json')
    if os.path.exists(turn) and (problem := _json_problem(turn)):
        problems.append(problem)
    finished = ', '.join(folder.manifest) or 'nothing is finished'
    step = folder.manifest.get('state', {}).get('step')
    return f'{name}: {finished}' + (f' (step {step})' if step is not None else ''), problems


def _how_it_stands(workdir: str) -> str:
    """How the run ended, or that it goes on, in words."""
    owner = lock.living_owner(workdir)
    if owner:
        return f'it is running: {owner}'
    path = os.path.join(workdir, 'status.json')
    try:
        about = run_files.read_json(path, '')
    except (ValueError, OSError):
        return 'how it ended is not known'
    error = f': {about["error"]}' if about.get('error') else ''
    state = about.get('state')
    state = 'killed' if state == 'running' else state
    if state == 'finished':
        return f'it is finished, {about.get("updated")}'
    where = f'in turn {about.get("turn")}, {about.get("stage")}'
    return f'it was {state} {where}, {about.get("updated")}{error}'


def _run_of_arguments(command: str, about: str) -> str:
    """The run that the command line names."""
    parser = argparse.ArgumentParser(prog=command, description=about)
    parser.add_argument('workdir', help='the run')
    return parser.parse_args().workdir


def main() -> None:
    """The command; on a mistake, exits with status 1 and a message."""
    workdir = _run_of_arguments('selfrew check', 'Verifies the files of a run; changes nothing.')
    try:
        lines, problems = verify(workdir)
    except refusal.MISTAKES as problem:
        refusal.exit_with(problem)
    print('\n'.join(lines))
    print(_how_it_stands(workdir))
    for problem in problems:
        print(f'damaged: {problem}')
    print(f'{len(problems)} damaged' if problems else 'all files are as they were written')
    sys.exit(1 if problems else 0)


def report_main() -> None:
    """The command `selfrew report`: the table of a run, and how it ended."""
    about = 'Prints the table of a run, and how it ended.'
    workdir = _run_of_arguments('selfrew report', about)
    try:
        if not os.path.isdir(os.path.join(workdir, 'rounds')):
            raise ValueError(f'{workdir!r} is not a run: it has no rounds')
        print(report.table(report.read_rounds(workdir)))
        print(f'\n{workdir}: {_how_it_stands(workdir)}')
    except refusal.MISTAKES as problem:
        refusal.exit_with(problem)


if __name__ == '__main__':
    main()
