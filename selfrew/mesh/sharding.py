"""The mesh, and the one table from logical axis to mesh axis. Layer 0."""

import jax
import numpy as np
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


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh of data × fsdp × tensor of the devices (None: this machine's), the first so many of
    them.

    fsdp may be -1: as many as the other axes leave. Raises ValueError where that number does not
    divide the number of devices, or some process would have none.
    """
    devices = jax.devices() if devices is None else list(devices)
    fsdp = max(len(devices) // max(data * tensor, 1), 1) if fsdp == -1 else fsdp
    shape = (data, fsdp, tensor)
    want = int(np.prod(shape))
    if min(shape) < 1 or len(devices) % want:
        raise ValueError(
            f'a mesh of data={data}, fsdp={fsdp}, tensor={tensor} needs {want} devices (each at least 1), and there '
            f'are {len(devices)}; choose a mesh whose product divides {len(devices)}'
        )
    if jax.process_count() > 1 and want < len(devices):
        raise ValueError(
            f'a mesh of data={data}, fsdp={fsdp}, tensor={tensor} leaves out devices; '
            f'{jax.process_count()} processes want one of all {len(devices)}'
        )
    # Auto, not the default Explicit: linen does not know explicit axes.
    try:
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:want])
    except NotImplementedError as problem:  # a TPU's torus, whose sides the axes must be made of
        said = str(problem).split('. E.g.')[0]
        raise ValueError(
            f'a mesh of data={data}, fsdp={fsdp}, tensor={tensor} cannot be laid out: {said}'
        ) from None


def of(mesh: Mesh, *names) -> NamedSharding:
    """The sharding of an array whose axes have these logical names (None: replicated)."""
    return NamedSharding(mesh, PartitionSpec(*(RULES[name] for name in names)))


def of_shape(mesh: Mesh, shape, names) -> NamedSharding:
    """The sharding of an array of this shape; an axis that its mesh axes do not divide stays whole."""

    def size(name):
        return (
            int(np.prod([mesh.shape[a] for a in np.atleast_1d(RULES[name])])) if RULES[name] else 1
        )

    return of(
        mesh, *(n if dim % size(n) == 0 else None for n, dim in zip(names, shape, strict=True))
    )


def of_params(mesh: Mesh, shapes, names):
    """Shardings of a pytree of parameters."""
    return jax.tree.map(lambda leaf, axes: of_shape(mesh, leaf.shape, axes), shapes, names)


def constrain(mesh: Mesh | None, x, *names):
    """`x` inside a compiled function, laid out as its axes' names say. Without a mesh, as it is."""
    return (
        x if mesh is None else jax.lax.with_sharding_constraint(x, of_shape(mesh, x.shape, names))
    )


def row_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return mesh.shape['data'] * mesh.shape['fsdp']
