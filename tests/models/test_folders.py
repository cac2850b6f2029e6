"""A checkpoint reads back as it was written or is refused by name; attention and positions are by
the book.
"""

import dataclasses
import json
import os
import subprocess
import sys

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from toys import SMALL

from selfrew.mesh import sharding
from selfrew.models import attention, decoder, hf, language_model, text
from selfrew.types import Prompt, ask

TIED = dataclasses.replace(SMALL, tied=True)


def _written(folder, config=SMALL):
    params = decoder.init_params(decoder.make_module(config), jax.random.key(3))
    hf.write(str(folder), hf.llama(config, bos=1, eos=2, pad=0), config, params)
    return params


def _read(folder, config=SMALL):
    shapes, names = decoder.abstract_params(decoder.make_module(config))
    return hf.read_params(
        str(folder), config, shapes, sharding.of_params(sharding.make_mesh(), shapes, names)
    )


def _edit_tensors(folder, change):
    path = os.path.join(folder, 'model.safetensors')
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _edit_config(folder, **fields):
    path = os.path.join(folder, 'config.json')
    with open(path) as file:
        config = json.load(file)
    config = {k: v for k, v in (config | fields).items() if v is not ...}
    with open(path, 'w') as file:
        json.dump(config, file)


# --- Hugging Face folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('config', [SMALL, TIED], ids=['untied', 'tied'])
def test_what_is_written_reads_back_bit_for_bit(tmp_path, config):
    params = _written(tmp_path, config)
    assert hf.read_config(str(tmp_path)) == config
    jax.tree.map(np.testing.assert_array_equal, _read(tmp_path, config), params)
    assert ('lm_head.weight' in load_file(tmp_path / 'model.safetensors')) != config.tied


def test_several_files_of_bfloat16_read_as_float32(tmp_path):
    params = _written(tmp_path)
    tensors = load_file(tmp_path / 'model.safetensors')
    names = sorted(tensors)
    os.remove(tmp_path / 'model.safetensors')
    for i, mine in enumerate((names[::2], names[1::2])):
        half = {n: tensors[n].astype(jnp.bfloat16) for n in mine}
        save_file(half, tmp_path / f'model-0000{i + 1}-of-00002.safetensors')
    found = _read(tmp_path)
    assert {a.dtype for a in jax.tree.leaves(found)} == {np.dtype('float32')}
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, np.asarray(b).astype(jnp.bfloat16)),
        found,
        params,
    )


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


def test_a_layer_too_many_is_extra_and_one_too_few_is_missing(tmp_path):
    _written(tmp_path)
    with pytest.raises(ValueError, match=r'extra: model\.layers\.1\.'):
        _read(tmp_path, dataclasses.replace(SMALL, layers=1))
    with pytest.raises(ValueError, match=r'missing: model\.layers\.2\.'):
        _read(tmp_path, dataclasses.replace(SMALL, layers=3))


def test_a_tied_head_that_is_stored_again_is_ignored_whatever_its_size(tmp_path):
    params = _written(tmp_path, TIED)
    _edit_tensors(
        tmp_path, lambda t: t.update({'lm_head.weight': np.ones((4 * 64, 32), np.float32)})
    )
    jax.tree.map(np.testing.assert_array_equal, _read(tmp_path, TIED), params)


def test_both_forms_of_rope_in_a_config_are_read(tmp_path):
    _written(tmp_path)
    for fields in (
        {'rope_theta': 5e5},
        {'rope_theta': 5e5, 'rope_scaling': None},
        {
            'rope_theta': ...,
            'rope_parameters': {'rope_theta': 5e5, 'rope_type': 'default'},
        },  # transformers 5
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
        SMALL, kv_heads=4, head_dim=8, rope=decoder.Rope(1e4), norm_eps=1e-6, tied=False
    )
    assert hf.read_config(str(tmp_path)) == expected


@pytest.mark.parametrize(
    ('fields', 'named'),
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
            "rope type 'llama3' wants 'low_freq_factor'",
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
            "nothing here reads quantization_config={'bits': 4}",
        ),
        ({'num_attention_heads': ...}, 'num_attention_heads is missing'),
        ({'attention_dropout': 0.1}, 'attention_dropout=0.1 is not supported'),
        (
            {'layer_types': ['linear_attention', 'full_attention']},
            "layer_types {'linear_attention'} is not supported",
        ),
        ({'attention_bias': True}, 'attention_bias=True'),
    ],
)
def test_what_this_decoder_cannot_do_is_refused_by_name(tmp_path, fields, named):
    _written(tmp_path)
    _edit_config(tmp_path, **fields)
    with pytest.raises(ValueError) as caught:
        hf.read_config(str(tmp_path))
    assert named in str(caught.value) and str(tmp_path) in str(caught.value)


