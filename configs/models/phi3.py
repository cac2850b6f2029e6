"""Phi-3 mini (arXiv 2404.14219), context 4,096: fused projections, a sliding window of 2,047."""

PRESETS = {
    'phi3_mini_4k': {
        'folder': 'microsoft/Phi-3-mini-4k-instruct',
        'shape': {
            'architectures': ['Phi3ForCausalLM'],
            'model_type': 'phi3',
            'hidden_act': 'silu',
            'hidden_size': 3072,
            'intermediate_size': 8192,
            'num_hidden_layers': 32,
            'num_attention_heads': 32,
            'num_key_value_heads': 32,
            'vocab_size': 32064,
            'max_position_embeddings': 4096,
            'original_max_position_embeddings': 4096,
            'rms_norm_eps': 1e-5,
            'rope_theta': 10000.0,
            'rope_scaling': None,
            'sliding_window': 2047,
            'attention_bias': False,
            'tie_word_embeddings': False,
        },
    },
}
