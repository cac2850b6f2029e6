"""Online DPO, the baseline of controlled decoding (arXiv 2310.17022, §5): two samples of the policy
for each prompt, labelled by the reward, with the base as the reference throughout.

    python -m selfrew.main --config=configs/online_dpo.py --workdir=runs/online_dpo

Seed 0, after 0, 20, 40 and 60 rounds: held-out accuracy of greedy answers 0.351, 0.940, 0.960,
0.959 (± 0.02, 1,000 problems); reward of samples 0.297, 0.378, 0.433, 0.520 (± 0.04) at a KL of 0,
0.05, 0.17, 0.42 nats from the base. About two minutes on two cores.

":ipo" is the same with the loss of IPO, which stops at a margin: 0.942, 0.956, 0.956, and 0.377,
0.433, 0.503 at 0.05, 0.16, 0.33 nats.
"""

from configs import base

LOSSES = {
    '': {'name': 'dpo', 'beta': 0.1},
    'ipo': {'name': 'ipo', 'tau': 0.1, 'average': False},
}


def get_config(arg: str = ''):
    if arg not in (*LOSSES, 'smoke'):
        raise ValueError(f'no variant {arg!r} of this config; there are: smoke, ipo')
    loss = LOSSES.get(arg, LOSSES[''])
    config = base.get(**base.online(arg == 'smoke', loss=loss, samples=2))
    config.round.prompts.n = 40 if arg == 'smoke' else 64  # many of whose pairs are ties
    config.round.pairs = {'name': 'extremes', 'count': 1}
    config.round.train.epochs = 1
    return config
