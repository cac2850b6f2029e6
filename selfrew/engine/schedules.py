"""Learning rates over the steps of a round."""

import math

# --- learning rates ---------------------------------------------------------------------------------------------------

SCHEDULES = 'constant', 'linear', 'cosine', 'wsd'


def check_schedule(schedule: str) -> None:
    """ValueError where there is no such schedule."""
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
    `schedule` to final·lr.

    'wsd' (arXiv 2404.06395) stays at lr, and falls linearly over the last fifth of what follows the
    rise.
    """
    rise = warmup * steps
    if step < rise:
        return lr * (step + 1) / (rise + 1)
    done = (step - rise) / max(steps - rise, 1)
    shapes = {
        'constant': 1.0,
        'linear': 1 - done,
        'cosine': 0.5 * (1 + math.cos(math.pi * done)),
        'wsd': min(1.0, 5 * (1 - done)),
    }
    return (
        lr * shapes[schedule]
        if schedule == 'constant'
        else lr * (final + (1 - final) * shapes[schedule])
    )
