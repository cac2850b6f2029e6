"""Kills a run again and again, by signals and by kill -9, and compares its end with a whole run's.

    python -m experiments.mishaps.kill --folder=/tmp/mishaps --kills=100

Each start is a process of its own, killed at a random time, imports included. Prints how each
signal was answered, and whether the runs ended as one that was never killed.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time

SIGNALS = 'SIGINT', 'SIGTERM', 'SIGHUP', 'SIGKILL'
CODES = {'SIGINT': 130, 'SIGTERM': 143, 'SIGHUP': 129, 'SIGKILL': -9}
ARGUMENTS = (
    *('--config.rounds=3', '--config.round.prompts.n=32', '--config.round.train.epochs=30'),
    *('--config.round.train.batch=8', '--config.round.train.save_minutes=0.02', '--tensorboard=no'),
)
FIRST = 0.5  # seconds until a kill at least: before, Python itself is starting
# What of a line of metrics.jsonl depends on the clock, or on what one start did.
OF_A_START = {'time', 'seconds', 'compiled', 'compile_seconds', 'tokens_per_s', 'peak_gib'}
OF_A_START |= {'read_tokens', 'sampled_tokens'}


def start(workdir: str) -> subprocess.Popen:
    command = [sys.executable, '-m', 'selfrew', 'run', 'quickstart:smoke', f'--workdir={workdir}']
    with open(f'{workdir}.err', 'ab') as errors:
        return subprocess.Popen(
            [*command, *ARGUMENTS], stdout=subprocess.DEVNULL, stderr=errors, env=os.environ
        )


def results(workdir: str) -> dict[str, object]:
    """What two runs of one config have in common, by file."""
    files = {}
    for path in sorted(pathlib.Path(workdir, 'rounds').rglob('*.jsonl')):
        files[str(path.relative_to(workdir))] = path.read_bytes()
    for path in sorted(pathlib.Path(workdir, 'rounds').glob('*/evals.json')):
        files[str(path.relative_to(workdir))] = path.read_bytes()
    with open(f'{workdir}/metrics.jsonl') as file:
        rows = [json.loads(line) for line in file]
    files['metrics.jsonl'] = [
        {k: v for k, v in row.items() if k.rpartition('/')[2] not in OF_A_START} for row in rows
    ]
    return files


def same_parameters(workdir: str, other: str) -> bool:
    """Whether all saved parameters, and the optimiser's moments, are the same bit for bit."""
    import numpy as np  # noqa: PLC0415 (only the comparison needs these)
    import orbax.checkpoint as ocp  # noqa: PLC0415 (as above)

    leaves = []
    for folder in (workdir, other):
        for turn in ('01', '02', '03'):
            path = os.path.abspath(f'{folder}/rounds/{turn}/state')
            with ocp.PyTreeCheckpointer() as checkpointer:
                leaves.append(checkpointer.restore(path))
    import jax  # noqa: PLC0415 (as above)

    pairs = zip(leaves[:3], leaves[3:])
    equal = [jax.tree.map(np.array_equal, *pair) for pair in pairs]
    return all(jax.tree.leaves(equal))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', required=True, help='where the runs go')
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--longest', type=float, default=14.0, help='seconds until a kill')
    args = parser.parse_args()
    for name in CODES:
        if name != 'SIGKILL':  # a run respects signals that its parent ignores, as under nohup
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.makedirs(args.folder, exist_ok=True)
    whole = f'{args.folder}/whole'
    assert start(whole).wait() == 0, f'{whole}.err says why'
    rng, answers, seconds = random.Random(args.seed), collections.Counter(), []
    runs, ended = 1, []
    while sum(answers.values()) < args.kills:
        workdir, name = f'{args.folder}/killed{runs}', rng.choice(SIGNALS)
        process = start(workdir)
        try:
            process.wait(rng.uniform(FIRST, args.longest))
        except subprocess.TimeoutExpired:
            process.send_signal(getattr(signal, name))
            begun = time.monotonic()
            code = process.wait()
            seconds.append(time.monotonic() - begun)
            answers[name, 'as it should' if code == CODES[name] else f'status {code}'] += 1
            continue
        assert process.returncode == 0, f'{workdir}.err says why'
        ended.append(workdir)
        runs += 1
    if start(workdir).wait() == 0 and workdir not in ended:
        ended.append(workdir)
    expected = results(whole)
    alike = [results(e) == expected and same_parameters(e, whole) for e in ended]
    print(
        json.dumps(
            {
                'answers': {' '.join(key): n for key, n in sorted(answers.items())},
                'seconds to end': {'median': statistics.median(seconds), 'longest': max(seconds)},
                'runs': len(ended),
                'alike': sum(alike),
            },
            indent=2,
        )
    )


if __name__ == '__main__':
    main()
