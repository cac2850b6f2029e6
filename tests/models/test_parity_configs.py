"""Every form in which transformers has written a family's config.json reads as the same model."""

import json

import pytest
from families import FAMILIES, architecture, config_class, make_config

from selfrew.models import hf

# What transformers 5 writes, and older versions do not.
NEW_FIELDS = (
    'rope_parameters',
    'layer_types',
    'dtype',
    '_sliding_window_pattern',
    'use_bidirectional_attention',
)
NOT_SCALING = 'rope_theta', 'rope_type', 'type', 'partial_rotary_factor'  # beside rope_scaling


def _without(fields, names):
    return {name: value for name, value in fields.items() if name not in names}


def _saved(name):
    """config.json as transformers writes it."""
    return json.loads(make_config(name).to_json_string(use_diff=True)) | {
        'architectures': [architecture(name)],
        'dtype': 'bfloat16',
    }


def _older_scaling(rope, family, type_field):
    """rope_scaling as older versions wrote what rope_parameters says."""
    if rope['rope_type'] == 'default':
        return None
    scaling = _without(rope, NOT_SCALING)
    if family == 'Phi3':
        scaling.pop('original_max_position_embeddings', None)  # is a field of its own
    is_su = rope['rope_type'] == 'longrope' and type_field == 'type'
    return scaling | {type_field: 'su' if is_su else rope['rope_type']}


def _older(name, type_field):
    """config.json as versions before 5 wrote it; `type_field` is what they called rope_type."""
    family, fields = FAMILIES[name][0], _saved(name)
    older = _without(fields, NEW_FIELDS) | {'torch_dtype': fields['dtype']}
    rope = fields['rope_parameters']
    if family == 'Gemma3':
        older['rope_local_base_freq'] = rope['sliding_attention']['rope_theta']
        older['sliding_window_pattern'] = fields['_sliding_window_pattern']
        rope = rope['full_attention']
    older['rope_theta'] = rope['rope_theta']
    older['rope_scaling'] = _older_scaling(rope, family, type_field)
    if rope.get('partial_rotary_factor', 1.0) != 1.0:
        older['partial_rotary_factor'] = rope['partial_rotary_factor']
    return older


@pytest.mark.parametrize('type_field', ['type', 'rope_type'])
@pytest.mark.parametrize('name', FAMILIES)
def test_the_older_form_of_a_config_says_the_same(name, type_field):
    new, older = _saved(name), _older(name, type_field)
    assert 'rope_parameters' in new
    assert not {'rope_parameters', 'layer_types', 'dtype'} & set(older)
    assert hf.config_of(older, 'older') == hf.config_of(new, 'new')
    # What a file says may be left out where it is the default.
    family = FAMILIES[name][0]
    defaults = config_class(family)().to_dict() | {
        'rope_theta': 1e6 if family == 'Gemma3' else 1e4,
        'rope_scaling': None,
        'rope_local_base_freq': 1e4,
        'sliding_window_pattern': 6,
    }
    minimal = {
        field: value
        for field, value in older.items()
        if field == 'architectures' or field not in defaults or value != defaults[field]
    }
    assert len(minimal) < len(older) - 5
    assert hf.config_of(minimal, 'minimal') == hf.config_of(new, 'new')


@pytest.mark.parametrize('windowed', [False, True])
@pytest.mark.parametrize('family', hf.FAMILIES)
def test_what_a_config_leaves_out_is_what_the_class_of_the_family_takes(family, windowed):
    minimal = {
        'vocab_size': 96,
        'hidden_size': 48,
        'intermediate_size': 80,
        'num_hidden_layers': 30,
        'num_attention_heads': 4,
    }
    if windowed:
        minimal['use_sliding_window'] = True
    full = json.loads(json.dumps(config_class(family)(**minimal).to_dict()))
    named = {'architectures': [f'{family}ForCausalLM']}
    config = hf.config_of(minimal | named, 'minimal')
    assert config == hf.config_of(full | named, 'full')
    if windowed and family.startswith('Qwen'):
        assert config.local == (False,) * 28 + (True,) * 2
