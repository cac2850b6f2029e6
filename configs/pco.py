"""Pairwise Cringe Optimization (arXiv 2312.16682), iterative: best against worst of 4 samples by a
fixed scorer; the pairs of all rounds add up.

    python -m selfrew.main --config=configs/pco.py --workdir=runs/pco

Held-out accuracy, seed 0, 1,000 problems: 0.351 → 0.937, 0.931, 0.854 (± 0.02). Under a minute on
two cores. experiments/pco runs it with fewer prompts and a smaller learning rate, against others.

The gate's numbers (margin, gate_tau, alpha) suit the tiny base.

":llama2_7b" is the paper's run on AlpacaFarm with a model of that size: pairs of people from
human.jsonl (prompts.preferences lists the forms) in every round, prompts from prompts.jsonl, and a
reward model in the folder reward_model. The paper's numbers could not be verified: these are
recollections (4 samples, k 5, α 0.005, b −10, τ 10), and of the training, AlpacaFarm's numbers for
DPO. To see what it needs of a TPU:

    python -m selfrew.plan --config=configs/pco.py:llama2_7b --topology=v5p:2x2x2
"""

from configs import base, iterative_dpo

SCALES = ('llama2_7b',)


def get_config(arg: str = ''):
    if arg in SCALES:
        config = iterative_dpo.at_scale(arg)
        config.round.loss = loss(alpha=0.005, margin=-10.0, gate_tau=10.0)
        return config
    if arg not in ('', 'smoke'):
        raise ValueError(
            f'no variant {arg!r} of this config; there are: smoke, {", ".join(SCALES)}'
        )
    small = base.is_smoke(arg)
    return base.get(
        rounds=2 if small else 3,
        round={
            'prompts': base.fresh(40 if small else 1000, answers=True),
            'sampler': base.sampling(4),
            'scorer': {'name': 'exact_answer'},
            'pairs': {'name': 'extremes', 'count': 1},
            'earlier': -1,  # also trains on the pairs of all earlier rounds
            'loss': loss(alpha=0.1, margin=0.0, gate_tau=10.0),
            'train': base.training(lr=3e-5, batch=32),
        },
        evals={'accuracy': base.accuracy(40 if small else 1000)},
    )


def loss(**fields) -> dict:
    """Pairwise CRINGE; losses.pairwise_cringe says what each field means."""
    return {
        'name': 'pairwise_cringe',
        'contrast': 5,
        'detach_gate': False,
        'margin_norm': 'sum',
        **fields,
    }
