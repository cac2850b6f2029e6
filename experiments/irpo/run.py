"""IRPO on the tiny base: what do its NLL term and its moving reference do, compared with STaR and
more SFT?

    python -m experiments.irpo.run --folder=runs/irpo_study

All arms that sample see the same problems and sample as much. Each has the learning rate that did
best for it on a separate seed (--tune). A run that is already in the folder is read, not repeated.
Writes results.json and curve.png.
"""

import os

from absl import app, flags

from configs import base, irpo
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 4, 'Of each run.')
TUNE = flags.DEFINE_bool('tune', False, 'Instead, run each arm with each rate of GRID, seed 100.')

PROMPTS = 200  # so few that one round does not close the gap
PAIRS = 3
GRID = 3e-6, 1e-5, 3e-5, 1e-4
RATES = {
    'irpo': 1e-5,
    'irpo_a1': 1e-5,  # the paper's α
    'irpo_fixed': 1e-5,  # the reference stays at the base
    'dpo': 1e-5,
    'star': 1e-5,
    'sft_gold': 3e-5,
    'sft_lazy': 1e-4,
}
ARMS = flags.DEFINE_list('arms', list(RATES), 'Which to run.')


def config_of(arm: str, seed: int, rate: float) -> dict:
    """configs/irpo.py with one thing changed, and fewer prompts."""
    config: dict = irpo.get_config().to_dict()
    config |= {'seed': seed, 'rounds': ROUNDS.value, 'keep_states': 1}
    turn = config['round']
    turn['prompts']['n'] = PROMPTS
    turn['pairs']['count'] = PAIRS
    if arm == 'irpo_a1':
        turn['loss']['nll'] = 1.0
    elif arm == 'irpo_fixed':
        turn['train']['reference'] = 'base'
    elif arm == 'dpo':
        turn['loss']['nll'] = 0.0
    elif arm == 'star':
        turn['pairs'] = {'name': 'singles', 'at_least': 0.5, 'cap': PAIRS}
        turn['loss'] = {'name': 'sft', 'mean': 'sequence'}
    elif arm in ('sft_gold', 'sft_lazy'):
        demonstrations = base.ift(PROMPTS) | {'lazy': arm == 'sft_lazy'}
        config['round'] = base.imitation_turn(demonstrations, lr=rate)
        config['by_round'] = None
    elif arm != 'irpo':
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(RATES)}')
    config['round']['train']['lr'] = rate
    return config


def main(_):
    folder, arms = FOLDER.value, ARMS.value
    if TUNE.value:
        print(study.table(study.tune(folder, config_of, arms, GRID)))
        return
    seeds = map(int, SEEDS.value)
    runs = {(arm, seed): config_of(arm, seed, RATES[arm]) for seed in seeds for arm in arms}
    results = study.run(folder, runs)
    for arm in arms:
        print(f'{arms[0]} - {arm}:', '  '.join(study.difference(results, arms[0], arm)))
    print(study.table(results))
    panels = {
        'accuracy': ('held-out accuracy', (0, 1)),
        'last rewards/chosen': ('winners: β · (log-prob − reference)', None),
        'last rewards/rejected': ('losers: β · (log-prob − reference)', None),
    }
    study.plot(results, os.path.join(folder, 'curve.png'), panels)


if __name__ == '__main__':
    app.run(main)
