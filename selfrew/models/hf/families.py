"""What config.json says in each supported family: architectures, defaults, supported values."""

from typing import Any

# Family -> the `ModelConfig` switches that all its members share. An architecture is the name of
# a family followed by the name of a head.
FAMILIES: dict[str, dict[str, Any]] = {
    'Llama': {},
    'Mistral': {},
    'Qwen2': {'qkv_bias': True},
    'Qwen3': {'qk_norm': 'head'},
    'Gemma2': {'norms': 'both', 'unit_offset': True},
    'Gemma3': {'norms': 'both', 'unit_offset': True, 'qk_norm': 'head'},
    'Phi3': {},
    'Olmo2': {'norms': 'post', 'qk_norm': 'width'},
}
HEADS = {'ForCausalLM': False, 'ForSequenceClassification': True}  # name -> is it a scalar head?
ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
ROPE_TYPES = 'default', 'linear', 'llama3', 'longrope'
# The defaults of the family's own config class, where they differ from Llama's.
DEFAULTS: dict[str, dict[str, Any]] = {
    'Mistral': {
        'num_key_value_heads': 8,
        'sliding_window': 4096,
        'max_position_embeddings': 131072,
    },
    'Qwen2': {'num_key_value_heads': 32, 'sliding_window': 4096, 'max_position_embeddings': 32768},
    'Qwen3': {
        'num_key_value_heads': 32,
        'head_dim': 128,
        'sliding_window': 4096,
        'max_position_embeddings': 32768,
    },
    'Gemma2': {
        'head_dim': 256,
        'num_key_value_heads': 4,
        'query_pre_attn_scalar': 256,
        'sliding_window': 4096,
        'attn_logit_softcapping': 50.0,
        'final_logit_softcapping': 30.0,
        'tie_word_embeddings': True,
        'max_position_embeddings': 8192,
    },
    'Gemma3': {
        'head_dim': 256,
        'num_key_value_heads': 4,
        'query_pre_attn_scalar': 256,
        'sliding_window': 4096,
        'tie_word_embeddings': True,
        'rope_theta': 1e6,
        'rope_local_base_freq': 1e4,
        'sliding_window_pattern': 6,
        'max_position_embeddings': 131072,
        'vocab_size': 262208,
    },
    'Phi3': {
        'rms_norm_eps': 1e-5,
        'max_position_embeddings': 4096,
        'original_max_position_embeddings': 4096,
    },
    'Olmo2': {'rms_norm_eps': 1e-5},
}
# Family -> the model_type of its config class in transformers, which knows what a file may say.
CONFIG_CLASSES = {
    'Llama': 'llama',
    'Mistral': 'mistral',
    'Qwen2': 'qwen2',
    'Qwen3': 'qwen3',
    'Gemma2': 'gemma2',
    'Gemma3': 'gemma3_text',
    'Phi3': 'phi3',
    'Olmo2': 'olmo2',
}
# Families whose models read sliding_window, and those that read layer_types.
WINDOWED = 'Mistral', 'Qwen2', 'Qwen3', 'Gemma2', 'Gemma3', 'Phi3'
LAYER_TYPED = 'Qwen2', 'Qwen3', 'Gemma2', 'Gemma3'
# Switches of a family's config class that this decoder does not have -> values other than the
# default at which they have no effect.
NO_EFFECT = {
    'attention_dropout': (None,),
    'use_bidirectional_attention': (None,),
    'pretraining_tp': (None,),
}
# Fields that no config class has and that transformers acts on while it loads a model.
READ_BY_LOADER = {
    'quantization_config',
    'compression_config',
    'sparsity_config',
    'per_layer_config',
}
# Fields that do not change the forward pass, or that other modules read.
IGNORED = {
    'architectures',
    'model_type',
    'torch_dtype',
    'dtype',
    'transformers_version',
    'use_cache',
    'initializer_range',
    'bos_token_id',
    'eos_token_id',
    'pad_token_id',
    'sep_token_id',
    '_name_or_path',
    'auto_map',
    'id2label',
    'label2id',
    'problem_type',
    'cache_implementation',
    'chunk_size_feed_forward',
    'output_attentions',
    'output_hidden_states',
    'return_dict',
    'classifier_dropout',
    'initializer_std',
    'is_encoder_decoder',
    'unsloth_version',
    'unsloth_fixed',
    'name_or_path',
    '_model_name_or_path',
    'unk_token_id',
    'use_return_dict',
    'torchscript',
    'attn_implementation',
    '_attn_implementation',
    '_attn_implementation_autoset',
    'finetuning_task',
    'task_specific_params',
    'prefix',
    '_commit_hash',
    'is_llama_config',
    'transformers.js_config',
    'sliding_window_size',  # Gemma 2's first files repeat sliding_window under this name
    # Sampling options, which newer checkpoints keep in generation_config.json.
    'max_length',
    'max_new_tokens',
    'min_length',
    'do_sample',
    'temperature',
    'top_p',
    'top_k',
    'num_beams',
    'repetition_penalty',
}
