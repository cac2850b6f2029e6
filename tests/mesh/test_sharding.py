"""The mesh: its shape follows from the axes given and the devices there are."""

import pytest

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
