"""LoRA adapters as PEFT folders: adapter_config.json and adapter_model.safetensors.

PEFT stores a factor A [rank, in] and a factor B [out, rank] for each matrix; the decoder has them
transposed, stacked over layers (see models.lora). Phi-3 has fused matrices, whose adapter is that
of several of ours: see `_fused`.
"""

import dataclasses
import os
import re

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from selfrew.models.config import ModelConfig
from selfrew.models.hf.config import read_object
from selfrew.models.hf.tensors import block_tensors
from selfrew.models.hf.writer import set_usual_mode, write_json
from selfrew.models.loading import loaded
from selfrew.models.lora import SUFFIXES

CONFIG, TENSORS = 'adapter_config.json', 'adapter_model.safetensors'
PREFIX = 'base_model.model.'
# Fields of an adapter_config.json that say that it holds more than plain adapters.
UNSUPPORTED = (
    'use_dora',
    'modules_to_save',
    'fan_in_fan_out',
    'use_qalora',
    'trainable_token_indices',
    'layer_replication',
    'lora_bias',
    'target_parameters',
)


def read_adapter_config(folder: str, config: ModelConfig) -> ModelConfig:
    """`config` with the rank and alpha of a PEFT folder's adapters.

    Raises ValueError for a folder that is none, or for adapters that the decoder does not have, by
    name.
    """
    fields = _read_fields(folder)
    path = os.path.join(folder, CONFIG)
    if fields.get('peft_type') != 'LORA':
        raise ValueError(f'{path}: peft_type={fields.get("peft_type")!r}; supported: LORA')
    wrong = [f'{name}={fields[name]!r}' for name in UNSUPPORTED if fields.get(name)]
    if fields.get('bias', 'none') != 'none':
        wrong.append(f'bias={fields["bias"]!r}')
    if wrong:
        raise ValueError(f'{path}: not supported: {", ".join(wrong)}')
    ranks = [fields.get('r', 8), *(fields.get('rank_pattern') or {}).values()]
    return dataclasses.replace(
        config, lora=int(max(ranks)), lora_alpha=float(fields.get('lora_alpha', 8))
    )


def read_adapters(folder: str, config: ModelConfig, fresh) -> dict:
    """The adapters of a PEFT folder, name -> float32 host array [layers …]; see models.lora.

    A matrix of a layer without an adapter there keeps its fresh one, which changes nothing yet. An
    adapter of a smaller rank, or of another scale, is written as one of this rank and scale.

    Args:
      config: of `read_adapter_config`.
      fresh: the adapters of lora.init_adapters, of the same structure.
    Raises ValueError that names tensors which the decoder has no adapter for, or of another shape.
    """
    fields, path = _read_fields(folder), os.path.join(folder, TENSORS)
    try:
        tensors = load_file(path)
    except (SafetensorError, FileNotFoundError) as problem:
        raise ValueError(f'{path} is cut short or missing ({problem})') from None
    is_fused = any('qkv_proj' in name or 'gate_up_proj' in name for name in tensors)
    adapters = {name: np.array(stack, np.float32) for name, stack in fresh.items()}
    used = set()
    for tensor, names in block_tensors(config, is_fused).items():
        names = [name for name in names if name + SUFFIXES[0] in adapters]
        for layer in range(config.layers if names else 0):
            module = tensor.format(layer).removesuffix('.weight')
            keys = [f'{PREFIX}{module}.lora_{factor}.weight' for factor in 'AB']
            if all(key in tensors for key in keys):
                used.update(keys)
                a, b = (np.asarray(tensors[key], np.float32) for key in keys)
                scale = _scale(fields, module, len(a)) * config.lora / config.lora_alpha
                stacks = [[adapters[name + suffix] for suffix in SUFFIXES] for name in names]
                _put(stacks, layer, a, b * np.float32(scale), f'{path}: the adapter of {module}')
    if extra := sorted(set(tensors) - used):
        raise ValueError(f'{path}: no adapter here for {", ".join(extra[:5])}')
    if not all(np.isfinite(stack).all() for stack in adapters.values()):
        raise ValueError(f'{path}: numbers that are not finite')
    return adapters


