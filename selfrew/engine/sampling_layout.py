"""The second layout of a model: for sampling, its parameters lie on a mesh of their own, and may be
of fewer bits.

An update wants its parameters spread over all devices. A decode step reads all of them for a token
of each sample, so what is spread over `fsdp` would have to be gathered at each step. There the
devices form replicas, each as many devices as memory asks, with a share of the samples each.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from selfrew.mesh import memory, sharding
from selfrew.models import quantization
from selfrew.models.language_model import Lm

WEIGHTS_SHARE = 0.3  # of a device's memory, that the weights for sampling may take
AS_TRAINED = 0  # for Lm.sampling: no second layout


def sampling_lm(lm: Lm, device_bytes: float | None = None) -> Lm:
    """The model as it samples: with lm.sampling_dtype, on a mesh of the same devices that has the
    `tensor` of lm.sampling and replicas over the rest along `data`; `lm` itself where it samples
    as it trains.

    Where lm.sampling is None, `tensor` is the smallest with which the weights take at most
    WEIGHTS_SHARE of a device, or else the largest.
    device_bytes: the memory of a device; None: as this machine says.
    """
    lm = _with_sampling_dtype(lm)
    if lm.mesh.size == 1 or lm.sampling == AS_TRAINED:
        return lm
    tensor = lm.sampling
    if tensor is None:
        tensor = _least_tensor(lm, device_bytes or memory.device_bytes(lm.mesh.local_devices[0]))
    if lm.mesh.shape['fsdp'] == 1 and lm.mesh.shape['tensor'] == tensor:
        return lm
    return _on_mesh(lm, tensor)


def _with_sampling_dtype(lm: Lm) -> Lm:
    """The model computing in lm.sampling_dtype or, for 'int8', with its matrices in int8."""
    if not lm.sampling_dtype:
        return lm
    if lm.sampling_dtype == 'int8':
        module = lm.module.clone(int8=True)
    else:
        module = lm.module.clone(dtype=jnp.dtype(lm.sampling_dtype))
    return lm if module == lm.module else dataclasses.replace(lm, module=module)


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
    mesh = sharding.make_mesh(data, tensor=tensor, devices=devices)
    return dataclasses.replace(lm, mesh=mesh, module=lm.module.clone(mesh=mesh))


def sampled_params(lm: Lm):
    """The shape, dtype and sharding of each parameter as it is sampled with: matrices in the dtype
    of the compute, to which products convert them anyway, or in int8.
    """
    shapes = lm.abstract_params()

    def place(path, shape, layout):
        group = shapes if len(path) == 1 else shapes[path[0].key]
        is_vector = shape.ndim == len(path)  # of norms, biases and scales; else [layers,] a matrix
        if quantization.is_quantized(path[-1].key, group):
            dtype = jnp.int8
        else:
            dtype = shape.dtype if is_vector else lm.module.dtype
        return jax.ShapeDtypeStruct(shape.shape, dtype, sharding=layout)

    return jax.tree.map_with_path(place, shapes, lm.param_shardings())


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
        """(lm, params) for sampling: those of training where it samples as it trains."""
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
    if lm.module.int8:
        params = quantization.quantized(params, lm.abstract_params())
    return jax.tree.map(_laid_out, params, sampled_params(lm))


def _laid_out(param, target):
    converted = param if param.dtype == target.dtype else _convert(param, target.dtype)
    return jax.device_put(converted, target.sharding)


@functools.partial(jax.jit, static_argnums=1)
def _convert(param, dtype):
    return jnp.astype(param, dtype)
