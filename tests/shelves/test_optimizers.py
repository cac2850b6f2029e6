"""Every optimiser learns, and takes the first step that its formula says."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import first_state, leaves, pairs, train
from toys import toy

from selfrew.running import binding
from selfrew.shelves import losses, optimizers

NAMES = binding.part_names('optimizer', optimizers)


@pytest.mark.parametrize('name', NAMES)
def test_every_optimiser_learns(name):
    lm, params = toy(fsdp=2)
    lr = {'sgd': 0.3, 'adafactor': 3e-3, 'lion': 1e-3}.get(name, 5e-3)
    optimizer = functools.partial(getattr(optimizers, name), weight_decay=1e-4)
    _, _, rows = train(lm, params, pairs(), losses.dpo, optimizer=optimizer, epochs=4, lr=lr)
    assert rows[-1][1]['dpo'] < rows[0][1]['dpo'] - 0.03


def _first_direction(name, **options):
    """Of gradients (3, 4) clipped to norm 1, so (0.6, 0.8), at parameters (1, 2)."""
    gradient, params = jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0])
    optimizer = getattr(optimizers, name)(clip=1.0, **options)
    return np.asarray(optimizer.update(gradient, optimizer.init(params), params)[0])


def test_first_directions_by_hand():
    near = functools.partial(pytest.approx, rel=1e-4)
    assert _first_direction('sgd') == near([0.6, 0.8])
    assert _first_direction('sgd', momentum=0.9) == near([0.6, 0.8])
    # the sign, and half of the parameter
    assert _first_direction('adamw', weight_decay=0.5) == near([1.5, 2.0])
    assert _first_direction('lion', weight_decay=0.5) == near([1.5, 2.0])
    assert _first_direction('rmsprop', decay=0.75) == near([2.0, 2.0])  # g / √(¼ g²)
    # g / √g² at first, of root mean square 1
    assert _first_direction('adafactor') == near([1.0, 1.0])


def test_a_first_moment_can_be_kept_in_bfloat16():
    lm, params = toy()
    state = first_state(params, lm, optimizers.adamw(moments='bfloat16'))
    dtypes = [str(leaf.dtype) for _, leaf in leaves(state.opt) if leaf.ndim]
    assert set(dtypes) == {'bfloat16', 'float32'}
    assert dtypes.count('bfloat16') * 2 == len(dtypes)
    with pytest.raises(ValueError, match="no moments 'half'; there are: float32, bfloat16"):
        optimizers.adamw(moments='half')
