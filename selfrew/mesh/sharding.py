"""The mesh, and the one table from logical axis to mesh axis."""

import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ('data', 'fsdp', 'tensor')
RULES = {
    'rows': ('data', 'fsdp'),  # of a batch, of a cache
    'embed': 'fsdp',
    'vocab': 'tensor',
    'heads': 'tensor',
    'kv': 'tensor',
    'mlp': 'tensor',
    'layers': None,
    'norm': None,
    None: None,
}


# Compiler options of programs that read whole rows, by platform. On a TPU a product of which an
# operand is split over `fsdp` is by default a loop over its parts, whose small products reach half
# of the peak; gathered first, they reach nearly all of it.
COMPILER_OPTIONS = {'tpu': {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}}


def platform(mesh: Mesh | None) -> str:
    """The platform of a mesh's devices: 'cpu', 'gpu' or 'tpu'. None: of jax's own."""
    return (jax.devices()[0] if mesh is None else mesh.devices.flat[0]).platform


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh of the first data × fsdp × tensor of the devices (None: those of all processes).

    fsdp=-1 takes all devices that the other axes leave. On a TPU an axis takes whole sides of the
    torus where that is possible, else parts of them, which have fewer links. Raises ValueError if
    the product does not divide the number of devices, or if a process would have no device in the
    mesh.
    """
    devices = jax.devices() if devices is None else list(devices)
    fsdp = max(len(devices) // max(data * tensor, 1), 1) if fsdp == -1 else fsdp
    shape = (data, fsdp, tensor)
    needed = math.prod(shape)
    name = f'a mesh of data={data}, fsdp={fsdp}, tensor={tensor}'
    if min(shape) < 1 or len(devices) % needed:
        raise ValueError(
            f'{name} needs {needed} devices (each at least 1), and there are {len(devices)}; '
            f'choose a mesh whose product divides {len(devices)}'
        )
    if jax.process_count() > 1 and needed < len(devices):
        raise ValueError(
            f'{name} leaves out devices; {jax.process_count()} processes want one of all '
            f'{len(devices)}'
        )
    # Auto, not the default Explicit: linen does not know explicit axes.
    auto = (AxisType.Auto,) * 3
    array = mesh_utils.create_device_mesh(shape, devices[:needed], allow_split_physical_axes=True)
    return Mesh(array, AXES, axis_types=auto)


def of(mesh: Mesh, *names) -> NamedSharding:
    """The sharding of an array whose axes have these logical names (None: replicated)."""
    return NamedSharding(mesh, PartitionSpec(*(RULES[name] for name in names)))


def of_shape(mesh: Mesh, shape, names) -> NamedSharding:
    """The sharding of an array of this shape; an axis that cannot be split evenly is replicated."""
    pairs = zip(names, shape, strict=True)
    return NamedSharding(mesh, PartitionSpec(*(split_axes(mesh, *pair) for pair in pairs)))


def split_axes(mesh: Mesh, name, size: int):
    """The mesh axes over which a logical axis of this size is split, as a PartitionSpec takes them.

    None where nothing splits it, or where it cannot be split evenly: it stays whole.
    """
    return RULES[name] if size % _device_count(mesh, RULES[name]) == 0 else None


def shards(mesh: Mesh | None, name, size: int) -> int:
    """The number of parts that a logical axis of this size is split into.

    1 where it cannot be split evenly, and without a mesh.
    """
    return 1 if mesh is None else _device_count(mesh, split_axes(mesh, name, size))


def _device_count(mesh: Mesh, axes) -> int:
    """The number of devices along mesh axes, as a PartitionSpec takes them."""
    return math.prod(mesh.shape[axis] for axis in np.atleast_1d(axes)) if axes else 1


def of_params(mesh: Mesh, shapes, names):
    """Shardings of a pytree of parameters."""
    return jax.tree.map(lambda leaf, axes: of_shape(mesh, leaf.shape, axes), shapes, names)


def constrain(mesh: Mesh | None, array, *names):
    """`array` inside a compiled function, sharded by its axis names; unchanged without a mesh."""
    if mesh is None:
        return array
    return jax.lax.with_sharding_constraint(array, of_shape(mesh, array.shape, names))


def bytes_of_shard(array) -> int:
    """Bytes of an array, or of a jax.ShapeDtypeStruct with a sharding, on one device."""
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def row_shards(mesh: Mesh) -> int:
    """The number of shards that the rows of a batch are split into."""
    return _device_count(mesh, RULES['rows'])
