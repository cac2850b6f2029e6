"""Writes GGUF files of transformers' models, as llama.cpp's converter does. Needs gguf."""

import gguf
import numpy as np

ARCHITECTURES = {
    'llama': 'llama',
    'mistral': 'llama',
    'qwen2': 'qwen2',
    'qwen3': 'qwen3',
    'gemma2': 'gemma2',
    'gemma3_text': 'gemma3',
    'phi3': 'phi3',
    'olmo2': 'olmo2',
}
KINDS = gguf.GGMLQuantizationType


def write(path, model, kind=KINDS.F32, tokenizer=None, extra=None, **metadata) -> None:
    """Writes a file of a torch model.

    Args:
      kind: of the matrices; norms and biases are float32.
      tokenizer: its keys, without their prefix `tokenizer.`; None: tokens 't0', 't1', ….
      extra: tensors that are added, stored as they are.
      metadata: keys that are added or replaced, `.` spelt `__`; None leaves a key out.
    """
    config = model.config
    arch = ARCHITECTURES[config.model_type]
    tensors = {name: x.float().numpy() for name, x in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors['lm_head.weight']
    fields = _fields(arch, config)
    tokens = [f't{i}' for i in range(config.vocab_size)]
    fields |= {f'tokenizer.{key}': value for key, value in (tokenizer or {}).items()}
    fields.setdefault('tokenizer.ggml.tokens', tokens)
    fields |= {key.replace('__', '.'): value for key, value in metadata.items()}
    stored = dict(_stored(arch, config, tensors, kind))
    stored |= {name: (array, None) for name, array in (extra or {}).items()}
    write_raw(path, fields.pop('general.architecture', arch), fields, stored)


def write_raw(path, arch, fields, tensors) -> None:
    """Writes a file of these keys and of tensors, each (array, kind)."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in fields.items():
        _add(writer, key, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer, key, value) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    adders |= {str: writer.add_string, list: writer.add_array}
    if value is not None:
        adders[type(value)](key, value)


def _fields(arch, config) -> dict:
    """The metadata that the converter writes."""
    head_dim = getattr(config, 'head_dim', None)
    rope = config.rope_parameters
    fields = {
        'context_length': config.max_position_embeddings,
        'embedding_length': config.hidden_size,
        'block_count': config.num_hidden_layers,
        'feed_forward_length': config.intermediate_size,
        'attention.head_count': config.num_attention_heads,
        'attention.head_count_kv': config.num_key_value_heads,
        'attention.layer_norm_rms_epsilon': float(config.rms_norm_eps),
        'vocab_size': config.vocab_size,
    }
    if arch in ('qwen3', 'gemma2', 'gemma3'):
        fields |= {'attention.key_length': head_dim, 'attention.value_length': head_dim}
    if arch == 'gemma3':
        rope, local_rope = rope['full_attention'], rope['sliding_attention']
        fields['rope.freq_base_swa'] = float(local_rope['rope_theta'])
    fields['rope.freq_base'] = float(rope['rope_theta'])
    if arch == 'llama':
        fields['rope.dimension_count'] = head_dim
    if arch == 'phi3':
        share = rope.get('partial_rotary_factor', 1.0)
        rotated = int(config.hidden_size // config.num_attention_heads * share)
        fields['rope.dimension_count'] = rotated
        fields['rope.scaling.original_context_length'] = config.original_max_position_embeddings
    if arch in ('phi3', 'gemma2', 'gemma3') or config.model_type == 'mistral':
        fields['attention.sliding_window'] = config.sliding_window or 0
    if arch == 'gemma2':
        fields['attn_logit_softcapping'] = float(config.attn_logit_softcapping)
        fields['final_logit_softcapping'] = float(config.final_logit_softcapping)
    if rope['rope_type'] == 'linear':
        fields |= {'rope.scaling.type': 'linear', 'rope.scaling.factor': float(rope['factor'])}
    return {f'{arch}.{key}': value for key, value in fields.items()} | {
        f'tokenizer.ggml.{key}_token_id': value
        for key, value in {
            'bos': config.bos_token_id,
            'eos': config.eos_token_id,
            'padding': config.pad_token_id,
        }.items()
    }


def _stored(arch, config, tensors, kind):
    """Yields (name in the file, (array, kind)) of each tensor."""
    code = {name: i for i, name in gguf.MODEL_ARCH_NAMES.items()}[arch]
    names = gguf.get_tensor_name_map(code, config.num_hidden_layers)
    for name, x in tensors.items():
        if arch == 'llama' and name.endswith(('q_proj.weight', 'k_proj.weight')):
            heads = 'q_proj' in name and config.num_attention_heads or config.num_key_value_heads
            x = x.reshape(heads, 2, x.shape[0] // heads // 2, x.shape[1])
            x = x.swapaxes(1, 2).reshape(-1, x.shape[-1])
        if arch.startswith('gemma') and name.endswith('norm.weight'):
            x = x + np.float32(1.0)
        stored_kind = kind if x.ndim > 1 else KINDS.F32
        stored_name = names.get_name(name, try_suffixes=('.weight', '.bias'))
        yield stored_name, (quantize(x, stored_kind), stored_kind)
    rope = config.rope_parameters
    if rope.get('rope_type') == 'llama3':
        yield 'rope_freqs.weight', (_llama3_factors(rope, config.head_dim), KINDS.F32)
    if rope.get('rope_type') == 'longrope':
        for length in ('long', 'short'):
            factors = np.array(rope[f'{length}_factor'], np.float32)
            yield f'rope_factors_{length}.weight', (factors, KINDS.F32)


def quantize(x, kind):
    """The array as it is stored; a K-quant, which gguf does not write, of random numbers."""
    if not kind.name.endswith('_K'):
        return gguf.quantize(x, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(x.size)
    blocks = rng.integers(0, 256, (x.size // block, size), np.uint8)
    scale = np.array([0.001], np.float16).view(np.uint8)
    for at in {'Q4_K': (0, 2), 'Q5_K': (0, 2), 'Q6_K': (208,)}[kind.name]:
        blocks[:, at : at + 2] = scale
    return blocks.reshape(*x.shape[:-1], -1)


def _llama3_factors(rope, head_dim):
    """As `generate_extra_tensors` of the converter makes them."""
    original, low, high = (
        rope[key]
        for key in ('original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor')
    )
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope['rope_theta'] ** (i / head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(rope['factor'])
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1.0 / ((1.0 - smooth) / rope['factor'] + smooth))
    return np.array(factors, np.float32)
