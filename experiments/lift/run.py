"""LIFT on the tiny base: does training on limits of words make a model keep them, and what is lost?

    python -m experiments.lift.run --folder=runs/lift_study

All arms start from the same length-control SFT, see the same problems and sample as much. Each has
the learning rate that did best for it on a separate seed (--tune). A run that is already in the
folder is read, not repeated. Writes results.json and curve.png.
"""

import os

from absl import app, flags

from configs import lift
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Of each run; the first is the SFT.')
TUNE = flags.DEFINE_bool('tune', False, 'Instead, run each arm with each rate of GRID, seed 100.')

SCALES = 1.5, *lift.LIMITS  # of the flawless solution's words; 1.5 leaves room
GRID = 3e-5, 1e-4, 3e-4
RATES = {
    'lift': 3e-5,  # D ∪ D′
    'limits_only': 1e-4,  # D′ alone
    'dpo': 3e-5,  # D alone
    'r_dpo_0.01': 3e-5,  # D, with α of R-DPO in rewards a token
    'r_dpo_0.1': 3e-5,
}
ARMS = flags.DEFINE_list('arms', list(RATES), 'Which to run.')


def config_of(arm: str, seed: int, rate: float) -> dict:
    """configs/lift.py with one thing changed."""
    if arm not in RATES:
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(RATES)}')
    config: dict = lift.get_config().to_dict()
    config |= {'seed': seed, 'rounds': ROUNDS.value, 'keep_states': 1}
    turn = config['round']
    turn['train']['lr'] = rate
    if arm == 'limits_only':
        turn['pairs']['plain'] = False
    elif arm != 'lift':
        turn['pairs'] = turn['pairs']['pairs']
    if arm.startswith('r_dpo_'):
        turn['loss']['length'] = float(arm.removeprefix('r_dpo_'))
    config['evals']['accuracy']['prompts']['n'] = 500
    config['evals']['limits'] |= {'scales': SCALES}
    config['evals']['limits']['prompts']['n'] = 300
    return config


def by_scale(results: list[dict], arms: list[str], what: str) -> str:
    """The means over seeds of a figure at each scale, before and after, in Markdown."""
    last = max(row['round'] for row in results)
    lines = ['| arm | ' + ' | '.join(f'{scale:g}' for scale in SCALES) + ' |']
    lines.append('|---' * (1 + len(SCALES)) + '|')
    for arm, number in [('after SFT', 1), *((arm, last) for arm in arms)]:
        method = arms[0] if number == 1 else arm
        cells = []
        for scale in SCALES:
            values = study.series(results, method, f'limits_{what}/{scale:g}')[:, number]
            cells.append(f'{values.mean():.2f} ± {study.half_width(values):.2f}')
        lines.append(f'| {arm} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main(_):
    folder, arms = FOLDER.value, ARMS.value
    if TUNE.value:
        results = study.tune(folder, config_of, arms, GRID)
        print(study.table(results))
        print(study.table(results, 'limits_violations/0.5'))
        return
    seeds = map(int, SEEDS.value)
    runs = {(arm, seed): config_of(arm, seed, RATES[arm]) for seed in seeds for arm in arms}
    results = study.run(folder, runs)
    for key in ('accuracy', 'limits_violations/0.5', 'limits_wins/1.5'):
        for arm in arms[1:]:
            gains = '  '.join(study.difference(results, arms[0], arm, key))
            print(f'{key}, {arms[0]} - {arm}: {gains}')
    print(study.table(results))
    print(study.table(results, 'accuracy_length', seeds=False))
    for what in ('violations', 'wins', 'words'):
        print(f'\n{what}\n\n{by_scale(results, arms, what)}')
    panels = {
        'accuracy': ('accuracy without a limit', (0, 1)),
        'limits_violations/0.5': ('violations at half the words', (0, 1)),
        'limits_wins/1.5': ('wins, limit 1.5 times the words', (0, 0.5)),
    }
    study.plot(results, os.path.join(folder, 'curve.png'), panels)


if __name__ == '__main__':
    app.run(main)
