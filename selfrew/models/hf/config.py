"""Hugging Face folders, in and out: config.json and safetensors, read tensor by tensor, without
torch. Layer 1.
"""

import json
import os

import numpy as np

from selfrew.models.decoder import ModelConfig, Rope

# --- config.json ------------------------------------------------------------------------------------------------------

# family -> the switches that all its members have. An architecture is a family and what it is for.
FAMILIES = {
    'Llama': {},
    'Mistral': {},
    'Qwen2': {'qkv_bias': True},
    'Qwen3': {'qk_norm': 'head'},
    'Gemma2': {'norms': 'both', 'unit_offset': True},
    'Gemma3': {'norms': 'both', 'unit_offset': True, 'qk_norm': 'head'},
    'Phi3': {},
    'Olmo2': {'norms': 'post', 'qk_norm': 'width'},
}
HEADS = {'ForCausalLM': False, 'ForSequenceClassification': True}
ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
ROPES = 'default', 'linear', 'llama3', 'longrope'
# What a family's own class takes for a field that its config.json leaves out, where that differs
# from Llama's.
DEFAULTS = {
    'Mistral': {
        'num_key_value_heads': 8,
        'sliding_window': 4096,
        'max_position_embeddings': 131072,
    },
    'Qwen2': {'num_key_value_heads': 32, 'sliding_window': 4096, 'max_position_embeddings': 32768},
    'Qwen3': {
        'num_key_value_heads': 32,
        'head_dim': 128,
        'sliding_window': 4096,
        'max_position_embeddings': 32768,
    },
    'Gemma2': {
        'head_dim': 256,
        'num_key_value_heads': 4,
        'query_pre_attn_scalar': 256,
        'sliding_window': 4096,
        'attn_logit_softcapping': 50.0,
        'final_logit_softcapping': 30.0,
        'tie_word_embeddings': True,
        'max_position_embeddings': 8192,
    },
    'Gemma3': {
        'head_dim': 256,
        'num_key_value_heads': 4,
        'query_pre_attn_scalar': 256,
        'sliding_window': 4096,
        'tie_word_embeddings': True,
        'rope_theta': 1e6,
        'rope_local_base_freq': 1e4,
        'sliding_window_pattern': 6,
        'max_position_embeddings': 131072,
        'vocab_size': 262208,
    },
    'Phi3': {
        'rms_norm_eps': 1e-5,
        'max_position_embeddings': 4096,
        'original_max_position_embeddings': 4096,
    },
    'Olmo2': {'rms_norm_eps': 1e-5},
}
# Switches that this decoder does not have, and the values of each at which they do nothing.
FIXED = {
    'attention_bias': (False,),
    'mlp_bias': (False,),
    'pretraining_tp': (1,),
    'attention_dropout': (0, None),
    'resid_pdrop': (0,),
    'embd_pdrop': (0,),
    'use_bidirectional_attention': (False, None),
    'is_decoder': (True, False),
    'add_cross_attention': (False,),
    'tie_encoder_decoder': (False,),
    'cross_attention_hidden_size': (None,),
    'clip_qkv': (None,),
    'num_labels': (1,),
    'full_attn_mod': (1,),
    'interpolate_factor': (1,),
}
# Fields that say nothing about the arithmetic of a forward pass, or are read elsewhere.
HARMLESS = {
    'architectures',
    'model_type',
    'torch_dtype',
    'dtype',
    'transformers_version',
    'use_cache',
    'initializer_range',
    'bos_token_id',
    'eos_token_id',
    'pad_token_id',
    'sep_token_id',
    '_name_or_path',
    'auto_map',
    'id2label',
    'label2id',
    'problem_type',
    'cache_implementation',
    'chunk_size_feed_forward',
    'output_attentions',
    'output_hidden_states',
    'return_dict',
    'classifier_dropout',
    'initializer_std',
    'unsloth_version',
    '_attn_implementation',
    '_attn_implementation_autoset',
    'finetuning_task',
    'task_specific_params',
    'prefix',
    '_commit_hash',
    'is_llama_config',
    'transformers.js_config',
    'sliding_window_size',  # Gemma 2's first files say sliding_window twice
    # how to sample, where a generation_config.json has it now
    'max_length',
    'max_new_tokens',
    'min_length',
    'do_sample',
    'temperature',
    'top_p',
    'top_k',
    'num_beams',
    'repetition_penalty',
}


class _Fields:
    """A config.json that remembers which of its fields were read."""

    def __init__(self, fields: dict, defaults: dict):
        self._fields, self._defaults, self.read = fields, defaults, set()

    def __call__(self, name, default=None):
        self.read.add(name)
        value = self._fields.get(name)
        return (
            self._defaults.get(name, default)
            if value is None and name not in self._fields
            else value
        )


