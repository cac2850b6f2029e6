"""Group relative policy optimisation (arXiv 2402.03300): as configs/rloo.py, with advantages over
the group's standard deviation and the KL as a loss of its own on every token.

    python -m selfrew.main --config=configs/grpo.py --workdir=runs/grpo

Seed 0, after 0, 20, 40 and 60 rounds: held-out accuracy of greedy answers 0.351, 0.955, 0.924,
0.945 (± 0.02, 1,000 problems); reward of samples 0.297, 0.500, 0.612, 0.645 (± 0.05) at a KL of 0,
0.40, 0.74, 0.81 nats from the base. About two minutes on two cores.

--config.round.loss.mean=token --config.round.loss.beta=0.0 is DAPO's objective but for its
asymmetric clip; --config.round.loss.mean=sum --config.round.loss.scale=False that of Dr. GRPO.
"""

from configs import base


def get_config(arg: str = ''):
    small = base.is_smoke(arg)
    loss = {'name': 'grpo', 'beta': 0.04, 'clip': 0.2, 'mean': 'sequence', 'scale': True}
    return base.get(**base.online(small, loss=loss))
