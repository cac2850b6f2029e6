"""REINFORCE leave-one-out (arXiv 2402.14740): KL-regularised reinforcement learning on groups of
samples, with the base as the reference and the optimiser's state kept over rounds.

    python -m selfrew.main --config=configs/rloo.py --workdir=runs/rloo

Seed 0, after 0, 20, 40 and 60 rounds: held-out accuracy of greedy answers 0.351, 0.947, 0.936,
0.927 (± 0.02, 1,000 problems); reward of samples 0.297, 0.482, 0.625, 0.658 (± 0.05) at a KL of 0,
0.27, 0.80, 0.88 nats from the base. About two minutes on two cores.

A round is one batch of prompts: 32 problems, 8 samples each, two passes over them, of which the
second is held near the policy that sampled by clipping. --config.round.loss.beta sets the price of
a nat of KL in correct answers.
"""

from configs import base


def get_config(arg: str = ''):
    small = base.is_smoke(arg)
    return base.get(**base.online(small, loss={'name': 'rloo', 'beta': 0.05, 'clip': 0.2}))