def config_of(fields: dict, where: str, max_length: int | None = None) -> ModelConfig:
    """The decoder's shape from the content of a config.json, in the hub's or in transformers 5's
    form.

    Args:
      where: the file, for messages.
      max_length: the longest context of the run, at most the checkpoint's; None: the checkpoint's
        (of LongRoPE, the context before it was extended: its factors for longer ones are taken only
        where a longer one is asked for).
    Raises ValueError for an architecture or a switch that is not supported, by name, or a missing
    field.
    """
    named = (fields.get('architectures') or ['none'])[0]
    head = next((h for h in HEADS if named.endswith(h)), '')
    family = named.removesuffix(head)
    family = 'Gemma3' if named == 'Gemma3TextForSequenceClassification' else family
    if not head or family not in FAMILIES:
        raise ValueError(
            f'{where}: architecture {named!r} is not supported; supported: '
            f'{", ".join(FAMILIES)}, each with {" or ".join(HEADS)}'
        )
    get = _Fields(fields, DEFAULTS.get(family, {}))

    def need(name):
        if (value := get(name)) is None:
            raise ValueError(f'{where}: {name} is missing')
        return value

    for switch, values in FIXED.items():
        if get(switch, values[0]) not in values:
            raise ValueError(
                f'{where}: {switch}={fields[switch]!r} is not supported; supported: {values[0]!r}'
            )
    # Without a word on labels there are two, as transformers' classes have it.
    if HEADS[head] and 'num_labels' not in fields and (labels := len(get('id2label') or 'ab')) != 1:
        raise ValueError(
            f'{where}: {labels} labels (id2label) are not supported; supported: 1, a reward'
        )
    act = (
        get('hidden_activation')
        or get('hidden_act')
        or ('gelu_pytorch_tanh' if 'Gemma' in family else 'silu')
    )
    if 'Gemma' in family:
        get('hidden_act')  # stands there for old readers, whatever it says
    if act not in ACTIVATIONS:
        raise ValueError(
            f'{where}: activation {act!r} is not supported; supported: {", ".join(ACTIVATIONS)}'
        )

    width, heads, layers = (
        need('hidden_size'),
        need('num_attention_heads'),
        need('num_hidden_layers'),
    )
    positions = get('max_position_embeddings', 2048)
    window, local = _locals(get, family, layers, where)
    rope, local_rope = _ropes(get, family, positions, where)
    limit = positions
    if rope.kind == 'longrope' and max_length is None:
        limit = min(positions, rope.original)
    if max_length is not None and not 1 <= max_length <= positions:
        raise ValueError(
            f'{where}: max_length={max_length}, and the model has positions for 1 to {positions}'
        )
    scale = get('query_pre_attn_scalar') if 'Gemma' in family else None
    config = ModelConfig(
        vocab=need('vocab_size'),
        width=width,
        layers=layers,
        heads=heads,
        max_length=max_length or limit,
        kv_heads=get('num_key_value_heads') or heads,
        head_dim=get('head_dim') or width // heads,
        mlp=need('intermediate_size'),
        rope=rope,
        local_rope=local_rope,
        norm_eps=get('rms_norm_eps', 1e-6),
        tied=bool(get('tie_word_embeddings', False)) or HEADS[head],
        scalar_head=HEADS[head],
        activation=ACTIVATIONS[act],
        embed_scale=width**0.5 if 'Gemma' in family else 1.0,
        window=window,
        local=local,
        attention_scale=scale**-0.5 if scale else None,
        attention_softcap=get('attn_logit_softcapping') if 'Gemma' in family else None,
        final_softcap=get('final_logit_softcapping') if 'Gemma' in family else None,
        **FAMILIES[family],
    )
    half = int(config.head_dim * rope.partial) // 2
    if rope.kind == 'longrope' and (len(rope.short), len(rope.long)) != (half, half):
        raise ValueError(
            f'{where}: longrope wants {half} factors, got {len(rope.short)} short, {len(rope.long)} long'
        )
    unread = {
        k: v for k, v in fields.items() if k not in get.read | HARMLESS and v not in (None, False)
    }
    if unread:
        shown = ', '.join(f'{k}={v!r}'[:80] for k, v in unread.items())
        raise ValueError(
            f'{where}: nothing here reads {shown}; a {family} is supported with: '
            f'{", ".join(sorted(get.read))}'
        )
    return config