def _put(stacks, layer: int, a, b, what: str) -> None:
    """Puts the factors A and B of a layer's module into the stacks of the parameters it holds.

    stacks: [layers in rank] and [layers rank out] of each of these, one after the other along out.
    """
    inputs, widths = stacks[0][0].shape[1], [up.shape[2] for _, up in stacks]
    if a.shape[1:] != (inputs,) or b.shape != (sum(widths), len(a)):
        raise ValueError(
            f'{what} is {a.shape} and {b.shape}, expected (rank, {inputs}) and '
            f'({sum(widths)}, rank)'
        )
    start = 0
    for (down, up), width in zip(stacks, widths):
        down[layer, :, : len(a)] = a.T
        up[layer] = 0.0
        up[layer, : len(a)] = b[start : start + width].T
        start += width


def _scale(fields: dict, module: str, rank: int) -> float:
    """What PEFT multiplies a module's product with."""
    alpha = fields.get('lora_alpha', 8)
    for pattern, value in (fields.get('alpha_pattern') or {}).items():
        if re.match(rf'(.*\.)?({pattern})$', module):
            alpha = value
    return alpha / (rank**0.5 if fields.get('use_rslora') else rank)


def _read_fields(folder: str) -> dict:
    path = os.path.join(folder, CONFIG)
    if not os.path.exists(path):
        raise ValueError(f'{folder!r} holds no adapters: it has no {CONFIG}')
    return read_object(path)


def write_adapters(folder: str, base: str, config: ModelConfig, params, *, is_fused: bool) -> None:
    """Writes the adapters of `params` as a PEFT folder, float32.

    Args:
      base: folder or hub name of the model that they belong to.
      params: with adapters; only these are read. In the place of one there may be a function that
        returns it.
      is_fused: whether the base has the fused matrices of Phi-3.
    """
    tensors, targets, widest = {}, [], {}
    for tensor, names in block_tensors(config, is_fused).items():
        names = [name for name in names if name + SUFFIXES[0] in params['blocks']]
        if not names:
            continue
        factors = [
            [np.asarray(loaded(params['blocks'][name + suffix]), np.float32) for suffix in SUFFIXES]
            for name in names
        ]
        target = tensor.split('.')[-2]
        targets.append(target)
        if len(names) > 1:
            widest[target] = len(names)
        for layer in range(config.layers):
            a, b = _fused([(down[layer].T, up[layer].T) for down, up in factors])
            module = PREFIX + tensor.format(layer).removesuffix('.weight')
            tensors[f'{module}.lora_A.weight'] = np.ascontiguousarray(a)
            tensors[f'{module}.lora_B.weight'] = np.ascontiguousarray(b)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, TENSORS)
    save_file(tensors, path, metadata={'format': 'pt'})
    set_usual_mode(path)
    fields = {
        'peft_type': 'LORA',
        'task_type': 'SEQ_CLS' if config.scalar_head else 'CAUSAL_LM',
        'base_model_name_or_path': base,
        'r': config.lora,
        'lora_alpha': config.lora_alpha,
        'target_modules': targets,
        'rank_pattern': {name: count * config.lora for name, count in widest.items()},
        'alpha_pattern': {name: count * config.lora_alpha for name, count in widest.items()},
        'lora_dropout': 0.0,
        'bias': 'none',
        'inference_mode': True,
    }
    write_json(folder, CONFIG, fields)


def _fused(factors) -> tuple[np.ndarray, np.ndarray]:
    """(A, B) of a matrix that holds several: their As above each other, their Bs block by block."""
    downs, ups = zip(*factors)
    fused_b = np.zeros((sum(map(len, ups)), sum(map(len, downs))), np.float32)
    row = column = 0
    for down, up in factors:
        fused_b[row : row + len(up), column : column + len(down)] = up
        row, column = row + len(up), column + len(down)
    return np.concatenate(downs), fused_b
