"""Learning rates match their formulas, and the rate multiplies the update."""

import functools

import numpy as np
import pytest
from toy_training import pairs, train
from toys import toy

from selfrew.engine import schedules
from selfrew.shelves import losses


def test_learning_rates_by_hand():
    rate = functools.partial(schedules.learning_rate, lr=1.0)
    assert [rate(i, 5) for i in range(5)] == [1.0] * 5
    # warmup 0.4 of 10 steps: 4 steps on the way to the 5th, 1/5 … 4/5
    assert [rate(i, 10, warmup=0.4) for i in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    linear = [rate(i, 4, schedule='linear') for i in range(4)]
    assert linear == pytest.approx([1.0, 0.75, 0.5, 0.25])
    # halfway the cosine is 0: 0.2 + 0.8 · ½ = 0.6
    assert rate(2, 4, schedule='cosine', final=0.2) == pytest.approx(0.6)
    # at a quarter: ½(1 + cos 45°) = 0.853553, 0.2 + 0.8 · 0.853553
    assert rate(1, 4, schedule='cosine', final=0.2) == pytest.approx(0.882843, abs=1e-6)
    wsd = [rate(i, 10, schedule='wsd') for i in (0, 7, 8, 9)]
    assert wsd == pytest.approx([1.0, 1.0, 1.0, 0.5])


def test_the_rate_multiplies_the_first_adam_step():
    """Adam's first step is the gradient's sign: every parameter with a gradient moves by lr, up to
    eps.
    """
    lm, params = toy()
    state, _, rows = train(lm, params, pairs(4), losses.dpo, lr=1e-3)
    moved = np.abs(np.asarray(state.params['head']) - np.asarray(params['head']))
    assert rows[0][1]['lr'] == 1e-3 and moved.max() == pytest.approx(1e-3, rel=1e-2)
