"""Small configs of every family in transformers, with each of their switches set by some."""

import copy

import transformers

BASE = {
    'vocab_size': 96,
    'hidden_size': 48,
    'intermediate_size': 80,
    'num_hidden_layers': 4,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 128,
    'pad_token_id': 0,
    'bos_token_id': 1,
    'eos_token_id': 2,
}
LONGROPE = {
    'type': 'longrope',
    'short_factor': [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
    'long_factor': [1.5, 2, 3, 4, 6, 9],
}
LLAMA3 = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
}
# Name -> (family, fields of its config).
FAMILIES = {
    # An epsilon so large that one of 1e-5 or 1e-6 would show.
    'llama2': ('Llama', {'num_key_value_heads': 4, 'rms_norm_eps': 0.05}),
    'llama3': (
        'Llama',
        {'rope_parameters': LLAMA3 | {'rope_theta': 5e5}, 'tie_word_embeddings': True},
    ),
    'llama_linear': (
        'Llama',
        {'rope_parameters': {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 1e4}},
    ),
    'mistral': ('Mistral', {'sliding_window': 7}),
    'mistral_whole': ('Mistral', {'sliding_window': None, 'head_dim': 16}),
    'qwen2': ('Qwen2', {'tie_word_embeddings': True}),
    'qwen2_window': (
        'Qwen2',
        {'use_sliding_window': True, 'sliding_window': 6, 'max_window_layers': 2},
    ),
    'qwen3': ('Qwen3', {'head_dim': 16}),
    'gemma2': (
        'Gemma2',
        {
            'head_dim': 16,
            'query_pre_attn_scalar': 20,
            'sliding_window': 6,
            'attn_logit_softcapping': 3.0,
            'final_logit_softcapping': 2.0,
        },
    ),
    'gemma3': (
        'Gemma3',
        {'head_dim': 16, 'query_pre_attn_scalar': 20, 'sliding_window': 6, 'num_hidden_layers': 7},
    ),
    'gemma3_scaled': (
        'Gemma3',
        {
            'head_dim': 16,
            'sliding_window': 5,
            'sliding_window_pattern': 2,
            'rope_parameters': {
                'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6},
                'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
            },
        },
    ),
    'phi3': ('Phi3', {'sliding_window': 9}),
    'phi3_partial': (
        'Phi3',
        {
            'rope_parameters': {
                'rope_type': 'default',
                'rope_theta': 1e4,
                'partial_rotary_factor': 0.5,
            }
        },
    ),
    'phi3_long': (
        'Phi3',
        {
            'rope_parameters': LONGROPE | {'rope_theta': 1e4, 'rope_type': 'longrope'},
            'original_max_position_embeddings': 100,
        },
    ),
    'olmo2': ('Olmo2', {'rms_norm_eps': 0.05}),
}


def config_class(family: str):
    """The config class of a family in transformers."""
    return getattr(transformers, 'Gemma3TextConfig' if family == 'Gemma3' else f'{family}Config')


def make_config(name: str, **fields):
    """The transformers config of an entry of FAMILIES, with these fields changed."""
    family, family_fields = FAMILIES[name]
    return config_class(family)(**BASE | copy.deepcopy(family_fields) | fields)


def architecture(name: str, head: str = 'ForCausalLM') -> str:
    """The name of the model class of an entry of FAMILIES with this head."""
    family = FAMILIES[name][0]
    return ('Gemma3Text' if family == 'Gemma3' and head != 'ForCausalLM' else family) + head
