"""Does the quickstart improve, and by what? Self-Rewarding with DPO + NLL against plain DPO and SFT
on winners.

    python -m experiments.quickstart.run --folder=runs/quickstart_study

All arms judge themselves, see the same prompts, sample as much and rehearse alike; only the loss
and its pairs differ. A run that is in the folder already is read, not repeated. Writes results.json
and curve.png.
"""

import os

from absl import app, flags

from configs import quickstart
from experiments import study

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
ARMS = flags.DEFINE_list('arms', ['dpo_nll', 'dpo', 'sft_winners'], 'Which to run.')
LR = flags.DEFINE_float(
    'lr', None, "In place of the arm's own learning rate, to tune it; give it a folder of its own."
)

ARMS_KNOWN = 'dpo_nll', 'dpo', 'sft_winners'


def config_of(arm: str, seed: int, lr: float | None) -> dict:
    """The quickstart with one thing changed."""
    config = quickstart.get_config().to_dict()
    config['seed'] = seed
    turn = config['round']
    if arm == 'dpo':
        turn['loss']['nll'] = 0.0
    elif arm == 'sft_winners':
        turn['pairs'] = {'name': 'singles', 'at_least': 5.0, 'cap': turn['pairs']['count']}
        turn['loss'] = {'name': 'sft'}
    elif arm != 'dpo_nll':
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(ARMS_KNOWN)}')
    turn['train']['lr'] = (
        lr or turn['train']['lr']
    )  # tuned for each arm on seed 100; it came out the same
    return config


def main(_):
    runs = {
        (arm, int(seed)): config_of(arm, int(seed), LR.value)
        for arm in ARMS.value
        for seed in SEEDS.value
    }
    results = study.run(FOLDER.value, runs)
    print(study.table(results))
    study.plot(
        results,
        os.path.join(FOLDER.value, 'curve.png'),
        {
            'accuracy': ('held-out accuracy', (0, 1)),
            'judge': ('judge: pairwise accuracy', (0, 1)),
        },
    )


if __name__ == '__main__':
    app.run(main)
