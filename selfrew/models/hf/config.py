"""Reads a config.json into a `ModelConfig`, and refuses by name what the decoder cannot do."""

import dataclasses
import functools
import inspect
import json
import logging
import os
from typing import Any

import numpy as np

from selfrew.models.config import ModelConfig, Rope
from selfrew.models.hf.families import (
    ACTIVATIONS,
    CONFIG_CLASSES,
    DEFAULTS,
    FAMILIES,
    HEADS,
    IGNORED,
    LAYER_TYPED,
    NO_EFFECT,
    READ_BY_LOADER,
    ROPE_TYPES,
    WINDOWED,
)
from selfrew.models.hf.gguf_config import gguf_fields
from selfrew.models.hf.gguf_file import is_gguf


class _Fields:
    """The fields of a config.json, which remembers those that were read."""

    def __init__(self, values: dict, defaults: dict, source: str):
        self.values, self.source = values, source
        self._defaults = defaults
        self._read: set[str] = set()

    def get(self, name: str, default=None) -> Any:
        """The value of a field, else the family's default, else `default`."""
        self._read.add(name)
        return self.values.get(name, self._defaults.get(name, default))

    def require(self, name: str) -> Any:
        """The value of a field. ValueError where it is missing or null."""
        value = self.get(name)
        if value is None:
            raise ValueError(f'{self.source}: {name} is missing')
        return value

    def check_unread(self, family: str) -> None:
        """Decides on the fields that nothing has read, as transformers does.

        Those that its config class does not know are ignored, which is said once. Raises ValueError
        naming those that it knows, or its loader reads, unless they have no effect as they are.
        """
        unread = {
            name: value for name, value in self.values.items() if name not in self._read | IGNORED
        }
        defaults = _class_defaults(family) if unread else {}
        unknown, unsupported = [], []
        for name, value in unread.items():
            shown = f'{name}={value!r}'[:80]
            if name in READ_BY_LOADER:
                if value:
                    unsupported.append(shown)
            elif name not in defaults:
                unknown += [shown] if value else []
            elif value != defaults[name] and value not in NO_EFFECT.get(name, ()):
                unsupported.append(shown)
        if unsupported:
            raise ValueError(
                f'{self.source}: not supported: {", ".join(unsupported)}; '
                f'the fields supported for {family} are: {", ".join(sorted(self._read))}'
            )
        if unknown:
            _say_ignored(self.source, ', '.join(unknown))


@functools.cache
def _class_defaults(family: str) -> dict[str, Any]:
    """Field -> default of transformers' config class for a family."""
    from transformers import CONFIG_MAPPING  # noqa: PLC0415 (takes two seconds)

    config_class = CONFIG_MAPPING[CONFIG_CLASSES[family]]
    config = config_class()
    if dataclasses.is_dataclass(config_class):
        names = {field.name for field in dataclasses.fields(config_class)}
    else:  # in the first versions of transformers 5
        names = set(inspect.signature(config_class.__init__).parameters)
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


@functools.cache  # once for each file
def _say_ignored(source: str, fields: str) -> None:
    logging.warning('%s: ignored, as transformers ignores it: %s', source, fields)


def config_of(fields: dict, source: str, max_length: int | None = None) -> ModelConfig:
    """The decoder's shape from the content of a config.json, of transformers 5 or an older form.

    Args:
      source: the path of the file, for error messages.
      max_length: the longest context of the run, at most the checkpoint's. None: the checkpoint's;
        for LongRoPE the context before it was extended, since the factors for longer contexts are
        used only where a longer context is asked for.
    Raises ValueError for an unsupported architecture, switch or field, by name, and for a missing
    field.
    """
    family, is_scalar = _architecture(fields, source)
    reader = _Fields(fields, DEFAULTS.get(family, {}), source)
    if is_scalar:
        _check_single_label(reader)
    is_gemma = 'Gemma' in family
    activation = _activation(reader, is_gemma)
    width, heads = reader.require('hidden_size'), reader.require('num_attention_heads')
    layers: int = reader.require('num_hidden_layers')
    window, local = _attention_pattern(reader, family, layers)
    rope, local_rope = _ropes(reader, family)
    context_length = _context_length(reader, rope, max_length)
    query_scale = reader.get('query_pre_attn_scalar') if is_gemma else None
    config = ModelConfig(
        vocab=reader.require('vocab_size'),
        width=width,
        layers=layers,
        heads=heads,
        max_length=context_length,
        kv_heads=reader.get('num_key_value_heads') or heads,
        head_dim=reader.get('head_dim') or width // heads,
        mlp=reader.require('intermediate_size'),
        rope=rope,
        local_rope=local_rope,
        norm_eps=reader.get('rms_norm_eps', 1e-6),
        tied=bool(reader.get('tie_word_embeddings', False)) or is_scalar,
        scalar_head=is_scalar,
        activation=activation,
        embed_scale=width**0.5 if is_gemma else 1.0,
        window=window,
        local=local,
        attention_scale=query_scale**-0.5 if query_scale else None,
        attention_softcap=reader.get('attn_logit_softcapping') if is_gemma else None,
        final_softcap=reader.get('final_logit_softcapping') if is_gemma else None,
        **FAMILIES[family],
    )
    _check_longrope(config, source)
    reader.check_unread(family)
    return config


