"""config.json as models on the hub were published with: every field is understood, every switch is
set as it says.
"""

import dataclasses

import pytest

from selfrew.models import hf
from selfrew.models.decoder import Rope


def _published(architecture, dims, **fields):
    width, mlp, layers, heads, kv_heads, vocab, positions = dims
    return {
        'architectures': [architecture],
        'hidden_size': width,
        'intermediate_size': mlp,
        'num_hidden_layers': layers,
        'num_attention_heads': heads,
        'num_key_value_heads': kv_heads,
        'vocab_size': vocab,
        'max_position_embeddings': positions,
        'initializer_range': 0.02,
        'use_cache': True,
        'torch_dtype': 'bfloat16',
    } | fields


LLAMA = dict(
    model_type='llama',
    bos_token_id=1,
    eos_token_id=2,
    hidden_act='silu',
    rms_norm_eps=1e-5,
    pretraining_tp=1,
    tie_word_embeddings=False,
)
LLAMA3 = {
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
    'rope_type': 'llama3',
}
QWEN2 = dict(
    model_type='qwen2',
    attention_dropout=0.0,
    bos_token_id=151643,
    eos_token_id=151645,
    hidden_act='silu',
    rms_norm_eps=1e-6,
    rope_theta=1000000.0,
    use_sliding_window=False,
)
PHI3 = dict(
    model_type='phi3',
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=1,
    eos_token_id=32000,
    embd_pdrop=0.0,
    hidden_act='silu',
    original_max_position_embeddings=4096,
    pad_token_id=32000,
    resid_pdrop=0.0,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
    auto_map={
        'AutoConfig': 'configuration_phi3.Phi3Config',
        'AutoModelForCausalLM': 'modeling_phi3.Phi3ForCausalLM',
    },
)
# Stand for the real factors, which are as many, and rise.
SHORT, LONG = tuple(1 + i / 24 for i in range(48)), tuple(1 + i for i in range(48))
GREW = 1.1902380714238083  # sqrt(1 + ln(131072 / 4096) / ln(4096)) = sqrt(1 + 5 / 12)

