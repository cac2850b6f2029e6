"""Self-Rewarding on the tiny base, M1 to M4: do answers and judging improve, and against which
controls?

    python -m experiments.self_rewarding.run --folder=runs/self_rewarding_study

No arm but `perfect` and `sft_gold` is shown any truth. All start from the base and see the same
prompts. A run that is in the folder already is read, not repeated. Writes results.json and
curve.png.
"""

import os

from absl import app, flags

from configs import base, self_rewarding
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 4, 'M1, by imitation, is the first.')
TUNE = flags.DEFINE_bool(
    'tune', False, 'Run each arm on seed 100 with each learning rate of GRID instead.'
)

PROMPTS, SEED_DATA, TUNING = 300, 300, 100
START = 1e-4  # of M1, for all
GRID = 3e-6, 1e-5, 3e-5
RATES = {
    'self_rewarding': 3e-5,  # IFT + EFT, then pairs that the model judges itself; EFT again after each round
    'no_rehearsal': 3e-5,
    'ift_only': 3e-5,  # no EFT at the start, and none after
    'sft_best': 3e-5,  # imitates what it scores highest, instead of pairs
    'chance': 3e-5,  # a judge that draws lots
    'perfect': 3e-5,  # a judge that knows
    'sft_gold': 3e-5,  # imitates flawless solutions, of which the judge's data have as many
}
ARMS = flags.DEFINE_list('arms', list(RATES), 'Which to run.')


def config_of(arm: str, seed: int, rate: float) -> dict:
    """configs/self_rewarding.py with fewer prompts and one thing changed."""
    if arm not in RATES:
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(RATES)}')
    config = self_rewarding.get_config().to_dict() | {
        'seed': seed,
        'rounds': ROUNDS.value,
        'keep_states': 1,
    }
    eft = base.eft(SEED_DATA)
    config['start'] = base.imitate(
        base.ift(SEED_DATA), *([] if arm == 'ift_only' else [eft]), lr=START
    )
    turn = config['round']
    turn['prompts']['n'] = PROMPTS
    turn['rehearsal'] = {'every': 1, **base.imitate(eft, lr=rate)}
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
        turn |= base.imitate(base.ift(PROMPTS) | {'lazy': False}, lr=rate)
    turn['train']['lr'] = rate
    return config


def main(_):
    if TUNE.value:
        tried = {
            (f'{arm}@{rate:g}', TUNING): config_of(arm, TUNING, rate)
            for arm in ARMS.value
            for rate in GRID
        }
        results = study.run(FOLDER.value, tried)
    else:
        runs = {
            (arm, int(seed)): config_of(arm, int(seed), RATES[arm])
            for seed in SEEDS.value
            for arm in ARMS.value
        }
        results = study.run(FOLDER.value, runs)
        for key in ('accuracy', 'judge'):
            for arm in ARMS.value:
                print(
                    f'{key}, {ARMS.value[0]} - {arm}:',
                    '  '.join(study.difference(results, ARMS.value[0], arm, key)),
                )
    for key in ('accuracy', 'judge'):
        print(f'\n{key}\n{study.table(results, key)}')
    study.plot(
        results,
        os.path.join(FOLDER.value, 'curve.png'),
        {
            'accuracy': ('held-out accuracy', (0, 1)),
            'judge': ('judge: pairwise accuracy, ties wrong', (0.4, 1)),
            'judge_spearman': ('judge: rank correlation', (0, 1)),
        },
    )


if __name__ == '__main__':
    app.run(main)
