"""Llama 3 and 3.1 (arXiv 2407.21783), instruct models; the base models have no chat template."""

COMMON = {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'hidden_act': 'silu',
    'vocab_size': 128256,
    'rms_norm_eps': 1e-5,
    'rope_theta': 500000.0,
    'tie_word_embeddings': False,
    'num_key_value_heads': 8,
}
SIZES = {
    '8b': {
        'hidden_size': 4096,
        'intermediate_size': 14336,
        'num_hidden_layers': 32,
        'num_attention_heads': 32,
    },
    '70b': {
        'hidden_size': 8192,
        'intermediate_size': 28672,
        'num_hidden_layers': 80,
        'num_attention_heads': 64,
    },
}
SCALED = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
}

PRESETS = {}
for size, shape in SIZES.items():
    PRESETS[f'llama3_{size}'] = {
        'folder': f'meta-llama/Meta-Llama-3-{size.upper()}-Instruct',
        'shape': COMMON | shape | {'max_position_embeddings': 8192},
    }
    PRESETS[f'llama3_1_{size}'] = {
        'folder': f'meta-llama/Llama-3.1-{size.upper()}-Instruct',
        'shape': COMMON | shape | {'max_position_embeddings': 131072, 'rope_scaling': SCALED},
    }