MODELS = {
    'Llama-2-7b': (
        _published(
            'LlamaForCausalLM',
            (4096, 11008, 32, 32, 32, 32000, 4096),
            **LLAMA,
            rope_scaling=None,
            _name_or_path='meta-llama/Llama-2-7b-hf',
            transformers_version='4.31.0.dev0',
        ),
        dict(head_dim=128, kv_heads=32, rope=Rope(1e4), norm_eps=1e-5, tied=False, max_length=4096),
    ),
    # how fine-tunes of its first weeks were saved: with sampling's options beside the model's
    'Llama-2-7b, with max_length': (
        _published(
            'LlamaForCausalLM',
            (4096, 11008, 32, 32, 32, 32000, 2048),
            **LLAMA,
            rope_scaling=None,
            max_length=4096,
            pad_token_id=0,
        ),
        dict(max_length=2048, rope=Rope(1e4)),
    ),
    'Llama-3.1-8B-Instruct': (
        _published(
            'LlamaForCausalLM',
            (4096, 14336, 32, 32, 8, 128256, 131072),
            **LLAMA | dict(bos_token_id=128000, eos_token_id=[128001, 128008, 128009]),
            attention_bias=False,
            attention_dropout=0.0,
            mlp_bias=False,
            rope_scaling=LLAMA3,
            rope_theta=500000.0,
            transformers_version='4.42.3',
        ),
        dict(
            kv_heads=8,
            max_length=131072,
            tied=False,
            window=None,
            rope=Rope(5e5, 'llama3', factor=8.0, low=1.0, high=4.0, original=8192),
        ),
    ),
    'Llama-3.2-1B-Instruct': (
        _published(
            'LlamaForCausalLM',
            (2048, 8192, 16, 32, 8, 128256, 131072),
            **LLAMA | dict(tie_word_embeddings=True),
            attention_bias=False,
            attention_dropout=0.0,
            mlp_bias=False,
            head_dim=64,
            rope_scaling=LLAMA3 | {'factor': 32.0},
            rope_theta=500000.0,
            _commit_hash='4e20de3624',
        ),
        dict(
            head_dim=64,
            tied=True,
            rope=Rope(5e5, 'llama3', factor=32.0, low=1.0, high=4.0, original=8192),
        ),
    ),
    'Mistral-7B-v0.1': (
        _published(
            'MistralForCausalLM',
            (4096, 14336, 32, 32, 8, 32000, 32768),
            model_type='mistral',
            bos_token_id=1,
            eos_token_id=2,
            hidden_act='silu',
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            sliding_window=4096,
            tie_word_embeddings=False,
            transformers_version='4.34.0.dev0',
        ),
        dict(window=4096, local=(True,) * 32, head_dim=128, rope=Rope(1e4), norm_eps=1e-5),
    ),
    'Mistral-7B-v0.3': (
        _published(
            'MistralForCausalLM',
            (4096, 14336, 32, 32, 8, 32768, 32768),
            model_type='mistral',
            bos_token_id=1,
            eos_token_id=2,
            attention_dropout=0.0,
            hidden_act='silu',
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=None,
            tie_word_embeddings=False,
        ),
        dict(window=None, local=(), rope=Rope(1e6), vocab=32768),
    ),
    'Mistral-Nemo-Base-2407': (
        _published(
            'MistralForCausalLM',
            (5120, 14336, 40, 32, 8, 131072, 128000),
            model_type='mistral',
            attention_dropout=0.0,
            head_dim=128,
            hidden_act='silu',
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=None,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=2,
        ),
        dict(head_dim=128, window=None),
    ),
    'Qwen2.5-0.5B': (
        _published(
            'Qwen2ForCausalLM',
            (896, 4864, 24, 14, 2, 151936, 32768),
            **QWEN2,
            max_window_layers=24,
            sliding_window=32768,
            tie_word_embeddings=True,
            use_mrope=False,
        ),
        dict(
            qkv_bias=True,
            head_dim=64,
            tied=True,
            window=None,
            local=(),
            rope=Rope(1e6),
            norm_eps=1e-6,
        ),
    ),
    'Qwen2.5-7B-Instruct': (
        _published(
            'Qwen2ForCausalLM',
            (3584, 18944, 28, 28, 4, 152064, 32768),
            **QWEN2,
            max_window_layers=28,
            sliding_window=131072,
            tie_word_embeddings=False,
            transformers_version='4.43.1',
        ),
        dict(qkv_bias=True, head_dim=128, tied=False, window=None, local=()),
    ),
    'Qwen3-0.6B': (
        _published(
            'Qwen3ForCausalLM',
            (1024, 3072, 28, 16, 8, 151936, 40960),
            model_type='qwen3',
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=151643,
            eos_token_id=151645,
            head_dim=128,
            hidden_act='silu',
            max_window_layers=28,
            rms_norm_eps=1e-6,
            rope_scaling=None,
            rope_theta=1000000,
            sliding_window=None,
            tie_word_embeddings=True,
            use_sliding_window=False,
        ),
        dict(qk_norm='head', qkv_bias=False, head_dim=128, tied=True, rope=Rope(1e6)),
    ),
    'gemma-2-9b': (
        _published(
            'Gemma2ForCausalLM',
            (3584, 14336, 42, 16, 8, 256000, 8192),
            model_type='gemma2',
            attention_bias=False,
            attention_dropout=0.0,
            attn_logit_softcapping=50.0,
            bos_token_id=2,
            cache_implementation='hybrid',
            eos_token_id=1,
            final_logit_softcapping=30.0,
            head_dim=256,
            hidden_act='gelu_pytorch_tanh',
            hidden_activation='gelu_pytorch_tanh',
            pad_token_id=0,
            query_pre_attn_scalar=256,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            sliding_window=4096,
            sliding_window_size=4096,
        ),
        dict(
            norms='both',
            unit_offset=True,
            tied=True,
            embed_scale=3584**0.5,
            attention_scale=1 / 16,
            window=4096,
            attention_softcap=50.0,
            final_softcap=30.0,
            activation='gelu_tanh',
            local=(True, False) * 21,
        ),
    ),
    'gemma-3-1b-it': (
        _published(
            'Gemma3ForCausalLM',
            (1152, 6912, 26, 4, 1, 262144, 32768),
            model_type='gemma3_text',
            attention_bias=False,
            attention_dropout=0.0,
            attn_logit_softcapping=None,
            bos_token_id=2,
            cache_implementation='hybrid',
            eos_token_id=[1, 106],
            final_logit_softcapping=None,
            head_dim=256,
            hidden_activation='gelu_pytorch_tanh',
            pad_token_id=0,
            query_pre_attn_scalar=256,
            rms_norm_eps=1e-6,
            rope_local_base_freq=10000,
            rope_scaling=None,
            rope_theta=1000000,
            sliding_window=512,
            sliding_window_pattern=6,
        ),
        dict(
            norms='both',
            unit_offset=True,
            qk_norm='head',
            tied=True,
            attention_softcap=None,
            final_softcap=None,
            window=512,
            local=(((True,) * 5 + (False,)) * 5)[:26],
            rope=Rope(1e6),
            local_rope=Rope(1e4),
        ),
    ),
    'Phi-3-mini-4k-instruct': (
        _published(
            'Phi3ForCausalLM',
            (3072, 8192, 32, 32, 32, 32064, 4096),
            **PHI3,
            rope_scaling=None,
            sliding_window=2047,
        ),
        dict(
            head_dim=96,
            window=2047,
            local=(True,) * 32,
            rope=Rope(1e4),
            norm_eps=1e-5,
            max_length=4096,
        ),
    ),
    'Phi-3-mini-128k-instruct': (
        _published(
            'Phi3ForCausalLM',
            (3072, 8192, 32, 32, 32, 32064, 131072),
            **PHI3,
            sliding_window=262144,
            rope_scaling={'long_factor': list(LONG), 'short_factor': list(SHORT), 'type': 'su'},
        ),
        dict(
            max_length=4096,
            rope=Rope(
                1e4, 'longrope', original=4096, short=SHORT, long=LONG, attention_factor=GREW
            ),
        ),
    ),
    'Phi-4-mini-instruct': (
        _published(
            'Phi3ForCausalLM',
            (3072, 8192, 32, 24, 8, 200064, 131072),
            **PHI3 | dict(tie_word_embeddings=True),
            full_attn_mod=1,
            interpolate_factor=1,
            lm_head_bias=False,
            mlp_bias=False,
            sliding_window=262144,
            partial_rotary_factor=0.75,
            rope_scaling={
                'long_factor': list(LONG),
                'short_factor': list(SHORT),
                'type': 'longrope',
            },
        ),
        dict(
            head_dim=128,
            tied=True,
            max_length=4096,
            rope=Rope(
                1e4,
                'longrope',
                original=4096,
                short=SHORT,
                long=LONG,
                attention_factor=GREW,
                partial=0.75,
            ),
        ),
    ),
    'OLMo-2-1124-7B-Instruct': (
        _published(
            'Olmo2ForCausalLM',
            (4096, 11008, 32, 32, 32, 100352, 4096),
            model_type='olmo2',
            attention_bias=False,
            attention_dropout=0.0,
            eos_token_id=100257,
            hidden_act='silu',
            pad_token_id=100277,
            rms_norm_eps=1e-6,
            rope_scaling=None,
            rope_theta=500000,
            tie_word_embeddings=False,
            _name_or_path='allenai/open_instruct_dev',
        ),
        dict(
            norms='post', qk_norm='width', head_dim=128, rope=Rope(5e5), norm_eps=1e-6, window=None
        ),
    ),
}


