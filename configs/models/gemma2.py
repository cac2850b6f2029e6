"""Gemma 2 (arXiv 2408.00118): soft-capped logits, a sliding window in every other layer, and norms
before and after each branch.
"""

PRESETS = {
    'gemma2_9b': {
        'folder': 'google/gemma-2-9b-it',
        'shape': {
            'architectures': ['Gemma2ForCausalLM'],
            'model_type': 'gemma2',
            'hidden_act': 'gelu_pytorch_tanh',
            'hidden_activation': 'gelu_pytorch_tanh',
            'hidden_size': 3584,
            'intermediate_size': 14336,
            'num_hidden_layers': 42,
            'num_attention_heads': 16,
            'num_key_value_heads': 8,
            'head_dim': 256,
            'vocab_size': 256000,
            'max_position_embeddings': 8192,
            'rms_norm_eps': 1e-6,
            'rope_theta': 10000.0,
            'sliding_window': 4096,
            'query_pre_attn_scalar': 256,
            'attn_logit_softcapping': 50.0,
            'final_logit_softcapping': 30.0,
            'attention_bias': False,
            'tie_word_embeddings': True,
        },
    },
}
