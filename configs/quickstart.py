"""Self-Rewarding on the tiny base, in minutes on two cores.

    python -m selfrew.main --config=configs/quickstart.py --workdir=runs/quickstart

Held-out accuracy, mean of three seeds, 1,000 problems each: 0.343 → 0.926, 0.924, 0.908;
experiments/quickstart has the rest.
"""

from configs import base


def get_config(arg: str = ''):
    smoke = base.smoke(arg)
    n = 24 if smoke else 600
    return base.get(
        rounds=1 if smoke else 3,
        round={
            'prompts': base.fresh(n),
            'sampler': base.sampling(6),
            'scorer': base.judging(votes=1),
            'pairs': {'name': 'extremes', 'count': 2},
            'loss': {'name': 'dpo', 'beta': 0.1, 'nll': 5.0},
            'train': base.training(lr=3e-5, batch=32),
            'rehearsal': {
                'every': 0,
                **base.imitate(base.eft(n), lr=2e-4),
            },  # off: see experiments/quickstart
        },
        evals={
            'accuracy': base.accuracy(40 if smoke else 1000),
            'judge': base.judge(1, 10 if smoke else 150),
        },
    )