def _architecture(fields: dict, source: str) -> tuple[str, bool]:
    """(family, has a scalar head) of the first architecture named."""
    architecture = (fields.get('architectures') or ['none'])[0]
    head = next((name for name in HEADS if architecture.endswith(name)), '')
    family = architecture.removesuffix(head)
    if architecture == 'Gemma3TextForSequenceClassification':
        family = 'Gemma3'
    if not head or family not in FAMILIES:
        raise ValueError(
            f'{source}: architecture {architecture!r} is not supported; supported: '
            f'{", ".join(FAMILIES)}, each with {" or ".join(HEADS)}'
        )
    return family, HEADS[head]


def _check_single_label(reader: _Fields) -> None:
    """ValueError for a classifier with more than one label. The default of transformers is two."""
    id2label = reader.get('id2label')
    labels = reader.get('num_labels', len(id2label) if id2label else 2)
    if labels != 1:
        raise ValueError(
            f'{reader.source}: num_labels={labels} (or id2label) is not supported; '
            f'supported: 1, a reward'
        )


def _activation(reader: _Fields, is_gemma: bool) -> str:
    """The activation of the MLP, as `ModelConfig` names it."""
    name = reader.get('hidden_act')
    if is_gemma:  # hidden_act is for old readers
        name = reader.get('hidden_activation') or name
    name = name or ('gelu_pytorch_tanh' if is_gemma else 'silu')
    if name not in ACTIVATIONS:
        raise ValueError(
            f'{reader.source}: activation {name!r} is not supported; '
            f'supported: {", ".join(ACTIVATIONS)}'
        )
    return ACTIVATIONS[name]


def _context_length(reader: _Fields, rope: Rope, max_length: int | None) -> int:
    """The longest context in tokens: see `config_of`."""
    positions: int = _positions(reader)
    if max_length is None:
        return min(positions, rope.original) if rope.kind == 'longrope' else positions
    if not 1 <= max_length <= positions:
        raise ValueError(
            f'{reader.source}: max_length={max_length}, '
            f'and the model has positions for 1 to {positions}'
        )
    return max_length


def _positions(reader: _Fields) -> int:
    return reader.get('max_position_embeddings', 2048)


def _attention_pattern(
    reader: _Fields, family: str, layers: int
) -> tuple[int | None, tuple[bool, ...]]:
    """(window in tokens, is each layer local?); (None, ()) where no layer is local."""
    if family not in WINDOWED:
        return None, ()
    window: int | None = reader.get('sliding_window')
    if family in ('Qwen2', 'Qwen3') and not reader.get('use_sliding_window', False):
        window = None
    local = _local_layers(reader, family, layers)
    if not window and family != 'Gemma3':
        local = ()
    return (window, local) if any(local) else (None, ())


def _local_layers(reader: _Fields, family: str, layers: int) -> tuple[bool, ...]:
    """Is each layer local? Taken from layer_types, else from the family's older fields."""
    if family not in LAYER_TYPED:
        return (True,) * layers
    layer_types = reader.get('layer_types')
    first_local = reader.get('max_window_layers', 28) if family.startswith('Qwen') else 0
    period = 2 if family == 'Gemma2' else None
    if family == 'Gemma3':
        period = reader.get('sliding_window_pattern')
        reader.get('_sliding_window_pattern')  # transformers 5 writes it beside layer_types
    if layer_types is not None:
        unknown = set(layer_types) - {'full_attention', 'sliding_attention'}
        if unknown or len(layer_types) != layers:
            raise ValueError(
                f'{reader.source}: layer_types {unknown or layer_types} is not supported; '
                f'supported: full_attention or sliding_attention for each of {layers} layers'
            )
        return tuple(layer_type == 'sliding_attention' for layer_type in layer_types)
    if period is None:
        return tuple(i >= first_local for i in range(layers))
    return tuple((i + 1) % period != 0 for i in range(layers))


def _ropes(reader: _Fields, family: str) -> tuple[Rope, Rope | None]:
    """(rope, rope of the local layers, or None where it is the same).

    transformers 5 writes rope_parameters; older files have rope_scaling beside rope_theta.
    """
    parameters: dict | None = reader.get('rope_parameters')
    scaling: dict = reader.get('rope_scaling') or {}
    if scaling and family != 'Gemma3':  # as in transformers, where a file has both
        parameters = None
    theta, local_theta = reader.get('rope_theta', 10000.0), reader.get('rope_local_base_freq')
    if family != 'Gemma3':
        return _rope(reader, family, scaling if parameters is None else parameters, theta), None
    by_layer_type = parameters or {}
    if parameters is not None and not {'full_attention', 'sliding_attention'} & set(parameters):
        by_layer_type = {'full_attention': parameters}
    full_parameters = by_layer_type.get('full_attention') or scaling
    local_parameters = by_layer_type.get('sliding_attention') or {}
    return (
        _rope(reader, family, full_parameters, theta),
        _rope(reader, family, local_parameters, local_theta),
    )


