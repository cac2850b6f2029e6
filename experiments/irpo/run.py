"""IRPO on the tiny base: what does its NLL term do, and what its moving reference, against STaR and
more SFT?

    python -m experiments.irpo.run --folder=runs/irpo_study

All arms that sample see the same problems and sample as much, each with the learning rate that did
best for it on a seed of its own (--tune). A run that is in the folder already is read, not
repeated. Writes results.json and curve.png.
"""

import os

from absl import app, flags

from configs import base, irpo
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 4, 'Of each run.')
TUNE = flags.DEFINE_bool(
    'tune', False, 'Run each arm on seed 100 with each learning rate of GRID instead.'
)

PROMPTS, PAIRS, TUNING = 200, 3, 100  # so few prompts that one round does not close the gap
GRID = 3e-6, 1e-5, 3e-5, 1e-4
RATES = {
    'irpo': 1e-5,
    'irpo_a1': 1e-5,
    'irpo_fixed': 1e-5,
    'dpo': 1e-5,
    'star': 1e-5,
    'sft_gold': 3e-5,
    'sft_lazy': 1e-4,
}
ARMS = flags.DEFINE_list('arms', list(RATES), 'Which to run.')


def config_of(arm: str, seed: int, rate: float) -> dict:
    """configs/irpo.py with one thing changed, and fewer prompts."""
    config = irpo.get_config().to_dict() | {'seed': seed, 'rounds': ROUNDS.value, 'keep_states': 1}
    turn = config['round']
    turn['prompts']['n'] = PROMPTS
    turn['pairs']['count'] = PAIRS
    if arm == 'irpo_a1':  # the paper's α
        turn['loss']['nll'] = 1.0
    elif arm == 'irpo_fixed':
        turn['train']['reference'] = 'base'
    elif arm == 'dpo':
        turn['loss']['nll'] = 0.0
    elif arm == 'star':
        turn['pairs'] = {'name': 'singles', 'at_least': 0.5, 'cap': PAIRS}
        turn['loss'] = {'name': 'sft', 'mean': 'sequence'}
    elif arm in ('sft_gold', 'sft_lazy'):
        config['round'] = base.imitate(base.ift(PROMPTS) | {'lazy': arm == 'sft_lazy'}, lr=rate)
        config['by_round'] = None
    elif arm != 'irpo':
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(RATES)}')
    config['round']['train']['lr'] = rate
    return config


def main(_):
    if TUNE.value:
        tried = {
            (f'{arm}@{rate:g}', TUNING): config_of(arm, TUNING, rate)
            for arm in ARMS.value
            for rate in GRID
        }
        print(study.table(study.run(FOLDER.value, tried)))
        return
    runs = {
        (arm, int(seed)): config_of(arm, int(seed), RATES[arm])
        for seed in SEEDS.value
        for arm in ARMS.value
    }
    results = study.run(FOLDER.value, runs)
    for arm in ARMS.value:
        print(f'{ARMS.value[0]} - {arm}:', '  '.join(study.difference(results, ARMS.value[0], arm)))
    print(study.table(results))
    study.plot(
        results,
        os.path.join(FOLDER.value, 'curve.png'),
        {
            'accuracy': ('held-out accuracy', (0, 1)),
            'last rewards/chosen': ('winners: β · (log-prob − reference)', None),
            'last rewards/rejected': ('losers: β · (log-prob − reference)', None),
        },
    )


if __name__ == '__main__':
    app.run(main)
