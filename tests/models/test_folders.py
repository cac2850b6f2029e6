"""A Hugging Face folder reads back as it was written, or is refused with what is wrong by name."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from toys import SMALL

from selfrew.mesh import sharding
from selfrew.models import decoder, hf
from selfrew.models.config import Rope

TIED = dataclasses.replace(SMALL, tied=True)


def _written(folder, config=SMALL):
    params = decoder.init_params(decoder.make_module(config), jax.random.key(3))
    hf.write(str(folder), hf.llama_fields(config, bos=1, eos=2, pad=0), config, params)
    return params


def _read(folder, config=SMALL):
    shapes, names = decoder.abstract_params(decoder.make_module(config))
    shardings = sharding.of_params(sharding.make_mesh(), shapes, names)
    return hf.read_params(str(folder), config, shapes, shardings)


def _edit_tensors(folder, change):
    path = os.path.join(folder, 'model.safetensors')
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _edit_config(folder, **fields):
    """Sets fields of config.json; `...` removes one."""
    path = folder / 'config.json'
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


# --- tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize('config', [SMALL, TIED], ids=['untied', 'tied'])
def test_what_is_written_reads_back_bit_for_bit(tmp_path, config):
    params = _written(tmp_path, config)
    assert hf.read_config(str(tmp_path)) == config
    jax.tree.map(np.testing.assert_array_equal, _read(tmp_path, config), params)
    assert ('lm_head.weight' in load_file(tmp_path / 'model.safetensors')) != config.tied


def test_several_files_of_bfloat16_read_as_float32(tmp_path):
    written = _written(tmp_path)
    tensors = load_file(tmp_path / 'model.safetensors')
    names = sorted(tensors)
    os.remove(tmp_path / 'model.safetensors')
    for i, shard in enumerate((names[::2], names[1::2])):
        bfloat16 = {name: tensors[name].astype(jnp.bfloat16) for name in shard}
        save_file(bfloat16, tmp_path / f'model-0000{i + 1}-of-00002.safetensors')
    params = _read(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), written)
    jax.tree.map(np.testing.assert_array_equal, params, rounded)


def test_all_that_is_wrong_with_the_tensors_is_named(tmp_path):
    _written(tmp_path)

    def change(tensors):
        del tensors['model.norm.weight']
        tensors['model.layers.0.self_attn.q_proj.bias'] = np.zeros(32, np.float32)
        tensors['model.layers.1.mlp.up_proj.weight'] = np.zeros((5, 5), np.float32)

    _edit_tensors(tmp_path, change)
    with pytest.raises(ValueError) as caught:
        _read(tmp_path)
    assert 'missing: model.norm.weight' in str(caught.value)
    assert 'extra: model.layers.0.self_attn.q_proj.bias' in str(caught.value)
    assert 'misshapen: model.layers.1.mlp.up_proj.weight is (5, 5)' in str(caught.value)


@pytest.mark.parametrize('value', [np.nan, np.inf], ids=['nan', 'inf'])
@pytest.mark.parametrize(
    'tensor', ['model.embed_tokens.weight', 'model.layers.1.mlp.up_proj.weight', 'lm_head.weight']
)
@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16], ids=['float32', 'bfloat16'])
def test_a_tensor_that_is_not_finite_is_named_with_its_file(tmp_path, dtype, tensor, value):
    _written(tmp_path)

    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(dtype)
        tensors[tensor][3, 5] = value

    _edit_tensors(tmp_path, change)
    message = rf'model\.safetensors: the tensor {tensor} holds numbers that are not finite'
    with pytest.raises(ValueError, match=message):
        _read(tmp_path)


def test_a_layer_too_many_is_extra_and_one_too_few_is_missing(tmp_path):
    _written(tmp_path)
    with pytest.raises(ValueError, match=r'extra: model\.layers\.1\.'):
        _read(tmp_path, dataclasses.replace(SMALL, layers=1))
    with pytest.raises(ValueError, match=r'missing: model\.layers\.2\.'):
        _read(tmp_path, dataclasses.replace(SMALL, layers=3))


def test_a_tied_head_that_is_stored_again_is_ignored_whatever_its_size(tmp_path):
    params = _written(tmp_path, TIED)
    head = {'lm_head.weight': np.ones((4 * 64, 32), np.float32)}
    _edit_tensors(tmp_path, lambda tensors: tensors.update(head))
    jax.tree.map(np.testing.assert_array_equal, _read(tmp_path, TIED), params)


def test_a_second_copy_of_the_weights_in_another_format_is_not_read(tmp_path):
    params = _written(tmp_path)
    copy = {'layers.0.attention.wq.weight': np.zeros((4, 4), np.float32)}
    save_file(copy, tmp_path / 'consolidated.safetensors')
    jax.tree.map(np.testing.assert_array_equal, _read(tmp_path), params)


def test_of_a_single_file_and_an_index_the_single_file_is_read_as_in_transformers(tmp_path):
    params = _written(tmp_path)
    stale = {'weight_map': {'model.norm.weight': 'model-00001-of-00002.safetensors'}}
    (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(stale))
    jax.tree.map(np.testing.assert_array_equal, _read(tmp_path), params)


@pytest.mark.parametrize(('dtype', 'name'), [(np.int8, 'I8'), (jnp.float8_e4m3fn, 'F8_E4M3')])
def test_a_tensor_of_an_odd_dtype_is_refused_with_its_file(tmp_path, dtype, name):
    _written(tmp_path)

    def change(tensors):
        tensors['model.norm.weight'] = tensors['model.norm.weight'].astype(dtype)

    _edit_tensors(tmp_path, change)
    message = rf'model\.safetensors: the tensor model\.norm\.weight is stored as {name}; supported'
    with pytest.raises(ValueError, match=message):
        _read(tmp_path)


@pytest.mark.parametrize('dtype', [np.float64, np.float16])
def test_tensors_of_any_floating_dtype_are_read(tmp_path, dtype):
    params = _written(tmp_path)
    _edit_tensors(tmp_path, lambda t: t.update({k: v.astype(dtype) for k, v in t.items()}))
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype).astype('float32'), params)
    jax.tree.map(np.testing.assert_array_equal, _read(tmp_path), rounded)


def test_an_index_without_a_map_of_weights_is_refused_by_name(tmp_path):
    _written(tmp_path)
    os.remove(tmp_path / 'model.safetensors')
    (tmp_path / 'model.safetensors.index.json').write_text('{}')
    with pytest.raises(ValueError, match=r'index\.json: want a JSON object with weight_map'):
        _read(tmp_path)


def test_a_folder_without_tensors_is_refused(tmp_path):
    _written(tmp_path)
    os.remove(tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='no .safetensors file'):
        _read(tmp_path)


# Prints by how many bytes reading a folder's parameters exceeds, at its peak, their own size.
READ = """
import os, sys, threading, time
os.environ['JAX_PLATFORMS'] = 'cpu'
import jax
from selfrew.mesh import sharding
from selfrew.models import decoder, hf

