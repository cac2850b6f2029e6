"""SELM on the tiny base: does its term make a model explore more, and is the model better for it?

    python -m experiments.selm.run --folder=runs/selm_study

SELM with several α against iterative DPO (α = 0), which is the same run without the term: the same
problems, four samples and the greedy response of each, and the best and the worst of the five as a
pair. Each arm has the learning rate that did best for it on a separate seed (--tune). A run that is
already in the folder is read, not repeated. Writes results.json and curve.png.
"""

import os

from absl import app, flags

from configs import selm
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2', '3', '4'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Of each run.')
TUNE = flags.DEFINE_bool('tune', False, 'Instead, run each arm with each rate of GRID, seed 100.')

PROMPTS = 300  # so few that one round does not close the gap
GRID = 1e-5, 3e-5, 1e-4
ALPHA = {'dpo': 0.0, 'selm_0.001': 0.001, 'selm_0.01': 0.01, 'selm_0.1': 0.1, 'selm_1': 1.0}
RATES = {'dpo': 3e-5, 'selm_0.001': 3e-5, 'selm_0.01': 3e-5, 'selm_0.1': 3e-5, 'selm_1': 3e-5}
ARMS = flags.DEFINE_list('arms', list(ALPHA), 'Which to run, dpo among them.')
# Of four samples for each of 300 held-out problems.
MEASURES = (
    'exploration',
    'exploration_best_score',
    'exploration_score',
    'exploration_distinct_answers',
    'exploration_distinct_1',
    'exploration_distinct_2',
    'exploration_distinct_3',
    'exploration_entropy',
)


def config_of(arm: str, seed: int, rate: float) -> dict:
    """configs/selm.py with another α, one learning rate in all rounds, and fewer prompts."""
    if arm not in ALPHA:
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(ALPHA)}')
    config: dict = selm.get_config().to_dict()
    config |= {'seed': seed, 'rounds': ROUNDS.value, 'keep_states': 1, 'by_round': None}
    turn = config['round']
    turn['prompts']['n'] = PROMPTS
    turn['loss']['explore'] = ALPHA[arm]
    turn['train']['lr'] = rate
    return config


def main(_):
    folder, arms = FOLDER.value, ARMS.value
    if TUNE.value:
        print(study.table(study.tune(folder, config_of, arms, GRID)))
        return
    seeds = map(int, SEEDS.value)
    runs = {(arm, seed): config_of(arm, seed, RATES[arm]) for seed in seeds for arm in arms}
    results = study.run(folder, runs)
    print(study.table(results))
    for key in MEASURES:
        print(f'\n{key}\n{study.table(results, key, seeds=False)}')
    for key in ('accuracy', *MEASURES):
        for arm in arms:
            if arm != 'dpo':
                print(f'{key}, {arm} - dpo:', '  '.join(study.difference(results, arm, 'dpo', key)))
    panels = {
        'accuracy': ('held-out accuracy, greedy', (0, 1)),
        'exploration': ('any of 4 samples is right', (0, 1)),
        'exploration_distinct_answers': ('different answers among 4', (0, 1)),
        'exploration_entropy': ('entropy, nats a token', None),
    }
    study.plot(results, os.path.join(folder, 'curve.png'), panels)


if __name__ == '__main__':
    app.run(main)
