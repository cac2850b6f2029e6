"""How fast others are on the same workload: Tunix's DPO trainer and sampler, TRL's DPO trainer,
transformers' generate.

    python -m experiments.speed.peers --json=peers.json --only=tunix_dpo,tunix_sampler

On the CPU, in float32. Each peer runs in its own process, so that its peak memory can be measured.
It needs nothing of selfrew: run it in an environment that has the peer. A peer that is not
installed is skipped. The README says how the environments were made and what else was tried.
"""

import argparse
import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from typing import NamedTuple

from experiments.speed import workload
from experiments.speed.figures import versions


class Peer(NamedTuple):
    module: str  # of experiments.speed, with a function of the peer's name
    package: str  # that has to be installed
    install: str


PEERS = {
    'tunix_dpo': Peer('tunix_peers', 'tunix', 'pip install google-tunix'),
    'tunix_sampler': Peer('tunix_peers', 'tunix', 'pip install google-tunix'),
    'trl_dpo': Peer('trl_peer', 'trl', 'pip install trl and a CPU build of torch'),
    'transformers_generate': Peer(
        'transformers_peer', 'torch', 'pip install transformers and a CPU build of torch'
    ),
}
PACKAGES = (
    'google-tunix',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'trl',
    'transformers',
    'torch',
    'accelerate',
    'numpy',
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags, checked; exits with a message where one is wrong."""
    parser = argparse.ArgumentParser(
        prog='python -m experiments.speed.peers', allow_abbrev=False, description='Times the peers.'
    )
    positive = workload.positive
    add = parser.add_argument
    add('--json', help='where the figures go')
    add('--only', default=','.join(PEERS), help=f'of {", ".join(PEERS)}')
    add('--shape', default='default', choices=workload.SHAPES)
    add('--pairs', type=positive, default=16, help='of an update')
    add('--steps', type=positive, default=8, help='updates of a round')
    add('--rounds', type=positive, default=3, help='timed rounds, after one that warms up')
    add('--prompts', type=positive, default=16)
    add('--samples', type=positive, default=8, help='of a prompt')
    add('--max_tokens', type=positive, default=192, help='of a sample')
    add('--seed', type=int, default=0)
    add('--trl', type=json.loads, default={}, help='JSON: fields of DPOConfig that replace ours')
    add('--transformers', type=json.loads, default={}, help='JSON: more arguments of generate')
    add('--inside', action='store_true', help='run the one peer of --only in this process')
    options = parser.parse_args(argv)
    options.only = options.only.split(',')
    if unknown := [name for name in options.only if name not in PEERS]:
        parser.error(f'--only: no peer {unknown[0]!r}; there are: {", ".join(PEERS)}')
    if options.inside and (len(options.only) > 1 or not options.json):
        parser.error('--inside wants --json and a single --only')
    return options


def run_inside(options: argparse.Namespace) -> None:
    """Runs one peer in this process and writes its figures."""
    name = options.only[0]
    module = importlib.import_module(f'experiments.speed.{PEERS[name].module}')
    figures = getattr(module, name)(workload.SHAPES[options.shape], options)
    figures['peak_rss_gb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    figures['versions'], figures['flags'] = versions(PACKAGES), vars(options) | {'json': None}
    with open(options.json, 'w') as file:
        json.dump(figures, file)


def run_process(name: str) -> dict | None:
    """The figures of a peer that runs in a process of its own, or None where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'figures.json')
        # Of a flag that is given twice the last one counts.
        changes = ['--only', name, '--json', path, '--inside']
        command = [sys.executable, '-m', 'experiments.speed.peers', *sys.argv[1:], *changes]
        environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'TOKENIZERS_PARALLELISM': 'false'}
        if subprocess.run(command, env=environment).returncode:
            return None
        with open(path) as file:
            return json.load(file)


def main() -> None:
    options, results = parse(), {}
    if options.inside:
        run_inside(options)
        return
    for name in options.only:
        peer = PEERS[name]
        if importlib.util.find_spec(peer.package) is None:
            print(f'{name}: {peer.package} is not installed here; {peer.install}')
            continue
        figures = run_process(name)
        if figures is None:
            print(f'{name}: failed, see above')
            continue
        results[name] = figures
        step = f'{figures["step_s"]:.2f} s a step, ' if 'step_s' in figures else ''
        print(
            f'{name}: {figures["tokens_per_s"]:,.0f} real tokens/s '
            f'(best round {figures["tokens_per_s_best"]:,.0f}), {step}'
            f'peak memory {figures["peak_rss_gb"]:.2f} GB'
        )
    if options.json:
        with open(options.json, 'w') as file:
            json.dump(results, file, indent=2)


if __name__ == '__main__':
    main()