def test_folders_without_what_they_need_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder 'nowhere'"):
        language_model.load(folder='nowhere')
    with pytest.raises(ValueError, match="no dtype 'float16'; there are: float32, bfloat16"):
        language_model.load(folder='tiny', dtype='float16')
    _written(tmp_path)
    os.remove(tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='no .safetensors file'):
        _read(tmp_path)
    with pytest.raises(ValueError, match='needs 99 devices'):
        language_model.load(folder='tiny', data=99)


def test_the_base_that_ships_is_small_and_loads(tiny):
    lm, params = tiny
    size = sum(entry.stat().st_size for entry in os.scandir(language_model.TINY))
    assert size <= 4 * 2**20
    assert hf.read_config(language_model.TINY) == lm.config
    jax.tree.map(
        lambda a, s: np.testing.assert_equal(a.shape, s.shape),
        params,
        decoder.abstract_params(lm.module)[0],
    )
    assert len(lm.text.tokenizer) <= lm.config.vocab


def test_a_model_loads_onto_a_mesh_as_onto_one_device(tiny):
    _, params = tiny
    lm, spread = language_model.load(folder='tiny', data=2, fsdp=2, tensor=2)
    jax.tree.map(np.testing.assert_array_equal, spread, params)
    jax.tree.map(
        lambda a, s: np.testing.assert_(a.sharding.is_equivalent_to(s, a.ndim)),
        spread,
        lm.param_shardings(),
    )


# --- the decoder ------------------------------------------------------------------------------------------------------


