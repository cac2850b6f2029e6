"""Says in the words of a config.json what the metadata of a GGUF file says of a decoder."""

from typing import Any

import numpy as np

from selfrew.models.hf.gguf_file import GgufFile, open_file, shortest

# Architecture in the file -> (family, model_type of its config.json).
ARCHITECTURES = {
    'llama': ('Llama', 'llama'),
    'qwen2': ('Qwen2', 'qwen2'),
    'qwen3': ('Qwen3', 'qwen3'),
    'gemma2': ('Gemma2', 'gemma2'),
    'gemma3': ('Gemma3', 'gemma3_text'),
    'phi3': ('Phi3', 'phi3'),
    'olmo2': ('Olmo2', 'olmo2'),
}
# Layers of the 27B models, whose query scale is that of width / heads. The file does not state it;
# llama.cpp also takes it from the number of layers.
SCALED_BY_WIDTH = {'Gemma2': 46, 'Gemma3': 62}
LLAMA3_FACTORS = 'rope_freqs.weight'
LONG_FACTORS, SHORT_FACTORS = 'rope_factors_long.weight', 'rope_factors_short.weight'
TOKENS = {'bos': 'bos', 'eos': 'eos', 'pad': 'padding'}  # in config.json -> in the file
# Keys that say nothing of the forward pass, or nothing that the tensors do not say.
IGNORED = {'vocab_size', 'tensor_data_layout', 'rope.scaling.finetuned', 'attention.value_length'}


class _Keys:
    """The keys of the file's architecture, which remembers those that were read."""

    def __init__(self, file: GgufFile, architecture: str):
        self._file, self._prefix = file, f'{architecture}.'
        self._read: set[str] = set()

    def get(self, name: str, default=None) -> Any:
        """The value of a key; of one number for each layer, the number.

        ValueError where layers differ.
        """
        self._read.add(name)
        value = self._file.get(self._prefix + name, default)
        if not isinstance(value, list) or name == 'attention.sliding_window_pattern':
            return value
        if len(set(value)) != 1:
            raise ValueError(
                f'{self._file.path}: {self._prefix}{name} differs between layers: '
                f'{str(value)[:60]}, which is not supported'
            )
        return value[0]

    def require(self, name: str) -> Any:
        """The value of a key. ValueError where it is missing."""
        self._file.require(self._prefix + name)
        return self.get(name)

    def refuse_unread(self) -> None:
        """ValueError naming the keys that are set and that nothing has read."""
        unread = [
            f'{key}={value!r}'[:80]
            for key, value in self._file.metadata.items()
            if key.startswith(self._prefix)
            and key.removeprefix(self._prefix) not in self._read | IGNORED
            and value not in (None, False)
        ]
        if unread:
            raise ValueError(f'{self._file.path}: nothing reads {", ".join(unread)}')


def architecture_of(file: GgufFile) -> tuple[str, str, str]:
    """(architecture, family, model_type). ValueError for one that is not supported."""
    architecture = file.require('general.architecture')
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f'{file.path}: architecture {architecture!r} is not supported; '
            f'supported: {", ".join(ARCHITECTURES)}'
        )
    return architecture, *ARCHITECTURES[architecture]


def rope_tensors(family: str) -> tuple[str, ...]:
    """The tensors that `gguf_fields` reads into a family's config.json."""
    return (LONG_FACTORS, SHORT_FACTORS) if family == 'Phi3' else (LLAMA3_FACTORS,)


def gguf_fields(path: str) -> dict:
    """The content of the config.json that belongs to a GGUF file.

    What the file does not state is left to the family's defaults, as llama.cpp does too. Raises
    ValueError as `open_file` does, for an unsupported architecture or key, by name, and for a
    missing key.
    """
    file = open_file(path)
    architecture, family, model_type = architecture_of(file)
    keys = _Keys(file, architecture)
    embedding = file.tensors.get('token_embd.weight')
    if embedding is None:
        raise ValueError(f'{path}: the tensor token_embd.weight is missing')
    width, heads = keys.require('embedding_length'), keys.require('attention.head_count')
    rotated = keys.get('rope.dimension_count')
    head_dim = keys.get('attention.key_length')
    if head_dim is None:
        head_dim = rotated if family == 'Llama' and rotated else width // heads
    fields = {
        'model_type': model_type,
        'vocab_size': embedding.shape[0],
        'hidden_size': width,
        'intermediate_size': keys.require('feed_forward_length'),
        'num_hidden_layers': keys.require('block_count'),
        'num_attention_heads': heads,
        'num_key_value_heads': keys.get('attention.head_count_kv') or heads,
        'head_dim': head_dim,
        'max_position_embeddings': keys.require('context_length'),
        'rms_norm_eps': keys.require('attention.layer_norm_rms_epsilon'),
        'rope_theta': keys.get('rope.freq_base'),
        'tie_word_embeddings': 'output.weight' not in file.tensors,
    }
    if rotated and rotated != head_dim:
        fields['partial_rotary_factor'] = rotated / head_dim
    if family == 'Phi3':
        fields |= _longrope_fields(file, keys)
    else:
        fields['rope_scaling'] = _rope_scaling(file, keys, fields)
    if family in ('Llama', 'Phi3') and (window := keys.get('attention.sliding_window')):
        fields['sliding_window'] = window
        if family == 'Llama':
            family, fields['model_type'] = 'Mistral', 'mistral'
    if family in ('Gemma2', 'Gemma3'):
        fields |= _gemma_fields(keys, family, fields)
    keys.refuse_unread()
    for name, role in TOKENS.items():
        fields[f'{name}_token_id'] = file.special_token(role)
    known = {name: value for name, value in fields.items() if value is not None}
    return {'architectures': [f'{family}ForCausalLM'], **known}


