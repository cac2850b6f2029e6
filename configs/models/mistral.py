"""Mistral 7B (arXiv 2310.06825): v0.3, with a larger vocabulary than 0.1 and no sliding window, and
Zephyr's SFT model (arXiv 2310.16944), which is of v0.1.
"""

COMMON = {
    'architectures': ['MistralForCausalLM'],
    'model_type': 'mistral',
    'hidden_act': 'silu',
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'num_key_value_heads': 8,
    'max_position_embeddings': 32768,
    'rms_norm_eps': 1e-5,
    'tie_word_embeddings': False,
}
PRESETS = {
    'mistral_7b': {
        'folder': 'mistralai/Mistral-7B-Instruct-v0.3',
        'shape': COMMON | {'vocab_size': 32768, 'rope_theta': 1000000.0, 'sliding_window': None},
    },
    'zephyr_7b_sft': {
        'folder': 'alignment-handbook/zephyr-7b-sft-full',
        'shape': COMMON | {'vocab_size': 32000, 'rope_theta': 10000.0, 'sliding_window': 4096},
    },
}
