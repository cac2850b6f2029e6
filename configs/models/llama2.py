"""Llama 2 (arXiv 2307.09288). The base models have no chat template of their own."""

COMMON = {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'hidden_act': 'silu',
    'vocab_size': 32000,
    'max_position_embeddings': 4096,
    'rms_norm_eps': 1e-5,
    'rope_theta': 10000.0,
    'tie_word_embeddings': False,
}


def _preset(size: str, width: int, mlp: int, layers: int, heads: int, kv_heads: int) -> dict:
    shape = {
        'hidden_size': width,
        'intermediate_size': mlp,
        'num_hidden_layers': layers,
        'num_attention_heads': heads,
        'num_key_value_heads': kv_heads,
    }
    return {'folder': f'meta-llama/Llama-2-{size}-hf', 'shape': COMMON | shape}


PRESETS = {
    'llama2_7b': _preset('7b', 4096, 11008, 32, 32, 32),
    'llama2_13b': _preset('13b', 5120, 13824, 40, 40, 40),
    'llama2_70b': _preset('70b', 8192, 28672, 80, 64, 8),
    'llama2_7b_chat': _preset('7b-chat', 4096, 11008, 32, 32, 32),
    'llama2_70b_chat': _preset('70b-chat', 8192, 28672, 80, 64, 8),
}