def private_bytes():
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith('RssAnon'))

config = hf.read_config(sys.argv[1])
shapes, names = decoder.abstract_params(decoder.make_module(config))
shardings = sharding.of_params(sharding.make_mesh(), shapes, names)
jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
peak, before, finished = 0, private_bytes(), threading.Event()

def watch():
    global peak
    while not finished.is_set():
        peak = max(peak, private_bytes())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
params = jax.block_until_ready(hf.read_params(sys.argv[1], config, shapes, shardings))
finished.set()
watcher.join()
print(peak - before - sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='reads its memory from /proc')
def test_a_checkpoint_is_read_without_a_second_copy_of_its_stacks(tmp_path):
    """Each MLP stack is 256 MiB of float32, a tensor in the file 8 MiB of bfloat16."""
    config = dataclasses.replace(SMALL, width=1024, mlp=4096, layers=16)
    shapes, _ = decoder.abstract_params(decoder.make_module(config))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    fields = hf.llama_fields(config, bos=1, eos=2, pad=0)
    hf.write(str(tmp_path), fields, config, params, dtype='bfloat16')
    del params
    command = [sys.executable, '-c', READ, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(finished.stdout) < 160 << 20  # includes what XLA needs to compile


# --- config.json ----------------------------------------------------------------------------------


def test_both_forms_of_rope_in_a_config_are_read(tmp_path):
    _written(tmp_path)
    transformers_5 = {'rope_theta': 5e5, 'rope_type': 'default'}
    for fields in (
        {'rope_theta': 5e5},
        {'rope_theta': 5e5, 'rope_scaling': None},
        {'rope_theta': ..., 'rope_parameters': transformers_5},
    ):
        _edit_config(tmp_path, **{'rope_parameters': ..., **fields})
        assert hf.read_config(str(tmp_path)).rope.theta == 5e5


def test_what_a_config_may_leave_out_has_the_default_of_llama(tmp_path):
    _written(tmp_path)
    optional = (
        'rope_theta',
        'head_dim',
        'num_key_value_heads',
        'tie_word_embeddings',
        'rms_norm_eps',
        'hidden_act',
    )
    _edit_config(tmp_path, **dict.fromkeys(optional, ...))
    # heads of width / heads = 32 / 4, a key head for each query head
    expected = dataclasses.replace(
        SMALL, kv_heads=4, head_dim=8, rope=Rope(1e4), norm_eps=1e-6, tied=False
    )
    assert hf.read_config(str(tmp_path)) == expected


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            {'architectures': ['GPT2LMHeadModel']},
            "architecture 'GPT2LMHeadModel' is not supported; supported: Llama, ",
        ),
        (
            {'architectures': ['LlamaForTokenClassification']},
            "architecture 'LlamaForTokenClassification'",
        ),
        ({'architectures': ...}, "architecture 'none'"),
        (
            {'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}},
            "rope type 'llama3' needs 'low_freq_factor'",
        ),
        (
            {'rope_scaling': {'type': 'dynamic', 'factor': 2.0}},
            "rope type 'dynamic' is not supported; supported:",
        ),
        ({'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e4}}, "rope type 'yarn'"),
        (
            {'hidden_act': 'gelu'},
            "activation 'gelu' is not supported; supported: silu, gelu_pytorch_tanh",
        ),
        (
            {'quantization_config': {'bits': 4}},
            "not supported: quantization_config={'bits': 4}",
        ),
        ({'num_attention_heads': ...}, 'num_attention_heads is missing'),
        ({'attention_dropout': 0.1}, 'not supported: attention_dropout=0.1'),
        (
            {
                'architectures': ['Qwen3ForCausalLM'],
                'layer_types': ['linear_attention', 'full_attention'],
            },
            "layer_types {'linear_attention'} is not supported",
        ),
        ({'mlp_bias': True, 'pretraining_tp': 2}, 'mlp_bias=True, pretraining_tp=2'),
        ({'attention_bias': True}, 'attention_bias=True'),
    ],
)
def test_what_this_decoder_cannot_do_is_refused_by_name(tmp_path, fields, message):
    _written(tmp_path)
    _edit_config(tmp_path, **fields)
    with pytest.raises(ValueError) as caught:
        hf.read_config(str(tmp_path))
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)


