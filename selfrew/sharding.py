"""The mesh, and the one table from logical axis to mesh axis. Layer 1."""

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


def make(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of data × fsdp × tensor devices. ValueError where the machine has fewer."""
    shape = (data, fsdp, tensor)
    if min(shape) < 1 or np.prod(shape) > jax.device_count():
        raise ValueError(
            f'a mesh of data={data}, fsdp={fsdp}, tensor={tensor} needs {np.prod(shape)} devices (each at least 1); '
            f'this machine has {jax.device_count()}'
        )
    # Auto, not the default Explicit: linen does not know explicit axes.
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def of(mesh: Mesh, *names) -> NamedSharding:
    """The sharding of an array whose axes have these logical names (None: replicated)."""
    return NamedSharding(mesh, PartitionSpec(*(RULES[name] for name in names)))


def of_params(mesh: Mesh, shapes, names):
    """Shardings of a pytree of parameters. An axis that its mesh axes do not divide stays whole."""

    def one(leaf, axes):
        size = [int(np.prod([mesh.shape[a] for a in np.atleast_1d(RULES[n])])) if RULES[n] else 1 for n in axes]
        return of(mesh, *(n if dim % s == 0 else None for n, dim, s in zip(axes, leaf.shape, size)))

    return jax.tree.map(one, shapes, names)


def row_count(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return mesh.shape['data'] * mesh.shape['fsdp']
