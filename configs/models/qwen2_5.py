"""Qwen2.5 (arXiv 2412.15115), the instruct models; biases on queries, keys and values."""

COMMON = {
    'architectures': ['Qwen2ForCausalLM'],
    'model_type': 'qwen2',
    'hidden_act': 'silu',
    'rms_norm_eps': 1e-6,
    'max_position_embeddings': 32768,
    'rope_theta': 1000000.0,
    'use_sliding_window': False,
}


def _preset(
    size: str, width: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool
) -> dict:
    shape = {
        'hidden_size': width,
        'intermediate_size': mlp,
        'num_hidden_layers': layers,
        'vocab_size': vocab,
        'num_attention_heads': heads,
        'num_key_value_heads': kv_heads,
        'tie_word_embeddings': tied,
    }
    return {'folder': f'Qwen/Qwen2.5-{size}-Instruct', 'shape': COMMON | shape}


PRESETS = {
    'qwen2_5_0_5b': _preset('0.5B', 896, 4864, 24, 14, 2, 151936, True),
    'qwen2_5_1_5b': _preset('1.5B', 1536, 8960, 28, 12, 2, 151936, True),
    'qwen2_5_3b': _preset('3B', 2048, 11008, 36, 16, 2, 151936, True),
    'qwen2_5_7b': _preset('7B', 3584, 18944, 28, 28, 4, 152064, False),
    'qwen2_5_14b': _preset('14B', 5120, 13824, 48, 40, 8, 152064, False),
    'qwen2_5_32b': _preset('32B', 5120, 27648, 64, 40, 8, 152064, False),
    'qwen2_5_72b': _preset('72B', 8192, 29568, 80, 64, 8, 152064, False),
}
