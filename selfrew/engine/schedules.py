"""Learning-rate schedules over the steps of a round."""

import math

SCHEDULES = 'constant', 'linear', 'cosine', 'wsd'


def check_schedule(schedule: str) -> None:
    """Raises ValueError if there is no such schedule."""
    if schedule not in SCHEDULES:
        raise ValueError(f'no schedule {schedule!r}; there are: {", ".join(SCHEDULES)}')


def learning_rate(
    step: int,
    steps: int,
    *,
    lr: float,
    warmup: float = 0.0,
    schedule: str = 'constant',
    final: float = 0.0,
) -> float:
    """The rate at `step` (from 0) of `steps`: a linear rise over the fraction `warmup`, then
    `schedule` down to final·lr.

    'wsd' (arXiv 2404.06395) stays at lr and falls linearly over the last fifth of the steps after
    the warmup. 'constant' stays at lr.
    """
    warmup_steps = warmup * steps
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    if schedule == 'constant':
        return float(lr)
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    shapes = {
        'linear': 1 - progress,
        'cosine': 0.5 * (1 + math.cos(math.pi * progress)),
        'wsd': min(1.0, 5 * (1 - progress)),
    }
    return lr * (final + (1 - final) * shapes[schedule])