def _gemma_fields(keys: _Keys, family: str, fields: dict) -> dict:
    """What only Gemma's config.json has."""
    heads, head_dim = fields['num_attention_heads'], fields['head_dim']
    is_by_width = fields['num_hidden_layers'] == SCALED_BY_WIDTH[family]
    gemma = {
        'sliding_window': keys.get('attention.sliding_window'),
        'query_pre_attn_scalar': fields['hidden_size'] // heads if is_by_width else head_dim,
        'final_logit_softcapping': keys.get('final_logit_softcapping'),
        'attn_logit_softcapping': keys.get('attn_logit_softcapping'),
    }
    if family == 'Gemma3':
        gemma['rope_local_base_freq'] = keys.get('rope.freq_base_swa')
        pattern = keys.get('attention.sliding_window_pattern')
        if isinstance(pattern, list):  # for each layer, whether it is local
            kinds = 'full_attention', 'sliding_attention'
            gemma['layer_types'] = [kinds[bool(is_local)] for is_local in pattern]
        else:
            gemma['sliding_window_pattern'] = pattern
    return gemma


def _rope_scaling(file: GgufFile, keys: _Keys, fields: dict) -> dict | None:
    """rope_scaling of config.json, or None where positions are not scaled."""
    kind = keys.get('rope.scaling.type')
    factor = keys.get('rope.scaling.factor') or keys.get('rope.scale_linear')
    keys.get('rope.scaling.original_context_length')
    if LLAMA3_FACTORS in file.tensors:
        return _llama3_scaling(file, fields)
    if kind is None and factor is not None:
        kind = 'linear'
    if kind in (None, 'none') or (kind == 'linear' and factor in (None, 0.0, 1.0)):
        return None
    return {'rope_type': kind, 'factor': factor}


def _llama3_scaling(file: GgufFile, fields: dict) -> dict | None:
    """Llama 3's scaling, from the factor that divides each frequency.

    The file holds the factors and not what they were made of. With r the rotations of a pair of
    features within the original context, 1 / factor rises from 1 / largest, at r = low, to 1, at
    r = high, linearly. So a line through the factors between gives `original / low` and `high /
    low`; low is taken as 1, as it is in all of Llama 3. ValueError where that does not give back
    the factors.
    """
    factors = file.read(LLAMA3_FACTORS).astype(np.float64)
    largest = factors.max()
    if largest == 1.0:
        return None
    theta, pairs = fields.get('rope_theta', 10000.0), fields['head_dim'] // 2
    turns = theta ** (-np.arange(pairs) / pairs) / (2 * np.pi)  # rotations in a token
    if factors.shape == turns.shape:
        for high, original in _llama3_candidates(factors, turns, largest):
            smooth = np.clip((original * turns - 1.0) / (high - 1.0), 0.0, 1.0)
            made = 1.0 / ((1.0 - smooth) / largest + smooth)
            if np.allclose(made, factors, rtol=1e-5, atol=0.0):
                return {
                    'rope_type': 'llama3',
                    'factor': shortest(largest),
                    'low_freq_factor': 1.0,
                    'high_freq_factor': high,
                    'original_max_position_embeddings': original,
                }
    raise ValueError(
        f"{file.path}: the factors of {LLAMA3_FACTORS} are not those of Llama 3's RoPE"
    )


def _llama3_candidates(factors, turns, largest):
    """Yields (high_freq_factor, original context): Llama 3's own, then what the factors say."""
    yield 4.0, 8192
    is_between = (factors > 1.0 + 1e-4) & (factors < largest * (1.0 - 1e-4))
    smooth = (1.0 / factors - 1.0 / largest) / (1.0 - 1.0 / largest)
    if is_between.any():
        yield 4.0, round(((3.0 * smooth + 1.0) / turns)[is_between][0])
    if is_between.sum() >= 2:
        slope, intercept = np.polyfit(turns[is_between], smooth[is_between], 1)
        if intercept < 0.0:
            yield shortest(round(1.0 - 1.0 / intercept, 3)), round(-slope / intercept)


def _longrope_fields(file: GgufFile, keys: _Keys) -> dict:
    """What config.json says of Phi 3's LongRoPE; nothing of scaling where the file has no factors.

    Its attention factor is stated where it is not the usual one, √(1 + ln(factor) / ln(original)).
    """
    original = keys.get('rope.scaling.original_context_length')
    attention_factor = keys.get('rope.scaling.attn_factor')
    fields = {'original_max_position_embeddings': original}
    if LONG_FACTORS not in file.tensors or SHORT_FACTORS not in file.tensors:
        return fields
    long, short = (
        [shortest(factor) for factor in file.read(name)] for name in (LONG_FACTORS, SHORT_FACTORS)
    )
    scaling = {'rope_type': 'longrope', 'short_factor': short, 'long_factor': long}
    if attention_factor and original:
        factor = keys.require('context_length') / original
        usual = np.sqrt(1.0 + np.log(factor) / np.log(original)) if factor > 1.0 else 1.0
        if abs(attention_factor / usual - 1.0) > 1e-6:
            scaling['attention_factor'] = attention_factor
    return fields | {'rope_scaling': scaling}


def gguf_stop_tokens(path: str) -> set[int]:
    """The tokens that end a text (EOS) and a turn (EOT), where the file has them."""
    file = open_file(path)
    tokens = file.special_token('eos'), file.special_token('eot')
    return {token for token in tokens if token is not None}