def _locals(get, family: str, layers: int, where: str):
    """(window, which layers are local)."""
    window, kinds = get('sliding_window'), get('layer_types')
    used, first, pattern = (
        get('use_sliding_window', False),
        get('max_window_layers', 28),
        get('sliding_window_pattern'),
    )
    get('_sliding_window_pattern')
    if not window or (family in ('Qwen2', 'Qwen3') and not used):
        window = None
    if kinds is not None:
        unknown = set(kinds) - {'full_attention', 'sliding_attention'}
        if unknown or len(kinds) != layers:
            raise ValueError(
                f'{where}: layer_types {unknown or kinds} is not supported; supported: one of full_attention, '
                f'sliding_attention for each of {layers} layers'
            )
        local = tuple(kind == 'sliding_attention' for kind in kinds)
    elif family in ('Qwen2', 'Qwen3'):
        local = tuple(i >= first for i in range(layers))
    elif family in ('Gemma2', 'Gemma3'):
        every = 2 if family == 'Gemma2' else pattern
        local = tuple((i + 1) % every != 0 for i in range(layers))
    else:
        local = (True,) * layers
    if window is None and family != 'Gemma3':
        local = ()
    return (window, local) if any(local) else (None, ())


def _ropes(get, family: str, positions: int, where: str):
    """(rope, rope of the local layers or None)."""
    new, old = get('rope_parameters'), get('rope_scaling') or {}
    theta, local_theta = get('rope_theta', 10000.0), get('rope_local_base_freq')
    partial, original = get('partial_rotary_factor', 1.0), get('original_max_position_embeddings')

    def rope(d, theta):
        kind = d.get('rope_type', d.get('type', 'default'))
        kind = 'longrope' if family == 'Phi3' and kind in ('su', 'yarn') else kind
        if kind not in ROPES:
            raise ValueError(
                f'{where}: rope type {kind!r} is not supported; supported: {", ".join(ROPES)}'
            )
        fields = {
            'theta': float(d.get('rope_theta', theta)),
            'partial': float(d.get('partial_rotary_factor', partial)),
        }
        try:
            if kind in ('linear', 'llama3'):
                fields['factor'] = float(d['factor'])
            if kind == 'llama3':
                fields |= {
                    'low': float(d['low_freq_factor']),
                    'high': float(d['high_freq_factor']),
                    'original': int(d['original_max_position_embeddings']),
                }
            if kind == 'longrope':
                before = int(original or d['original_max_position_embeddings'])
                factor = d.get('factor') or positions / before
                grown = float(np.sqrt(1 + np.log(factor) / np.log(before))) if factor > 1 else 1.0
                fields |= {
                    'short': tuple(map(float, d['short_factor'])),
                    'long': tuple(map(float, d['long_factor'])),
                    'original': before,
                    'attention_factor': float(d.get('attention_factor') or grown),
                }
        except KeyError as missing:
            raise ValueError(f'{where}: rope type {kind!r} wants {missing}') from None
        return Rope(kind=kind, **fields)

    if family == 'Gemma3':
        both = new or {}
        if new is not None and not {'full_attention', 'sliding_attention'} & set(new):
            both = {'full_attention': new}
        return (
            rope(both.get('full_attention') or old, theta),
            rope(both.get('sliding_attention') or {}, local_theta),
        )
    return rope(new if new is not None else old, theta), None


def read_json(folder: str) -> dict:
    """The content of a folder's config.json. ValueError where there is none, or it is none."""
    path = os.path.join(folder, 'config.json')
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        raise ValueError(
            f'{folder!r} is not a Hugging Face checkpoint: it has no config.json'
        ) from None
    except json.JSONDecodeError as problem:
        raise ValueError(f'{path} is not JSON: {problem}') from None


def read_config(folder: str, max_length: int | None = None) -> ModelConfig:
    """The decoder's shape from a folder's config.json. Raises as `config_of` and `read_json` do."""
    return config_of(read_json(folder), os.path.join(folder, 'config.json'), max_length)


def llama(config: ModelConfig, *, bos: int, eos: int, pad: int) -> dict:
    """The config.json of a decoder that has no switch set."""
    return {
        'architectures': ['LlamaForCausalLM'],
        'model_type': 'llama',
        'vocab_size': config.vocab,
        'hidden_size': config.width,
        'num_hidden_layers': config.layers,
        'num_attention_heads': config.heads,
        'num_key_value_heads': config.kv_heads,
        'head_dim': config.head_dim,
        'intermediate_size': config.mlp,
        'max_position_embeddings': config.max_length,
        'rope_theta': config.rope.theta,
        'rms_norm_eps': config.norm_eps,
        'tie_word_embeddings': config.tied,
        'hidden_act': 'silu',
        'attention_bias': False,
        'mlp_bias': False,
        'bos_token_id': bos,
        'eos_token_id': eos,
        'pad_token_id': pad,
    }
