"""Self-Rewarding on the tiny base, M1 to M4: do answers and judging improve, and against which
controls?

    python -m experiments.self_rewarding.run --folder=runs/self_rewarding_study

Only `perfect` and `sft_gold` are shown ground truth. All arms start from the base and see the same
prompts. A run that is already in the folder is read, not repeated. Writes results.json and
curve.png.
"""

import os

from absl import app, flags

from configs import base, self_rewarding
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 4, 'M1, by imitation, is the first.')
TUNE = flags.DEFINE_bool('tune', False, 'Instead, run each arm with each rate of GRID, seed 100.')

PROMPTS, SEED_DATA = 300, 300
START_RATE = 1e-4  # of M1, for all arms
GRID = 3e-6, 1e-5, 3e-5
RATES = {
    # IFT + EFT, then pairs that the model judges itself; EFT again after each round.
    'self_rewarding': 3e-5,
    'no_rehearsal': 3e-5,
    'ift_only': 3e-5,  # no EFT at the start, and none later
    'sft_best': 3e-5,  # imitates the responses it scores highest, instead of pairs
    'chance': 3e-5,  # a judge with random scores
    'perfect': 3e-5,  # a judge with the true scores
    'sft_gold': 3e-5,  # imitates flawless solutions, as many as there are prompts
}
ARMS = flags.DEFINE_list('arms', list(RATES), 'Which to run.')


def config_of(arm: str, seed: int, rate: float) -> dict:
    """configs/self_rewarding.py with fewer prompts and one thing changed."""
    if arm not in RATES:
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(RATES)}')
    config: dict = self_rewarding.get_config().to_dict()
    config |= {'seed': seed, 'rounds': ROUNDS.value, 'keep_states': 1}
    ift, eft = base.ift(SEED_DATA), base.eft(SEED_DATA)
    seed_data = [ift] if arm == 'ift_only' else [ift, eft]
    config['start'] = base.imitation_turn(*seed_data, lr=START_RATE)
    turn = config['round']
    turn['prompts']['n'] = PROMPTS
    turn['rehearsal'] = {'every': 1, **base.imitation_turn(eft, lr=rate)}
    if arm in ('no_rehearsal', 'ift_only'):
        turn['rehearsal']['every'] = 0
    elif arm == 'sft_best':
        turn['pairs'] = {'name': 'singles', 'at_least': 5.0, 'cap': 1}
        turn['loss'] = {'name': 'sft', 'mean': 'sequence'}
    elif arm == 'chance':
        turn['scorer'] = {'name': 'chance'}
    elif arm == 'perfect':
        turn['prompts']['answers'] = True
        turn['scorer'] = {'name': 'exact_answer'}
    elif arm == 'sft_gold':
        turn |= base.imitation_turn(base.ift(PROMPTS) | {'lazy': False}, lr=rate)
    turn['train']['lr'] = rate
    return config


def main(_):
    folder, arms = FOLDER.value, ARMS.value
    if TUNE.value:
        results = study.tune(folder, config_of, arms, GRID)
    else:
        seeds = map(int, SEEDS.value)
        runs = {(arm, seed): config_of(arm, seed, RATES[arm]) for seed in seeds for arm in arms}
        results = study.run(folder, runs)
        for key in ('accuracy', 'judge'):
            for arm in arms:
                gains = study.difference(results, arms[0], arm, key)
                print(f'{key}, {arms[0]} - {arm}:', '  '.join(gains))
    for key in ('accuracy', 'judge'):
        print(f'\n{key}\n{study.table(results, key)}')
    panels = {
        'accuracy': ('held-out accuracy', (0, 1)),
        'judge': ('judge: pairwise accuracy, ties wrong', (0.4, 1)),
        'judge_spearman': ('judge: rank correlation', (0, 1)),
    }
    study.plot(results, os.path.join(folder, 'curve.png'), panels)


if __name__ == '__main__':
    app.run(main)
