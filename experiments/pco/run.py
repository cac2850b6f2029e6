"""PCO on the tiny base: do pairs with a gated token contrast teach more than DPO, Cringe or SFT?

    python -m experiments.pco.run --folder=runs/pco_study

All arms see the same problems, sample as much, have the same fixed scorer and train on the pairs of
all rounds. Each has the learning rate that did best for it on a separate seed (--tune). A run that
is already in the folder is read, not repeated. Writes results.json and curve.png.
"""

import os

from absl import app, flags

from configs import pco
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2', '3', '4'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 4, 'Of each run.')
TUNE = flags.DEFINE_bool('tune', False, 'Instead, run each arm with each rate of GRID, seed 100.')

PROMPTS = 200  # so few that one round does not close the gap
SAMPLES = 4
GRID = 1e-6, 3e-6, 1e-5, 3e-5, 1e-4
RATES = {
    'pco': 1e-5,
    'dpo': 1e-5,  # iterative DPO, a new reference each round
    'cringe': 3e-6,  # binary: every right sample a positive, every wrong one a negative
    'sft_best': 3e-5,  # imitates the best sample of each pair
}
ARMS = flags.DEFINE_list('arms', list(RATES), 'Which to run.')


def config_of(arm: str, seed: int, rate: float) -> dict:
    """configs/pco.py with fewer prompts and another loss."""
    config: dict = pco.get_config().to_dict()
    config |= {'seed': seed, 'rounds': ROUNDS.value, 'keep_states': 1}
    turn = config['round']
    turn['prompts']['n'] = PROMPTS
    turn['sampler']['n'] = SAMPLES
    turn['train']['lr'] = rate
    if arm == 'dpo':
        turn['loss'] = {'name': 'dpo', 'beta': 0.1}
    elif arm == 'cringe':
        turn['pairs'] = {'name': 'singles', 'label_at': 0.5}
        turn['loss'] = {'name': 'cringe', 'alpha': 0.1, 'contrast': 5}
    elif arm == 'sft_best':
        turn['loss'] = {'name': 'sft', 'mean': 'token'}
    elif arm != 'pco':
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(RATES)}')
    accuracy = config['evals']['accuracy']
    config['evals']['best_of_4'] = {
        'name': 'exploration',
        'prompts': accuracy['prompts'] | {'n': 300},
        'sampler': dict(turn['sampler']),
        'scorer': accuracy['scorer'],
    }
    return config


def main(_):
    folder, arms = FOLDER.value, ARMS.value
    if TUNE.value:
        print(study.table(study.tune(folder, config_of, arms, GRID)))
        return
    seeds = map(int, SEEDS.value)
    runs = {(arm, seed): config_of(arm, seed, RATES[arm]) for seed in seeds for arm in arms}
    results = study.run(folder, runs)
    for arm in arms[1:]:
        print(f'{arms[0]} - {arm}:', '  '.join(study.difference(results, arms[0], arm)))
    print(study.table(results))
    print(study.table(results, 'best_of_4', seeds=False))
    print(study.table(results, 'best_of_4_score', seeds=False))
    panels = {
        'accuracy': ('held-out accuracy, greedy', (0, 1)),
        'best_of_4': ('best of 4 samples', (0, 1)),
        'best_of_4_distinct_answers': ('different answers among 4', (0, 1)),
    }
    study.plot(results, os.path.join(folder, 'curve.png'), panels)


if __name__ == '__main__':
    app.run(main)
