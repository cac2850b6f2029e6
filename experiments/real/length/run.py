"""How long do SmolLM2's answers become, for a wanted length? A dose-response.

    python -m experiments.real.length.run --folder=runs/length --model=MODEL --data=DATA

MODEL and DATA as in experiments.real.instructions, whose prompts are asked, without constraints.
One round of DPO with adapters: of four answers to a prompt, the one whose length is nearest to the
target against the one that is farthest. All targets share a seed's samples. A run that is in the
folder is read, not repeated. Writes results.json, tests.json and curve.png.
"""

import json
import os

from absl import app, flags

from configs import base
from experiments import study
from experiments.real import figures, settings, sources

RATE = flags.DEFINE_float('rate', 5e-4, 'Learning rate.')

PROMPTS = 64
TARGETS = '8', '24', '48', '96'  # wanted lengths, in tokens; the arms
LONGEST = 128  # tokens of an answer
ASKED = 128  # held-out prompts


def config_of(target: int, seed: int) -> dict:
    """One round towards a target."""

    def asked(side: str, n: int) -> dict:
        source = os.path.join(settings.FOLDER.value, 'prompts', f'{side}.jsonl')
        return {'name': 'records', 'source': source, 'n': n}

    scorer = {'name': 'length', 'target': target}
    greedy = {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': LONGEST}
    heldout = {'name': 'mean_score', 'prompts': asked(settings.heldout(), ASKED), 'sampler': greedy}
    return base.get(
        seed=seed,
        rounds=1,
        keep_states=1,
        model=base.model() | settings.model(lora=16),
        round={
            'prompts': asked('train', settings.PROMPTS.value or PROMPTS),
            'sampler': {'name': 'sample', 'n': 4, 'temperature': 0.7, 'max_tokens': LONGEST},
            'scorer': scorer,
            'pairs': {'name': 'extremes'},
            'loss': {'name': 'dpo', 'beta': 0.1},
            'train': base.training(lr=RATE.value, batch=8, row_length=512, epochs=1, warmup=0.1),
            'max_unread': 1.0,
        },
        evals={'lengths': heldout | {'scorer': {'name': 'length'}}},
    ).to_dict()


def main(_):
    folder, seeds = settings.FOLDER.value, settings.seeds()
    targets = list(settings.ARMS.value or TARGETS)
    if wrong := [name for name in targets if not (name.isdigit() and 1 <= int(name) <= LONGEST)]:
        raise app.UsageError(f'--arms: {wrong[0]!r}: want lengths of 1 to {LONGEST} tokens')
    sources.write_instructions(os.path.join(folder, 'prompts'), settings.DATA.value)

    def extra_figures(workdir: str, number: int) -> dict:
        made = settings.untouched().fluency(figures.judgements(workdir, number, 'lengths'))
        return {f'lengths_{name}': value for name, value in made.items()}

    runs = {(target, seed): config_of(int(target), seed) for seed in seeds for target in targets}
    results = study.run(folder, runs, extra_figures, sources=dict.fromkeys(runs, targets[0]))
    print(json.dumps(figures.write_tests(folder, targets, seeds, ('lengths',), 1), indent=1))
    print(study.table(results, 'lengths'), study.table(results, 'lengths_cut'), sep='\n\n')
    panels = {'lengths': ('tokens', None), 'lengths_cut': (f'cut at {LONGEST}', (0, 1))}
    study.plot(results, os.path.join(folder, 'curve.png'), panels)


if __name__ == '__main__':
    settings.run_study(main)