UNKNOWN = {
    'unsloth_fixed': True,
    '_model_name_or_path': 'a/b',
    'unk_token_id': 3,
    'pruned_heads': {},
    'use_return_dict': True,
    'attn_implementation': 'flash_attention_2',
    'layer_types': ['full_attention'] * 2,
    'sliding_window': 7,
    'my_note': [1, 2],
}


def test_fields_that_the_config_class_of_transformers_does_not_know_are_ignored_as_there(tmp_path):
    """A Llama knows no window and no types of layers, so that neither has an effect."""
    _written(tmp_path)
    config = hf.read_config(str(tmp_path))
    _edit_config(tmp_path, **UNKNOWN)
    assert hf.read_config(str(tmp_path)) == config
    transformers = pytest.importorskip('transformers')
    _edit_config(tmp_path, use_return_dict=...)  # transformers 5 can no longer load a file with it
    there = transformers.AutoConfig.from_pretrained(tmp_path)
    assert there.num_hidden_layers == config.layers and there.vocab_size == config.vocab


def test_what_is_ignored_is_said_once_by_name(tmp_path, caplog):
    _written(tmp_path)
    _edit_config(tmp_path, **UNKNOWN)
    for _ in range(3):
        hf.read_config(str(tmp_path))
    (said,) = caplog.messages
    assert 'my_note=[1, 2]' in said and 'sliding_window=7' in said and str(tmp_path) in said
    assert 'pruned_heads' not in said  # says nothing as it is


def test_a_field_that_the_config_class_knows_passes_at_its_default_and_no_other(tmp_path):
    _written(tmp_path)
    config = hf.read_config(str(tmp_path))
    defaults = {'pretraining_tp': 1, 'mlp_bias': False, 'attention_dropout': 0}
    _edit_config(tmp_path, **defaults)
    assert hf.read_config(str(tmp_path)) == config
    # The same names in a family whose class does not know them.
    _edit_config(tmp_path, architectures=['MistralForCausalLM'], pretraining_tp=4, mlp_bias=True)
    hf.read_config(str(tmp_path))


def test_where_a_file_has_both_forms_of_rope_the_older_one_counts_as_in_transformers(tmp_path):
    transformers = pytest.importorskip('transformers')
    _written(tmp_path)
    linear = {'rope_type': 'linear', 'factor': 4.0}
    _edit_config(
        tmp_path, rope_scaling=linear, rope_parameters={'rope_type': 'default', 'rope_theta': 1e4}
    )
    there = transformers.AutoConfig.from_pretrained(tmp_path).rope_parameters
    rope = hf.read_config(str(tmp_path)).rope
    assert (rope.kind, rope.factor) == (there['rope_type'], there['factor']) == ('linear', 4.0)


@pytest.mark.parametrize('content', ['[1, 2]', '{"vocab_size": ', '3'])
def test_a_config_that_is_no_object_is_refused_with_its_path(tmp_path, content):
    _written(tmp_path)
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=r'config\.json'):
        hf.read_config(str(tmp_path))
