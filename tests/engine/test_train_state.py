"""Parameters and moments lie on the mesh where the table of shardings puts them."""

import pytest
from toy_training import first_state, leaves
from toys import SMALL, toy

from selfrew.engine import train_state
from selfrew.running import binding
from selfrew.shelves import optimizers

# Arrays of each parameter's shape in the state of each optimiser.
MOMENTS = {'adamw': 2, 'rmsprop': 1, 'lion': 1, 'sgd': 0, 'adafactor': 1}


@pytest.mark.parametrize('name', binding.part_names('optimizer', optimizers))
def test_moments_begin_where_their_parameters_lie(name):
    lm, params = toy(tensor=2, fsdp=4)
    shapes = {path: leaf.shape for path, leaf in leaves(params)}
    shardings = dict(leaves(lm.param_shardings()))
    optimizer = train_state.cached_optimizer(getattr(optimizers, name))

    def is_moment_of(path, moment, moment_path):
        is_of_shape = moment_path.endswith(path) and moment.shape == shapes[path]
        return is_of_shape and moment.sharding.is_equivalent_to(shardings[path], moment.ndim)

    matched = [
        path
        for moment_path, moment in leaves(first_state(params, lm, optimizer).opt)
        for path in shapes
        if is_moment_of(path, moment, moment_path)
    ]
    assert sorted(matched) == sorted([*shapes] * MOMENTS[name])


def test_nothing_larger_than_a_norm_is_whole_on_every_device():
    _, params = toy(fsdp=8)
    for path, leaf in leaves(params):
        shard_size = leaf.addressable_shards[0].data.size
        if leaf.size > SMALL.layers * SMALL.width:  # the norms of all layers
            assert shard_size * 8 == leaf.size, path
