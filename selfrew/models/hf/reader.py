"""Reads parameters from safetensors or GGUF, tensor by tensor, straight onto their devices."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open

from selfrew.models.config import ModelConfig
from selfrew.models.hf.gguf_file import is_gguf
from selfrew.models.hf.gguf_tensors import GgufCheckpoint
from selfrew.models.hf.tensors import FUSED, OUTER, VALUE_FILE, block_tensors
from selfrew.models.loading import load_all
from selfrew.models.lora import is_adapter

INVERSE_FREQUENCIES = '.self_attn.rotary_emb.inv_freq'  # a constant that old writers stored
DTYPES = 'F64', 'F32', 'F16', 'BF16'  # of tensors, as safetensors calls them
MAX_LISTED = 20  # wrong tensors in an error message


def read_params(folder: str, config: ModelConfig, shapes, shardings) -> dict:
    """The parameters, in the structure of `shapes` without the adapters, each in its sharding.

    Each tensor is read, put onto its devices and freed before the next one: the host holds one at
    a time, and a process only the parts for its own devices.

    Args:
      folder: or a GGUF file.
      shapes: shape and dtype of each parameter (see decoder.abstract_params). shardings: of each.
    Raises ValueError that names missing, extra or misshapen tensors, and files that are cut short
    or missing, before anything is put on a device.
    """
    return load_all(param_loaders(folder, config, shapes, shardings))


def param_loaders(folder: str, config: ModelConfig, shapes, shardings) -> dict:
    """What `read_params` returns, with a function that reads it in the place of each parameter.

    Raises ValueError as `read_params` does.
    """
    checkpoint = GgufCheckpoint(folder) if is_gguf(folder) else _Checkpoint(folder)
    is_fused = any(tensor.endswith(tuple(FUSED)) for tensor in checkpoint.paths)
    tensors = block_tensors(config, is_fused)
    block_shapes = {name: leaf for name, leaf in shapes['blocks'].items() if not is_adapter(name)}
    expected = _expected_outer(shapes) | _expected_blocks(config, block_shapes, tensors)
    _check_tensors(checkpoint, expected, is_tied='head' not in shapes)
    first_rows, blocks = _first_rows(block_shapes, tensors), {}
    for name, leaf in block_shapes.items():
        where = *first_rows[name], leaf, shardings['blocks'][name]
        blocks[name] = functools.partial(_read_stack, checkpoint, *where)
    outer = {
        name: functools.partial(_read_outer, checkpoint, name, leaf, shardings[name])
        for name, leaf in shapes.items()
        if name != 'blocks'
    }
    return {'blocks': blocks} | outer


class _Checkpoint:
    """The safetensors files of a folder, opened once; only the parts asked for are read."""

    config_name = 'config.json'

    def __init__(self, folder: str):
        self.folder = folder
        self.paths = _tensor_paths(folder)
        self._files = {path: safe_open(path, framework='np') for path in set(self.paths.values())}

    def open_slice(self, tensor: str):
        """A tensor as a lazy slice of its file."""
        return self._files[self.paths[tensor]].get_slice(tensor)


Checkpoint = _Checkpoint | GgufCheckpoint


def _tensor_paths(folder: str) -> dict[str, str]:
    """Tensor -> the safetensors file that holds it. ValueError names a file that cannot be read."""
    index = os.path.join(folder, 'model.safetensors.index.json')
    if os.path.exists(os.path.join(folder, 'model.safetensors')):  # rather than an index beside it
        names = {'model.safetensors'}
    elif os.path.exists(index):
        names = _indexed_files(index)
    else:
        names = {name for name in os.listdir(folder) if name.endswith('.safetensors')}
        names -= {VALUE_FILE}
    paths = {}
    for name in sorted(names):
        path = os.path.join(folder, name)
        try:
            with safe_open(path, framework='np') as file:
                paths.update(dict.fromkeys(file.keys(), path))
        except (SafetensorError, FileNotFoundError) as problem:
            raise ValueError(
                f'{path} is cut short or missing ({problem}); download or copy it again'
            ) from None
    if not paths:
        raise ValueError(
            f'no .safetensors file in {folder!r}; weights in another format are not supported'
        )
    return paths


def _indexed_files(path: str) -> set[str]:
    """The files that an index names. ValueError where it is none."""
    with open(path, encoding='utf-8') as file:
        try:
            return set(json.load(file)['weight_map'].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f'{path}: want a JSON object with weight_map') from None


def _read_rows(checkpoint: Checkpoint, tensor: str, first_row: int, shape, sharding):
    """The rows of a tensor from `first_row` on, as a device array of this shape."""

    def read_part(index):
        start, stop = index[0].start or 0, index[0].stop
        stop = shape[0] if stop is None else stop
        rows = slice(first_row + start, first_row + stop)
        values = np.ascontiguousarray(checkpoint.open_slice(tensor)[(rows, *index[1:])])
        if not np.isfinite(values).all():
            raise ValueError(
                f'{checkpoint.paths[tensor]}: the tensor {tensor} holds numbers that are not finite'
            )
        return values

    return jax.make_array_from_callback(shape, sharding, read_part)


def _expected_outer(shapes) -> dict[str, tuple[int, ...]]:
    """Tensor outside the blocks -> its shape, as stored."""
    return {
        OUTER[name]: leaf.shape if name == 'embed' else leaf.shape[::-1]
        for name, leaf in shapes.items()
        if name != 'blocks'
    }


def _expected_blocks(config: ModelConfig, block_shapes, tensors) -> dict[str, tuple[int, ...]]:
    """Tensor of a block -> its shape, as stored."""
    expected = {}
    for tensor, names in tensors.items():
        leaves = [block_shapes[name] for name in names if name in block_shapes]
        if leaves:
            shape = sum(leaf.shape[-1] for leaf in leaves), *leaves[0].shape[1:-1]
            expected.update((tensor.format(i), shape) for i in range(config.layers))
    return expected


def _first_rows(block_shapes, tensors) -> dict[str, tuple[str, int]]:
    """Parameter of a block -> (its tensor, its first row in the tensor)."""
    first_rows = {}
    for tensor, names in tensors.items():
        row = 0
        for name in names:
            if name in block_shapes:
                first_rows[name] = tensor, row
                row += block_shapes[name].shape[-1]
    return first_rows


def _check_tensors(checkpoint: Checkpoint, expected: dict, *, is_tied: bool) -> None:
    """ValueError naming the tensors that are missing, extra or of an unexpected shape."""
    wrong = [f'missing: {tensor}' for tensor in expected if tensor not in checkpoint.paths]
    for tensor, expected_shape in expected.items():
        if tensor in checkpoint.paths:
            stored = checkpoint.open_slice(tensor)
            if stored.get_dtype() not in DTYPES:
                raise ValueError(
                    f'{checkpoint.paths[tensor]}: the tensor {tensor} is stored as '
                    f'{stored.get_dtype()}; supported: {", ".join(DTYPES)}'
                )
            shape = tuple(stored.get_shape())
            if shape != expected_shape:
                wrong.append(f'misshapen: {tensor} is {shape}, expected {expected_shape}')
    # Some writers store a tied head again.
    extra = set(checkpoint.paths) - set(expected) - ({OUTER['head']} if is_tied else set())
    wrong += [
        f'extra: {tensor}' for tensor in sorted(extra) if not tensor.endswith(INVERSE_FREQUENCIES)
    ]
    if wrong:
        listed, more = '; '.join(wrong[:MAX_LISTED]), len(wrong) - MAX_LISTED
        raise ValueError(
            f'{checkpoint.folder}: the tensors do not match its {checkpoint.config_name}: {listed}'
            + (f'; and {more} more' if more > 0 else '')
        )


def _read_outer(checkpoint: Checkpoint, name: str, leaf, sharding):
    """A parameter outside the blocks, on its devices."""
    if len(leaf.shape) != 2 or name == 'embed':
        array = _read_rows(checkpoint, OUTER[name], 0, leaf.shape, sharding)
        return _cast(array, False, leaf.dtype, sharding)
    stored = _transpose_sharding(sharding, 2)
    array = _read_rows(checkpoint, OUTER[name], 0, leaf.shape[::-1], stored)
    return _cast(array, True, leaf.dtype, sharding)


def _read_stack(checkpoint: Checkpoint, tensor: str, first_row: int, leaf, sharding):
    """A parameter of the blocks, [layers, …], on its devices; `{}` in `tensor` is the layer."""
    zeros = functools.partial(jnp.zeros, leaf.shape, leaf.dtype)
    stack = jax.jit(zeros, out_shardings=sharding)()
    layer_sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    stored = _transpose_sharding(layer_sharding, len(leaf.shape) - 1)
    for i in range(leaf.shape[0]):
        layer = _read_rows(checkpoint, tensor.format(i), first_row, leaf.shape[:0:-1], stored)
        stack = _set_layer(stack, layer, i, sharding)
        stack.block_until_ready()  # else the host runs ahead and holds several tensors
    return stack


def _transpose_sharding(sharding: NamedSharding, ndim: int) -> NamedSharding:
    """The sharding of the transpose of an array of `ndim` axes."""
    spec = tuple(sharding.spec) + (None,) * (ndim - len(sharding.spec))
    return NamedSharding(sharding.mesh, PartitionSpec(*reversed(spec[-ndim:])))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _cast(array, is_transposed, dtype, sharding):
    """The array, of any shape, transposed if it is stored so, in this dtype and sharding."""
    array = array.T if is_transposed else array
    return jax.lax.with_sharding_constraint(array.astype(dtype), sharding)


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def _set_layer(stack, layer, i, sharding):
    """`stack` [layers in out] with layer i as it is stored, [out in]; or both without [in]."""
    stack = jax.lax.dynamic_update_index_in_dim(stack, layer.T.astype(stack.dtype), i, 0)
    return jax.lax.with_sharding_constraint(stack, sharding)
