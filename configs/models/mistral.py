"""Mistral 7B v0.3 (arXiv 2310.06825): a larger vocabulary than 0.1, and no sliding window."""

PRESETS = {
    'mistral_7b': {
        'folder': 'mistralai/Mistral-7B-Instruct-v0.3',
        'shape': {
            'architectures': ['MistralForCausalLM'],
            'model_type': 'mistral',
            'hidden_act': 'silu',
            'hidden_size': 4096,
            'intermediate_size': 14336,
            'num_hidden_layers': 32,
            'num_attention_heads': 32,
            'num_key_value_heads': 8,
            'vocab_size': 32768,
            'max_position_embeddings': 32768,
            'rms_norm_eps': 1e-5,
            'rope_theta': 1000000.0,
            'sliding_window': None,
            'tie_word_embeddings': False,
        },
    },
}
