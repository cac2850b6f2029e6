"""The config.json of published models: every field is understood, every switch is set by it."""

import dataclasses

import pytest
from hub_configs import LONG_FACTORS, PUBLISHED, SHORT_FACTORS

from selfrew.models import hf
from selfrew.models.config import Rope

LONGROPE = Rope(
    1e4,
    'longrope',
    original=4096,
    short=tuple(SHORT_FACTORS),
    long=tuple(LONG_FACTORS),
    attention_factor=1.1902380714238083,  # √(1 + ln(131072 / 4096) / ln(4096)) = √(1 + 5 / 12)
)

EXPECTED = {
    'Llama-2-7b': {
        'head_dim': 128,
        'kv_heads': 32,
        'rope': Rope(1e4),
        'norm_eps': 1e-5,
        'tied': False,
        'max_length': 4096,
    },
    'Llama-2-7b, with max_length': {'max_length': 2048, 'rope': Rope(1e4)},
    'Llama-3.1-8B-Instruct': {
        'kv_heads': 8,
        'max_length': 131072,
        'tied': False,
        'window': None,
        'rope': Rope(5e5, 'llama3', factor=8.0, low=1.0, high=4.0, original=8192),
    },
    'Llama-3.2-1B-Instruct': {
        'head_dim': 64,
        'tied': True,
        'rope': Rope(5e5, 'llama3', factor=32.0, low=1.0, high=4.0, original=8192),
    },
    'Mistral-7B-v0.1': {
        'window': 4096,
        'local': (True,) * 32,
        'head_dim': 128,
        'rope': Rope(1e4),
        'norm_eps': 1e-5,
    },
    'Mistral-7B-v0.3': {'window': None, 'local': (), 'rope': Rope(1e6), 'vocab': 32768},
    'Mistral-Nemo-Base-2407': {'head_dim': 128, 'window': None},
    'Qwen2.5-0.5B': {
        'qkv_bias': True,
        'head_dim': 64,
        'tied': True,
        'window': None,
        'local': (),
        'rope': Rope(1e6),
        'norm_eps': 1e-6,
    },
    'Qwen2.5-7B-Instruct': {
        'qkv_bias': True,
        'head_dim': 128,
        'tied': False,
        'window': None,
        'local': (),
    },
    'Qwen3-0.6B': {
        'qk_norm': 'head',
        'qkv_bias': False,
        'head_dim': 128,
        'tied': True,
        'rope': Rope(1e6),
    },
    'gemma-2-9b': {
        'norms': 'both',
        'unit_offset': True,
        'tied': True,
        'embed_scale': 3584**0.5,
        'attention_scale': 1 / 16,
        'window': 4096,
        'attention_softcap': 50.0,
        'final_softcap': 30.0,
        'activation': 'gelu_tanh',
        'local': (True, False) * 21,
    },
    'gemma-3-1b-it': {
        'norms': 'both',
        'unit_offset': True,
        'qk_norm': 'head',
        'tied': True,
        'attention_softcap': None,
        'final_softcap': None,
        'window': 512,
        'local': (((True,) * 5 + (False,)) * 5)[:26],
        'rope': Rope(1e6),
        'local_rope': Rope(1e4),
    },
    'Phi-3-mini-4k-instruct': {
        'head_dim': 96,
        'window': 2047,
        'local': (True,) * 32,
        'rope': Rope(1e4),
        'norm_eps': 1e-5,
        'max_length': 4096,
    },
    'Phi-3-mini-128k-instruct': {'max_length': 4096, 'rope': LONGROPE},
    'Phi-4-mini-instruct': {
        'head_dim': 128,
        'tied': True,
        'max_length': 4096,
        'rope': dataclasses.replace(LONGROPE, partial=0.75),
    },
    'OLMo-2-1124-7B-Instruct': {
        'norms': 'post',
        'qk_norm': 'width',
        'head_dim': 128,
        'rope': Rope(5e5),
        'norm_eps': 1e-6,
        'window': None,
    },
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_config_is_understood_in_every_field(name):
    fields, expected = PUBLISHED[name], EXPECTED[name]
    config = hf.config_of(fields, name)
    assert {field: getattr(config, field) for field in expected} == expected
    sizes = {
        'hidden_size': config.width,
        'num_hidden_layers': config.layers,
        'num_attention_heads': config.heads,
        'intermediate_size': config.mlp,
        'vocab_size': config.vocab,
    }
    assert sizes == {size: fields[size] for size in sizes}


def test_longrope_may_use_all_positions_of_the_checkpoint_if_asked_to():
    fields = PUBLISHED['Phi-3-mini-128k-instruct']
    assert hf.config_of(fields, '', max_length=131072).max_length == 131072
    message = 'max_length=131073, and the model has positions for 1 to 131072'
    with pytest.raises(ValueError, match=message):
        hf.config_of(fields, '', max_length=131073)


@pytest.mark.parametrize(
    ('labels_fields', 'labels'),
    [
        ({}, 2),
        ({'id2label': {'0': 'bad', '1': 'good'}}, 2),
        ({'id2label': {'0': 'a', '1': 'b', '2': 'c'}}, 3),
        ({'num_labels': 2}, 2),
    ],
)
def test_a_classifier_with_more_than_one_label_is_refused_by_name(labels_fields, labels):
    classifier = {'architectures': ['Qwen2ForSequenceClassification']}
    fields = PUBLISHED['Qwen2.5-0.5B'] | classifier | labels_fields
    message = rf'num_labels={labels} \(or id2label\) is not supported; supported: 1, a reward'
    with pytest.raises(ValueError, match=message):
        hf.config_of(fields, '')
    reward = {'num_labels': 1} if 'num_labels' in fields else {'id2label': {'0': 'LABEL_0'}}
    assert hf.config_of(fields | reward, '').scalar_head