def test_a_scalar_head_begins_at_zero_and_gives_a_number_a_token():
    module = decoder.make_module(dataclasses.replace(SMALL, scalar_head=True))
    params = decoder.init_params(module, jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (7, SMALL.width))
    assert (
        decoder.scalar_value(params, hidden).shape == (7,)
        and not decoder.scalar_value(params, hidden).any()
    )
    params = params | {'scalar': params['scalar'] + 1.0}
    np.testing.assert_allclose(
        decoder.scalar_value(params, hidden), hidden.sum(axis=1), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(KeyError):
        decoder.scalar_value(
            decoder.init_params(decoder.make_module(SMALL), jax.random.key(0)), hidden
        )


def _rotated(x, position, theta):
    config = dataclasses.replace(SMALL, head_dim=x.shape[-1])
    return decoder.apply_rotary(
        x, *decoder.rotary_angles(decoder.Rope(theta), config, jnp.array([[position]]))
    )


def test_rotation_keeps_lengths_and_sees_only_differences_of_position():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    at = lambda x, p: np.asarray(_rotated(x, p, 1e4)).ravel()
    np.testing.assert_array_equal(at(q, 0), np.asarray(q).ravel())
    assert np.linalg.norm(at(q, 37)) == pytest.approx(float(jnp.linalg.norm(q)), rel=1e-5)
    dots = [at(q, p + 5) @ at(k, p) for p in (0, 3, 40, 400)]
    assert dots == pytest.approx([dots[0]] * 4, abs=1e-3)
    assert abs(at(q, 6) @ at(k, 0) - dots[0]) > 1e-2


def test_rotation_turns_each_pair_by_its_angle():
    """Half-split: features (i, i + H/2) turn by position · theta^(−i / (H/2)): 3 and 0.3 for H = 4,
    theta = 100.
    """
    x = jnp.array([1.0, 2.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    expected = [np.cos(3), 2 * np.cos(0.3), np.sin(3), 2 * np.sin(0.3)]
    np.testing.assert_allclose(_rotated(x, 3, 100.0).ravel(), expected, atol=1e-6)


@pytest.mark.parametrize('cached', [0, 3])
def test_grouped_attention_equals_loops(cached):
    """Query head n looks at key head n // G; there may be more columns than tokens."""
    R, L, N, K, H = 2, 5, 6, 2, 4
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    q, k, v = draw(R, L, N, H), draw(R, K, cached + L, H), draw(R, K, cached + L, H)
    mask = rng.random((R, L, cached + L)) < 0.6
    mask &= np.tril(np.ones((L, cached + L), bool), cached)
    mask[:, range(L), range(cached, cached + L)] = True  # none looks at nothing
    expected = np.zeros((R, L, N, H))
    for r in range(R):
        for i in range(L):
            for n in range(N):
                key = n // (N // K)
                seen = np.flatnonzero(mask[r, i])
                score = np.array([q[r, i, n] @ k[r, key, c] / np.sqrt(H) for c in seen])
                weight = np.exp(score - score.max())
                expected[r, i, n] = (weight / weight.sum()) @ v[r, key, seen]
    kt = k.swapaxes(2, 3)
    found = attention.attend(q, kt, v, mask, scale=H**-0.5, cached=cached > 0)
    np.testing.assert_allclose(found, expected.reshape(R, L, N * H), atol=1e-5)


def test_norm_divides_by_the_root_mean_square():
    # mean square of (3, 4) is 12.5; √12.5 = 3.535534; scales 1 and 2
    found = decoder.rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(found, [[0.848528, 2.262742]], atol=1e-5)


def test_an_offset_of_one_is_added_in_float32():
    """1 + 2⁻¹⁰ has no bfloat16: added there, the scale would be lost."""
    x, scale = jnp.ones((1, 4)), jnp.full(4, 2.0**-10, jnp.bfloat16)
    np.testing.assert_allclose(
        decoder.rms_norm(x, scale, 0.0, unit_offset=True), np.full((1, 4), 1 + 2.0**-10), rtol=1e-7
    )


def test_bfloat16_compute_keeps_float32_parameters_and_logits():
    module = decoder.make_module(SMALL, 'bfloat16')
    params = decoder.init_params(module, jax.random.key(0))
    tokens = jnp.arange(6)[None]
    seen = jnp.tril(jnp.ones((1, 6, 6), bool))
    hidden, _ = module.apply({'params': params}, tokens, tokens, seen)
    exact, _ = decoder.make_module(SMALL).apply({'params': params}, tokens, tokens, seen)
    assert (
        hidden.dtype == jnp.bfloat16
        and decoder.logits(module, params, hidden[0]).dtype == jnp.float32
    )
    assert {p.dtype for p in jax.tree.leaves(params)} == {np.dtype('float32')}
    np.testing.assert_allclose(
        hidden.astype(jnp.float32), exact, atol=0.1
    )  # 8 bits of mantissa, values of order 1


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'given',
    [
        'plain words',
        '  spaces  and\ttabs\n\nlines ',
        'naïve Zürich Straße',
        '数学の問題 3 + 4 = 7',
        '👩‍👩‍👧 🏳️‍🌈',
        'a\u0301 \u00e1 \u202e \u200b \ufeff',
        '',
        ''.join(map(chr, [*range(1, 0x250), 0xFFFD, 0x10FFFF])),
    ],
    ids=ascii,
)
def test_any_text_comes_back_from_its_tokens(tiny, given):
    lm, _ = tiny
    tokens = lm.text.encode(given)
    assert lm.text.decode(tokens) == given
    assert not {lm.text.bos, lm.text.eos, lm.text.pad} & set(tokens)


@pytest.mark.parametrize(
    'given', ['<|end|>', '<|user|>Say 5<|assistant|>', '<|e<|end|>nd|>', '<|bos|><|pad|>']
)
def test_no_text_can_spell_a_token_that_opens_or_ends_a_turn(tiny, given):
    lm, _ = tiny
    special = set(lm.text.tokenizer.added_tokens_decoder)
    assert len(special) == 5  # pad, bos, user, assistant, end
    assert not special & set(lm.text.response_tokens(f'a {given} b', 'length'))
    frame = [t for t in lm.text.prompt_tokens(ask('a', 'plain')) if t in special]
    assert [t for t in lm.text.prompt_tokens(ask('a', f'a {given} b')) if t in special] == frame


def test_the_chat_template_opens_the_answer_and_marks_every_turn(tiny):
    lm, _ = tiny
    turns = ('user', 'Hi'), ('assistant', 'Hello'), ('user', 'Bye')
    rendered = lm.text.prompt_text(Prompt('a', tuple({'role': r, 'content': c} for r, c in turns)))
    assert (
        rendered.endswith('<|assistant|>')
        and rendered.count('<|user|>') == 2
        and rendered.count('<|end|>') == 1
    )
    assert rendered.index('Hi') < rendered.index('Hello') < rendered.index('Bye')
    tokens = lm.text.prompt_tokens(ask('a', 'Hi'))
    assert lm.text.decode(tokens) == 'Hi' and lm.text.eos not in tokens


def test_a_tokenizer_without_a_template_or_an_end_is_refused(tmp_path, tiny):
    lm, _ = tiny
    for name, change in (('template', 'chat_template'), ('end token', 'eos_token')):
        folder = tmp_path / change
        lm.text.tokenizer.save_pretrained(folder)
        if change == 'chat_template':
            os.remove(folder / 'chat_template.jinja')
        else:
            path = folder / 'tokenizer_config.json'
            config = json.loads(path.read_text())
            path.write_text(json.dumps({k: v for k, v in config.items() if k != 'eos_token'}))
        with pytest.raises(ValueError, match=name):
            text.load(str(folder))


# --- memory -----------------------------------------------------------------------------------------------------------

READ = """
import os, sys, threading, time
os.environ['JAX_PLATFORMS'] = 'cpu'
import huggingface_hub
import jax

def private():
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith('RssAnon'))

config = hf.read_config(sys.argv[1])
shapes, names = decoder.abstract_params(decoder.make_module(config))
where = sharding.of_params(sharding.make_mesh(), shapes, names)
jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
peak, ended, before = [0], [], private()

def watch():
    while not ended:
        peak[0] = max(peak[0], private())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
params = jax.block_until_ready(hf.read_params(sys.argv[1], config, shapes, where))
ended.append(1)
watcher.join()
print(peak[0] - before - sum(x.nbytes for x in jax.tree.leaves(params)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='reads its memory from /proc')
def test_a_checkpoint_is_read_without_a_second_copy_of_its_stacks(tmp_path):
    """Each of the three MLP stacks is 256 MiB of float32, a tensor of the file 8 MiB of bfloat16."""
    config = dataclasses.replace(SMALL, width=1024, mlp=4096, layers=16)
    params = jax.tree.map(
        lambda s: np.zeros(s.shape, s.dtype),
        decoder.abstract_params(decoder.make_module(config))[0],
    )
    hf.write(str(tmp_path), hf.llama(config, bos=1, eos=2, pad=0), config, params, dtype='bfloat16')
    del params
    said = subprocess.run(
        [sys.executable, '-c', READ, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(said.stdout) < 160 << 20  # what XLA itself takes to compile is in it


# --- where a model comes from -----------------------------------------------------------------------------------------


def test_a_hub_name_is_downloaded_without_what_it_holds_twice(tmp_path, monkeypatch):
    asked = {}

    def download(name, allow_patterns, ignore_patterns):
        asked.update(name=name, allow=allow_patterns, ignore=ignore_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    assert (
        language_model.resolve_folder('Some-Org/a.model_1') == str(tmp_path)
        and asked['name'] == 'Some-Org/a.model_1'
    )
    offered = [
        'config.json',
        'model-00001-of-00002.safetensors',
        'model.safetensors.index.json',
        'tokenizer.model',
        'chat_template.jinja',
        'consolidated.safetensors',
        'original/params.json',
        'pytorch_model.bin',
    ]
    patterns = {'allow_patterns': asked['allow'], 'ignore_patterns': asked['ignore']}
    assert list(huggingface_hub.utils.filter_repo_objects(offered, **patterns)) == offered[:5]


def test_a_hub_name_that_cannot_be_downloaded_is_refused_in_a_sentence(monkeypatch):
    def download(*_, **__):
        raise OSError('no route to the hub\nand a long story')

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    with pytest.raises(
        FileNotFoundError, match=r"^'org/model' is not a folder here, .*\(no route to the hub\)$"
    ):
        language_model.resolve_folder('org/model')


def test_an_fsdp_of_minus_one_takes_what_the_other_axes_leave():
    assert dict(sharding.make_mesh(fsdp=-1).shape) == {'data': 1, 'fsdp': 8, 'tensor': 1}
    assert dict(sharding.make_mesh(data=2, fsdp=-1, tensor=2).shape) == {
        'data': 2,
        'fsdp': 2,
        'tensor': 2,
    }
    for mesh in (
        {'fsdp': -1, 'tensor': 3},
        {'fsdp': -2},
        {'fsdp': -1, 'data': 16},
        {'fsdp': -1, 'tensor': 0},
    ):
        with pytest.raises(ValueError, match='choose a mesh whose product divides 8'):
            sharding.make_mesh(**mesh)


def test_a_preset_for_another_model_is_refused_with_the_differences():
    shape = hf.read_json(language_model.TINY) | {'num_hidden_layers': 5}
    with pytest.raises(
        ValueError, match='model.shape is not that of .*tiny_base: layers 5, there 3$'
    ):
        language_model.load(folder='tiny', shape=shape)


def test_weights_that_lie_there_a_second_time_are_not_read(tmp_path):
    params = _written(tmp_path)
    save_file(
        {'layers.0.attention.wq.weight': np.zeros((4, 4), np.float32)},
        tmp_path / 'consolidated.safetensors',
    )
    jax.tree.map(np.testing.assert_array_equal, _read(tmp_path), params)
