"""Hugging Face folders, in and out: config.json and safetensors, read tensor by tensor, without torch."""

import json
import os

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from selfrew.models.decoder import ModelConfig

ARCHITECTURES = ('LlamaForCausalLM',)
# Switches that this decoder does not have, and the one value of each at which they do nothing.
FIXED = {'hidden_act': 'silu', 'attention_bias': False, 'mlp_bias': False, 'pretraining_tp': 1}

# ours -> theirs; `{}` is the layer. Matrices are stored [out, in] there and [in, out] here.
OUTER = {'embed': 'model.embed_tokens.weight', 'norm': 'model.norm.weight', 'head': 'lm_head.weight'}
LAYER = {
    'attention_norm': 'input_layernorm', 'q': 'self_attn.q_proj', 'k': 'self_attn.k_proj', 'v': 'self_attn.v_proj',
    'o': 'self_attn.o_proj', 'mlp_norm': 'post_attention_layernorm', 'gate': 'mlp.gate_proj', 'up': 'mlp.up_proj',
    'down': 'mlp.down_proj',
}  # fmt: skip
LAYER = {ours: f'model.layers.{{}}.{theirs}.weight' for ours, theirs in LAYER.items()}


def read_config(folder: str) -> ModelConfig:
    """The decoder's shape from config.json.

    Raises FileNotFoundError without the file, ValueError for an architecture or a switch that is not supported.
    """
    path = os.path.join(folder, 'config.json')
    with open(path) as file:
        d = json.load(file)
    named = (d.get('architectures') or ['none'])[0]
    if named not in ARCHITECTURES:
        raise ValueError(f'{path}: architecture {named!r} is not supported; supported: {", ".join(ARCHITECTURES)}')
    for switch, value in FIXED.items():
        if d.get(switch, value) != value:
            raise ValueError(f'{path}: {switch}={d[switch]!r} is not supported; supported: {value!r}')
    rope = d.get('rope_parameters') or d.get('rope_scaling') or {}
    kind = rope.get('rope_type', rope.get('type', 'default'))
    if kind != 'default':
        raise ValueError(f'{path}: rope type {kind!r} is not supported; supported: default')
    heads = d['num_attention_heads']
    return ModelConfig(
        vocab=d['vocab_size'], width=d['hidden_size'], layers=d['num_hidden_layers'], heads=heads,
        kv_heads=d.get('num_key_value_heads') or heads, head_dim=d.get('head_dim') or d['hidden_size'] // heads,
        mlp=d['intermediate_size'], max_length=d['max_position_embeddings'],
        rope_theta=float(rope.get('rope_theta', d.get('rope_theta', 10000.0))), norm_eps=d.get('rms_norm_eps', 1e-6),
        tied=d.get('tie_word_embeddings', False),
    )  # fmt: skip


def _files(folder: str) -> dict:
    """Tensor name -> the safetensors file that holds it."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith('.safetensors'):
            with safe_open(os.path.join(folder, name), framework='np') as file:
                found.update(dict.fromkeys(file.keys(), os.path.join(folder, name)))
    if not found:
        raise FileNotFoundError(f'no .safetensors file in {folder!r}')
    return found


def read_params(folder: str, shapes, place) -> dict:
    """The parameters, in the structure of `shapes` (see decoder.abstract).

    `place(array, path)` puts a host array on the devices; path is the keys from the root, e.g. ('blocks', 'q').
    Raises ValueError that names missing, extra or misshapen tensors.
    """
    files, used, wrong = _files(folder), set(), []

    def tensor(name, shape):
        used.add(name)
        if name not in files:
            wrong.append(f'missing: {name}')
            return np.zeros(shape, np.float32)
        with safe_open(files[name], framework='np') as file:
            array = file.get_tensor(name)
        array = array.T if array.ndim == 2 and name != OUTER['embed'] else array
        if array.shape != shape:
            wrong.append(f'misshapen: {name} is {array.shape}, expected {shape}')
            return np.zeros(shape, np.float32)
        return array.astype(np.float32)

    def stacked(name, leaf):
        return np.stack([tensor(LAYER[name].format(i), leaf.shape[1:]) for i in range(leaf.shape[0])])

    params = {'blocks': {k: place(stacked(k, leaf), ('blocks', k)) for k, leaf in shapes['blocks'].items()}}
    for name, leaf in shapes.items():
        if name != 'blocks':
            if name not in OUTER:
                raise ValueError(f'a checkpoint of {ARCHITECTURES[0]} has no tensor for {name!r}')
            params[name] = place(tensor(OUTER[name], leaf.shape), (name,))
    ignored = {OUTER['head']} if 'head' not in shapes else set()  # some writers store a tied head again
    wrong += [f'extra: {name}' for name in sorted(set(files) - used - ignored)]
    if wrong:
        raise ValueError(f'{folder}: ' + '; '.join(wrong))
    return params


def write(folder: str, config: ModelConfig, params, *, bos: int, eos: int, pad: int) -> None:
    """config.json and model.safetensors (float32) of `params`. The tokenizer is the caller's.

    Raises ValueError for parameters that such a checkpoint has no tensor for.
    """
    if unknown := set(params) - set(OUTER) - {'blocks'}:
        raise ValueError(f'a checkpoint of {ARCHITECTURES[0]} has no tensor for {", ".join(sorted(unknown))}')
    os.makedirs(folder, exist_ok=True)
    tensors = {}
    for name, stack in params['blocks'].items():
        for i, array in enumerate(np.asarray(stack, np.float32)):
            tensors[LAYER[name].format(i)] = np.ascontiguousarray(array.T)
    for name, theirs in OUTER.items():
        if name in params:
            array = np.asarray(params[name], np.float32)
            tensors[theirs] = np.ascontiguousarray(array.T if name == 'head' else array)
    save_file(tensors, os.path.join(folder, 'model.safetensors'), metadata={'format': 'pt'})
    d = {
        'architectures': [ARCHITECTURES[0]], 'model_type': 'llama', 'vocab_size': config.vocab,
        'hidden_size': config.width, 'num_hidden_layers': config.layers, 'num_attention_heads': config.heads,
        'num_key_value_heads': config.kv_heads, 'head_dim': config.head_dim, 'intermediate_size': config.mlp,
        'max_position_embeddings': config.max_length, 'rope_theta': config.rope_theta,
        'rms_norm_eps': config.norm_eps, 'tie_word_embeddings': config.tied, 'hidden_act': 'silu',
        'attention_bias': False, 'mlp_bias': False, 'dtype': 'float32',
        'bos_token_id': bos, 'eos_token_id': eos, 'pad_token_id': pad,
    }  # fmt: skip
    with open(os.path.join(folder, 'config.json'), 'w') as file:
        json.dump(d, file, indent=2)
        file.write('\n')
