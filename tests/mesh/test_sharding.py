"""The mesh: its shape follows from the axes given and the devices there are; and how it splits
arrays.
"""

import pytest
from jax.sharding import PartitionSpec

from selfrew.mesh import sharding


def test_an_fsdp_of_minus_one_takes_what_the_other_axes_leave():
    assert dict(sharding.make_mesh(fsdp=-1).shape) == {'data': 1, 'fsdp': 8, 'tensor': 1}
    mesh = sharding.make_mesh(data=2, fsdp=-1, tensor=2)
    assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}


@pytest.mark.parametrize(
    'axes',
    [
        {'fsdp': -1, 'tensor': 3},
        {'fsdp': -2},
        {'fsdp': -1, 'data': 16},
        {'fsdp': -1, 'tensor': 0},
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_is_refused(axes):
    with pytest.raises(ValueError, match='choose a mesh whose product divides 8'):
        sharding.make_mesh(**axes)


@pytest.mark.parametrize(
    'name, size, axes, shards',
    [
        ('rows', 12, ('data', 'fsdp'), 4),
        ('rows', 6, None, 1),  # 2 · 2 does not divide 6
        ('kv', 6, 'tensor', 2),
        ('kv', 1, None, 1),
        ('layers', 4, None, 1),
        (None, 4, None, 1),
    ],
)
def test_an_axis_is_split_by_the_rules_where_they_divide_it(name, size, axes, shards):
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    assert sharding.split_axes(mesh, name, size) == axes
    assert sharding.shards(mesh, name, size) == shards
    assert sharding.shards(None, name, size) == 1
    where = sharding.of_shape(mesh, (3, size), (None, name))
    assert where.spec == PartitionSpec(None, axes)
    assert where.shard_shape((3, size)) == (3, size // shards)
