"""The second layout of a model: for sampling, its parameters lie on a mesh of their own.

An update wants its parameters spread over all devices. A decode step reads all of them for a token
of each sample, so what is spread over `fsdp` would have to be gathered at each step. There the
devices form replicas, each as many devices as memory asks, with a share of the samples each.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from selfrew.mesh import memory, sharding
from selfrew.models.language_model import Lm

WEIGHTS_SHARE = 0.3  # of a device's memory, that the weights for sampling may take
AS_TRAINED = 0  # for Lm.sampling: no second layout


def sampling_lm(lm: Lm, device_bytes: float | None = None) -> Lm:
    """The model on the mesh that it samples on, over the same devices: the `tensor` of lm.sampling,
    replicas over the rest along `data`; `lm` itself where the two meshes are one.

    Where lm.sampling is None, `tensor` is the smallest with which the weights take at most
    WEIGHTS_SHARE of a device, or else the largest.
    device_bytes: the memory of a device; None: as this machine says.
    """
    if lm.mesh.size == 1 or lm.sampling == AS_TRAINED:
        return lm
    tensor = lm.sampling
    if tensor is None:
        tensor = _least_tensor(lm, device_bytes or memory.device_bytes(lm.mesh.local_devices[0]))
    if lm.mesh.shape['fsdp'] == 1 and lm.mesh.shape['tensor'] == tensor:
        return lm
    return _on_mesh(lm, tensor)


def _least_tensor(lm: Lm, device_bytes: float) -> int:
    """The smallest `tensor` with which the weights fit, see sampling_lm."""
    sizes = [size for size in range(1, lm.mesh.size + 1) if lm.mesh.size % size == 0]
    for tensor in sizes:
        if weight_bytes(_on_mesh(lm, tensor)) <= WEIGHTS_SHARE * device_bytes:
            return tensor
    return sizes[-1]


def _on_mesh(lm: Lm, tensor: int) -> Lm:
    devices = list(lm.mesh.devices.flat)
    data = len(devices) // tensor
    mesh = sharding.make_mesh(data, tensor=tensor, devices=devices, splits_torus=True)
    return dataclasses.replace(lm, mesh=mesh, module=lm.module.clone(mesh=mesh))


def sampled_params(lm: Lm):
    """The shape, dtype and sharding of each parameter as it is sampled with: matrices in the dtype
    of the compute, to which products convert them anyway.
    """

    def place(path, shape, layout):
        is_vector = shape.ndim == 1 + (path[0].key == 'blocks')  # of norms and biases
        dtype = shape.dtype if is_vector else lm.module.dtype
        return jax.ShapeDtypeStruct(shape.shape, dtype, sharding=layout)

    return jax.tree.map_with_path(place, lm.abstract_params(), lm.param_shardings())


def weight_bytes(lm: Lm) -> int:
    """Bytes of the parameters on one device of the mesh that they are sampled on."""
    return sum(map(sharding.bytes_of_shard, jax.tree.leaves(sampled_params(lm))))


class SamplingCopy:
    """A model and its parameters as stages sample with them, laid out at the first use and shared
    by all until they are dropped.
    """

    def __init__(self, lm: Lm):
        self._trained, self.lm = lm, sampling_lm(lm)
        self._source = self._params = None

    def of(self, params) -> tuple:
        """(lm, params) for sampling. On one device, or where both meshes are one, those of
        training.
        """
        if self.lm is self._trained:
            return self.lm, params
        if self._source is not params:
            self.drop()
            self._source, self._params = params, lay_out(self.lm, params)
        return self.lm, self._params

    def drop(self) -> None:
        """Frees the copy: an update needs the memory, and makes other parameters."""
        self._source = self._params = None


def lay_out(lm: Lm, params):
    """A copy of parameters on the mesh of `lm`, as `sampled_params` says."""
    return jax.tree.map(_laid_out, params, sampled_params(lm))


def _laid_out(param, target):
    converted = param if param.dtype == target.dtype else _convert(param, target.dtype)
    return jax.device_put(converted, target.sharding)


@functools.partial(jax.jit, static_argnums=1)
def _convert(param, dtype):
    return jnp.astype(param, dtype)
