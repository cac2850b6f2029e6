"""Which tensors of a checkpoint hold which of the decoder's parameters.

Matrices are stored [out, in] in a checkpoint and [in, out] in the decoder; the embedding is
[vocab, width] in both.
"""

from selfrew.models.config import ModelConfig

# Parameter -> tensor.
OUTER = {
    'embed': 'model.embed_tokens.weight',
    'norm': 'model.norm.weight',
    'head': 'lm_head.weight',
    'scalar': 'score.weight',
}
# A value head (decoder.values) lies in a file of its own: no other program has a name for it.
VALUE_FILE, VALUE_TENSOR = 'value_head.safetensors', 'value_head.weight'
# Parameter of a block -> tensor, after the prefix of its layer.
BLOCK = {
    'q': 'self_attn.q_proj.weight',
    'k': 'self_attn.k_proj.weight',
    'v': 'self_attn.v_proj.weight',
    'o': 'self_attn.o_proj.weight',
    'gate': 'mlp.gate_proj.weight',
    'up': 'mlp.up_proj.weight',
    'down': 'mlp.down_proj.weight',
    'q_bias': 'self_attn.q_proj.bias',
    'k_bias': 'self_attn.k_proj.bias',
    'v_bias': 'self_attn.v_proj.bias',
    'q_norm': 'self_attn.q_norm.weight',
    'k_norm': 'self_attn.k_norm.weight',
}
# `ModelConfig.norms` -> parameter -> module whose weight it is.
NORMS = {
    'pre': {'attention_norm': 'input_layernorm', 'mlp_norm': 'post_attention_layernorm'},
    'post': {
        'attention_post': 'post_attention_layernorm',
        'mlp_post': 'post_feedforward_layernorm',
    },
    'both': {
        'attention_norm': 'input_layernorm',
        'attention_post': 'post_attention_layernorm',
        'mlp_norm': 'pre_feedforward_layernorm',
        'mlp_post': 'post_feedforward_layernorm',
    },
}
# Tensors that hold several matrices, one after the other along [out]. Phi 3 has them.
FUSED = {'self_attn.qkv_proj.weight': ('q', 'k', 'v'), 'mlp.gate_up_proj.weight': ('gate', 'up')}


def block_tensors(config: ModelConfig, is_fused: bool) -> dict[str, tuple[str, ...]]:
    """Tensor of a block, with `{}` for the layer's number -> the parameters it holds, in order.

    The parameters are all that a block may have; a model has those of its family.
    """
    tensor_of = BLOCK | {name: f'{norm}.weight' for name, norm in NORMS[config.norms].items()}
    parameters_of = {tensor: (name,) for name, tensor in tensor_of.items()}
    if is_fused:
        fused_parameters = {name for names in FUSED.values() for name in names}
        parameters_of = {
            tensor: names
            for tensor, names in parameters_of.items()
            if names[0] not in fused_parameters
        } | FUSED
    return {f'model.layers.{{}}.{tensor}': names for tensor, names in parameters_of.items()}