@pytest.mark.parametrize('name', MODELS)
def test_a_published_config_is_understood_in_every_field(name):
    fields, expected = MODELS[name]
    config = hf.config_of(fields, name)
    assert {k: v for k, v in dataclasses.asdict(config).items() if k in expected} == {
        k: dataclasses.asdict(v) if isinstance(v, Rope) else v for k, v in expected.items()
    }
    dims = (
        'hidden_size',
        'num_hidden_layers',
        'num_attention_heads',
        'intermediate_size',
        'vocab_size',
    )
    assert (config.width, config.layers, config.heads, config.mlp, config.vocab) == tuple(
        fields[d] for d in dims
    )


def test_a_longer_context_than_the_first_takes_all_of_the_checkpoints_positions():
    fields, _ = MODELS['Phi-3-mini-128k-instruct']
    assert hf.config_of(fields, '', max_length=131072).max_length == 131072
    with pytest.raises(
        ValueError, match='max_length=131073, and the model has positions for 1 to 131072'
    ):
        hf.config_of(fields, '', max_length=131073)


@pytest.mark.parametrize(
    ('fields', 'labels'),
    [
        ({}, 2),
        ({'id2label': {'0': 'bad', '1': 'good'}}, 2),
        ({'id2label': {'0': 'a', '1': 'b', '2': 'c'}}, 3),
        ({'num_labels': 2}, 2),
    ],
)
def test_a_classifier_of_more_than_one_label_is_refused_by_name(fields, labels):
    fields = (
        MODELS['Qwen2.5-0.5B'][0] | {'architectures': ['Qwen2ForSequenceClassification']} | fields
    )
    with pytest.raises(
        ValueError,
        match=f'num_labels={labels} is not supported|{labels} labels .*supported: 1, a rew',
    ):
        hf.config_of(fields, '')
    reward = {'num_labels': 1} if 'num_labels' in fields else {'id2label': {'0': 'LABEL_0'}}
    assert hf.config_of(fields | reward, '').scalar_head
