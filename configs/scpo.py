"""Self-Consistency Preference Optimization (arXiv 2411.04109) on the tiny base: the most common
answer against the rarest.

    python -m selfrew.main --config=configs/scpo.py --workdir=runs/scpo

Held-out accuracy, seed 0, 1,000 word problems: 0.595 → 0.480, 0.424; of the majority of 8 samples
0.387 → 0.345, 0.316 (± 0.03). It gets worse here, as expected: the base learned from demonstrators
who stop early half of the time, so its most common answer is right less often than its greedy one.
The method needs a model whose majority is better than a single answer. A minute on two cores,
beside other work.

Training sees no ground truth: a response's score is the share of samples that end with its answer,
and a pair is weighted by the difference of its scores. Two parts of the paper are missing: the
eight more samples at temperature 1.2 for the rejected side, and the problems that the model makes
up. Only word problems are used: no two answers about rising numbers are the same.
"""

from configs import base

TASKS = ('word_problems',)


def get_config(arg: str = ''):
    small = base.is_smoke(arg)
    accuracy = base.accuracy(40 if small else 1000)
    accuracy['prompts']['tasks'] = TASKS
    return base.get(
        rounds=1 if small else 2,
        round={
            'prompts': base.fresh(40 if small else 1000) | {'tasks': TASKS},
            'sampler': sampler(),
            'scorer': {'name': 'consistency'},
            'pairs': {'name': 'extremes', 'at_least': 0.5, 'weigh': True},
            'loss': {'name': 'dpo', 'beta': 0.5, 'nll': 1.0},
            'train': base.training(lr=1e-5, batch=16),
        },
        by_round={'pairs': {'at_least': (0.5, 0.7)}},
        evals={
            'accuracy': accuracy,
            'majority': accuracy | {'name': 'majority', 'sampler': sampler()},
        },
    )


def sampler() -> dict:
    """Eight samples, in training and for the majority."""
    return base.sampling(8) | {'temperature': 0.7, 'top_p': 0.9}