def _rope(reader: _Fields, family: str, parameters: dict, theta) -> Rope:
    """The rotary positions of rope_parameters or rope_scaling; `theta` where these have none."""
    kind = parameters.get('rope_type', parameters.get('type', 'default'))
    if family == 'Phi3' and kind in ('su', 'yarn'):  # older names
        kind = 'longrope'
    if kind not in ROPE_TYPES:
        raise ValueError(
            f'{reader.source}: rope type {kind!r} is not supported; '
            f'supported: {", ".join(ROPE_TYPES)}'
        )
    partial = 1.0
    if family == 'Phi3':  # the models of other families rotate a whole head
        partial = reader.get('partial_rotary_factor', 1.0)
        partial = float(parameters.get('partial_rotary_factor', partial))
    rope = Rope(kind=kind, theta=float(parameters.get('rope_theta', theta)), partial=partial)
    original = reader.get('original_max_position_embeddings')
    try:
        if kind in ('linear', 'llama3'):
            rope = dataclasses.replace(rope, factor=float(parameters['factor']))
        if kind == 'llama3':
            rope = dataclasses.replace(
                rope,
                low=float(parameters['low_freq_factor']),
                high=float(parameters['high_freq_factor']),
                original=int(parameters['original_max_position_embeddings']),
            )
        if kind == 'longrope':
            original = int(original or parameters['original_max_position_embeddings'])
            rope = _longrope(rope, parameters, original, _positions(reader))
    except KeyError as missing:
        raise ValueError(f'{reader.source}: rope type {kind!r} needs {missing}') from None
    return rope


def _longrope(rope: Rope, parameters: dict, original: int, positions: int) -> Rope:
    """`rope` with LongRoPE's factors; `original` is the context before it was extended.

    The attention factor, where the file has none, is √(1 + ln(factor) / ln(original)).
    """
    factor = parameters.get('factor') or positions / original
    default = float(np.sqrt(1 + np.log(factor) / np.log(original))) if factor > 1 else 1.0
    return dataclasses.replace(
        rope,
        short=tuple(map(float, parameters['short_factor'])),
        long=tuple(map(float, parameters['long_factor'])),
        original=original,
        attention_factor=float(parameters.get('attention_factor') or default),
    )


def _check_longrope(config: ModelConfig, source: str) -> None:
    """ValueError unless LongRoPE has a short and a long factor for each rotated pair."""
    rope = config.rope
    pairs = int(config.head_dim * rope.partial) // 2
    if rope.kind == 'longrope' and (len(rope.short), len(rope.long)) != (pairs, pairs):
        raise ValueError(
            f'{source}: longrope needs {pairs} factors, '
            f'got {len(rope.short)} short and {len(rope.long)} long'
        )


def read_fields(folder: str) -> dict:
    """The content of a folder's config.json, or of the one that belongs to a GGUF file.

    ValueError where it is missing or not JSON; of a GGUF file, as `gguf_fields` raises it.
    """
    if is_gguf(folder):
        return gguf_fields(folder)
    path = os.path.join(folder, 'config.json')
    if not os.path.exists(path):
        hint = ''
        if os.path.exists(os.path.join(folder, 'adapter_config.json')):
            hint = '; it holds adapters: name their base in model.folder and this in model.adapter'
        raise ValueError(
            f'{folder!r} is not a Hugging Face checkpoint: it has no config.json{hint}'
        )
    return read_object(path)


def read_object(path: str) -> dict:
    """The object in a JSON file. ValueError where it is not one."""
    try:
        with open(path, encoding='utf-8') as file:
            fields = json.load(file)
    except ValueError as problem:
        raise ValueError(f'{path} is not JSON: {problem}') from None
    if not isinstance(fields, dict):
        raise ValueError(f'{path}: want an object, got {type(fields).__name__}')
    return fields


def read_config(folder: str, max_length: int | None = None) -> ModelConfig:
    """The decoder's shape from a folder's config.json or a GGUF file.

    Raises as `read_fields` and `config_of` do.
    """
    source = folder if is_gguf(folder) else os.path.join(folder, 'config.json')
    return config_of(read_fields(folder), source, max_length)


def llama_fields(config: ModelConfig, *, bos: int, eos: int, pad: int) -> dict:
    """The content of config.json for a decoder with no family's switches, which is a Llama."""
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


def read_optional(folder: str, name: str) -> dict:
    """The content of another JSON file of a folder; empty where there is none.

    Raises ValueError where it is not a JSON object.
    """
    path = os.path.join(folder, name)
    return read_object(path) if os.path.exists(path) else {}
