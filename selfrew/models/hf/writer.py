"""Writes parameters as a folder of config.json and safetensors that transformers can load."""

import json
import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from selfrew.models.config import ModelConfig
from selfrew.models.hf.tensors import OUTER, block_tensors
from selfrew.models.loading import loaded
from selfrew.models.lora import is_adapter

INDEX = 'model.safetensors.index.json'


def write(
    folder: str,
    fields: dict,
    config: ModelConfig,
    params,
    *,
    dtype: str = 'float32',
    shard_bytes: int = 4 << 30,
) -> None:
    """Writes config.json and safetensors of `params`, over those in the folder. No tokenizer.

    Args:
      fields: the content of config.json; its dtype is replaced, and auto_map, which names code
        that is not in the folder, is left out.
      params: without adapters (see lora.merge_adapters). In the place of a parameter there may be a
        function that returns it, which is called when it is written.
      dtype: of the stored tensors.
      shard_bytes: a new file is begun before one would grow beyond this size.
    Raises ValueError for parameters that such a checkpoint has no tensor for.
    """
    architecture = fields['architectures'][0]
    if unknown := set(params) - set(OUTER) - {'blocks'}:
        raise ValueError(
            f'a checkpoint of {architecture} has no tensor for {", ".join(sorted(unknown))}'
        )
    if adapters := [name for name in params['blocks'] if is_adapter(name)]:
        raise ValueError(f'a checkpoint has no tensor for {adapters[0]}: merge the adapters first')
    os.makedirs(folder, exist_ok=True)
    tensors = _stored_tensors(config, params, dtype, is_fused=architecture.startswith('Phi3'))
    shards = _save_shards(folder, tensors, shard_bytes)
    _replace_files(folder, shards)
    kept = {name: x for name, x in fields.items() if name not in ('torch_dtype', 'auto_map')}
    write_json(folder, 'config.json', kept | {'dtype': dtype})


def _stored_tensors(
    config: ModelConfig, params, dtype: str, *, is_fused: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """(tensor, array) of each tensor of the checkpoint, one on the host at a time."""
    stored_dtype = jnp.dtype(dtype)
    for name in OUTER:
        if name in params:
            array = np.asarray(jax.device_get(loaded(params[name])))
            array = array if name == 'embed' else array.T
            yield OUTER[name], np.ascontiguousarray(array, dtype=stored_dtype)
    blocks = params['blocks']
    for tensor, names in block_tensors(config, is_fused).items():
        stacks = [loaded(blocks[name]) for name in names if name in blocks]
        for i in range(config.layers if stacks else 0):
            parts = [np.asarray(_layer(stack, i)).T for stack in stacks]
            array = np.ascontiguousarray(np.concatenate(parts), dtype=stored_dtype)
            yield tensor.format(i), array


@jax.jit
def _layer(stack, i):
    """Layer i of a stack [layers …]."""
    return jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)


def _save_shards(folder: str, tensors, shard_bytes: int) -> list[dict[str, int]]:
    """Writes the files under temporary names; for each, tensor -> its size in bytes."""
    shards: list[dict[str, int]] = []
    shard: dict[str, np.ndarray] = {}

    def save_shard():
        path = _partial_path(folder, len(shards))
        save_file(shard, path, metadata={'format': 'pt'})
        set_usual_mode(path)
        shards.append({tensor: array.nbytes for tensor, array in shard.items()})

    size = 0
    for tensor, array in tensors:
        if shard and size + array.nbytes > shard_bytes:
            save_shard()
            shard, size = {}, 0
        shard[tensor] = array
        size += array.nbytes
    save_shard()
    return shards


def _partial_path(folder: str, shard: int) -> str:
    return os.path.join(folder, f'{shard}.safetensors.partial')


def _replace_files(folder: str, shards: list[dict[str, int]]) -> None:
    """Removes the folder's old tensors, gives the new files their names and writes their index."""
    for name in os.listdir(folder):
        if name.endswith('.safetensors') or name == INDEX:
            os.remove(os.path.join(folder, name))
    if len(shards) == 1:
        os.replace(_partial_path(folder, 0), os.path.join(folder, 'model.safetensors'))
        return
    weight_map = {}
    for i, sizes in enumerate(shards):
        name = f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors'
        os.replace(_partial_path(folder, i), os.path.join(folder, name))
        weight_map |= dict.fromkeys(sizes, name)
    total_size = sum(sum(sizes.values()) for sizes in shards)
    write_json(folder, INDEX, {'metadata': {'total_size': total_size}, 'weight_map': weight_map})


def set_usual_mode(path: str) -> None:
    """Gives a file the mode of any new one: safetensors makes files that only their owner reads."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def write_json(folder: str, name: str, content: dict) -> None:
    """Writes a JSON file of a checkpoint."""
    with open(os.path.join(folder, name), 'w') as file:
        json.dump(content, file, indent=2)
        file.write('\n')
