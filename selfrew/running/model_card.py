"""The model card of an export: README.md with the base, the method, the config and the figures."""

import json
import os
import re

from selfrew.engine.run_files import turn_order
from selfrew.running import report

HUB_NAME = re.compile(r'[\w.-]+/[\w.-]+')
CACHED = re.compile(
    r'models--([\w.-]+?)--([\w.-]+)/snapshots/'
)  # in the path of a downloaded model


def base_name(folder: str) -> str:
    """The hub name of a downloaded model, or else the folder."""
    cached = CACHED.search(folder.replace(os.sep, '/'))
    return f'{cached[1]}/{cached[2]}' if cached else folder


def card(base: str, *, adapters: bool = False, body: str = '') -> str:
    """The text of README.md: what the hub reads, what the model came from, and `body`.

    base: folder or hub name of the model that training began with.
    """
    base = base_name(base)
    is_hub_name = HUB_NAME.fullmatch(base) is not None and not os.path.exists(base)
    head = ['---', f'library_name: {"peft" if adapters else "transformers"}']
    head += [f'base_model: {base}'] if is_hub_name else []
    head += ['tags:', '- selfrew', '---']
    what = 'LoRA adapters' if adapters else 'A language model'
    shown = base if is_hub_name else os.path.basename(os.path.normpath(base))
    lines = [
        *head,
        '',
        f'{what} trained with selfrew from `{shown}`, whose licence applies.',
        '',
        body,
    ]
    return '\n'.join(lines).rstrip() + '\n'


def of_run(workdir: str, config: dict, turn: str, *, adapters: bool = False) -> str:
    """The card of the model of a run's turn: how each turn is made, the figures, the config."""
    parts = [f'The model after turn {turn}. `config.json` of the run is at the end.']
    names = {'start': config.get('start'), 'round': config.get('round')}
    methods = [f'- {name}: {_method(entry)}' for name, entry in names.items() if entry]
    parts += ['## Method', '\n'.join(methods)]
    rows = [row for row in report.read_rounds(workdir) if row['round'] <= turn_order(turn)[0]]
    if rows:
        parts += ['## Figures', f'```\n{report.table(rows)}\n```']
    shown = json.dumps(config, indent=2)
    parts += ['## Config', f'```json\n{shown}\n```']
    base = config['model']['folder']
    return card(base, adapters=adapters, body='\n\n'.join(parts))


def _method(entry: dict) -> str:
    """The words of a turn, in the order of the loop."""
    keys = 'prompts', 'sampler', 'scorer', 'pairs', 'loss'
    return ' → '.join(str((entry.get(key) or {}).get('name')) for key in keys)
