"""A GGUF file loads as the folder that it was made from, and as transformers loads it on torch."""

import dataclasses
import re
import sys

import jax
import numpy as np
import pytest
import transformers
from families import FAMILIES, LLAMA3, architecture, make_config
from toys import Numbers

from selfrew.mesh import sharding
from selfrew.models import decoder, hf, language_model
from selfrew.models.language_model import Lm

gguf = pytest.importorskip('gguf')
import gguf_files  # noqa: E402 — needs gguf

KINDS = gguf.GGMLQuantizationType
# Rows are a multiple of a block's 32 numbers; what a file does not state is as llama.cpp has it.
SIZES = {'hidden_size': 64, 'intermediate_size': 96, 'head_dim': 16}
GEMMA = SIZES | {'query_pre_attn_scalar': 16}
LONG_PAIRS = {'short_factor': [1.0] * 6 + [2.0] * 2, 'long_factor': [1.5] * 4 + [9.0] * 4}
CHANGES = dict.fromkeys(FAMILIES, SIZES) | dict.fromkeys(('gemma2', 'gemma3'), GEMMA)
CHANGES |= dict.fromkeys(('qwen2', 'phi3', 'phi3_partial', 'olmo2'), SIZES | {'head_dim': None})
# Between 64 / 4 and 64 tokens, where Llama 3 blends, one pair of features has its wavelength.
CHANGES['llama3'] = SIZES | {
    'rope_parameters': LLAMA3 | {'rope_theta': 5e5, 'original_max_position_embeddings': 64}
}
CHANGES['gemma3_scaled'] = GEMMA | {'sliding_window_pattern': 6}
CHANGES['phi3_long'] = CHANGES['phi3'] | {
    'rope_parameters': LONG_PAIRS | {'rope_theta': 1e4, 'rope_type': 'longrope'}
}
REPRESENTED = [name for name in FAMILIES if name != 'qwen2_window']  # a file states no such window
# Those of which transformers reads all that matters, at these sizes.
READ_BY_TRANSFORMERS = {
    'llama2': {},
    'mistral_whole': {},
    'qwen2': {},
    'qwen3': {'head_dim': 128},
    'gemma2': {'attn_logit_softcapping': 50.0, 'final_logit_softcapping': 30.0}
    | {'query_pre_attn_scalar': 256, 'head_dim': 256},
    'gemma3': {'query_pre_attn_scalar': 256, 'head_dim': 256},
    'phi3': {'sliding_window': None},
}
# What transformers adds to the config of a file.
NOT_OF_THE_MODEL = '_model_name_or_path', 'unk_token_id'


def _torch_model(name, **fields):
    """A random model of the family, norms and biases too."""
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    changes = {key: value for key, value in (CHANGES[name] | fields).items() if value is not None}
    changes |= {key: None for key in fields if fields[key] is None}
    config = make_config(name, **changes)
    model = getattr(transformers, architecture(name))._from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


def _load(path, **axes):
    config = hf.read_config(str(path))
    mesh = sharding.make_mesh(**axes)
    lm = Lm(decoder.make_module(config, mesh=mesh), Numbers(), mesh)
    return lm, hf.read_params(str(path), config, lm.abstract_params(), lm.param_shardings())


def _assert_equal_params(params, expected, tolerance):
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for (path, x), y in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(expected)):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance, err_msg=str(path))


def _assert_equal_logits(model, lm, params):
    torch = pytest.importorskip('torch')
    tokens = np.random.default_rng(0).integers(3, 96, (2, 24))
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
    position = np.broadcast_to(np.arange(24), tokens.shape)
    causal = np.broadcast_to(np.tril(np.ones((24, 24), bool)), (2, 24, 24))
    hidden, _ = jax.jit(lm.module.apply)({'params': params}, tokens, position, causal)
    logits = np.asarray(decoder.logits(lm.module, params, hidden.reshape(48, -1)))
    atol = 1e-4 * np.abs(expected).max()  # as in test_parity
    np.testing.assert_allclose(logits.reshape(expected.shape), expected, rtol=0, atol=atol)


def _loaded_by_transformers(path):
    """The file's model, as transformers makes it on torch."""
    torch = pytest.importorskip('torch')
    pytest.importorskip('accelerate')
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    model.hf_quantizer = None  # or it would not be saved, though it is of floats
    del model.config.quantization_config
    return model


@pytest.mark.parametrize('name', REPRESENTED)
def test_a_file_has_the_config_and_tensors_of_the_folder_it_was_made_from(tmp_path, name):
    model = _torch_model(name)
    model.save_pretrained(tmp_path / 'folder')
    gguf_files.write(tmp_path / 'x.gguf', model)
    assert hf.read_config(str(tmp_path / 'x.gguf')) == hf.read_config(str(tmp_path / 'folder'))
    # Norms stored as 1 + w lose what a float32 near 1 rounds.
    (_, params), (_, expected) = _load(tmp_path / 'x.gguf'), _load(tmp_path / 'folder')
    _assert_equal_params(params, expected, 2e-7 if name.startswith('gemma') else 0.0)


@pytest.mark.parametrize(
    'theta, factor, high, original',
    [(5e5, 8.0, 4.0, 8192), (5e5, 32.0, 4.0, 8192), (1e4, 4.0, 2.5, 900)],
)
def test_the_scaling_of_llama_3_is_found_from_its_factors(tmp_path, theta, factor, high, original):
    rope = {'rope_theta': theta, 'factor': factor, 'high_freq_factor': high}
    rope = LLAMA3 | rope | {'original_max_position_embeddings': original}
    model = _torch_model('llama3', head_dim=64, rope_parameters=rope)
    gguf_files.write(tmp_path / 'x.gguf', model)
    found = hf.read_fields(str(tmp_path / 'x.gguf'))['rope_scaling']
    assert found == {key: value for key, value in rope.items() if key != 'rope_theta'}


@pytest.mark.parametrize('name', READ_BY_TRANSFORMERS)
def test_a_file_has_the_config_and_tensors_that_transformers_reads(tmp_path, name):
    model = _torch_model(name, **READ_BY_TRANSFORMERS[name])
    path = tmp_path / 'x.gguf'
    gguf_files.write(path, model, KINDS.Q8_0)
    loaded = _loaded_by_transformers(path)
    loaded.save_pretrained(tmp_path / 'folder')
    fields = loaded.config.to_dict() | {'architectures': [architecture(name)]}
    if name.startswith('mistral'):
        fields['architectures'] = ['LlamaForCausalLM']
    expected = hf.config_of({k: v for k, v in fields.items() if k not in NOT_OF_THE_MODEL}, 'torch')
    config = hf.read_config(str(path))
    assert config == dataclasses.replace(expected, norm_eps=config.norm_eps)
    assert config.norm_eps == pytest.approx(expected.norm_eps, rel=1e-6)
    lm, params = _load(path)
    shapes = lm.abstract_params(), lm.param_shardings()
    _assert_equal_params(params, hf.read_params(str(tmp_path / 'folder'), config, *shapes), 0.0)
    _assert_equal_logits(loaded, lm, params)


@pytest.mark.parametrize(
    'kind', ['F16', 'BF16', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q4_K', 'Q5_K', 'Q6_K']
)
def test_every_common_quantisation_is_read_as_transformers_reads_it(tmp_path, kind):
    # K-quants have blocks of 256.
    model = _torch_model('llama2', hidden_size=256, intermediate_size=256, head_dim=64)
    path = tmp_path / 'x.gguf'
    gguf_files.write(path, model, KINDS[kind])
    _loaded_by_transformers(path).save_pretrained(tmp_path / 'folder')
    lm, params = _load(path)
    shapes = lm.abstract_params(), lm.param_shardings()
    _assert_equal_params(params, hf.read_params(str(tmp_path / 'folder'), lm.config, *shapes), 0.0)


@pytest.mark.parametrize('name', ['llama3', 'gemma3', 'phi3'])
def test_a_file_is_read_the_same_on_any_mesh(tmp_path, name):
    path = tmp_path / 'x.gguf'
    gguf_files.write(path, _torch_model(name), KINDS.Q8_0)
    (_, params), (_, expected) = _load(path, fsdp=4, tensor=2), _load(path)
    _assert_equal_params(params, expected, 0.0)


def _model_of_numbers():
    return _torch_model('llama2', num_hidden_layers=1)


def test_a_tensor_that_is_not_finite_is_refused_by_name(tmp_path):
    torch = pytest.importorskip('torch')
    model = _model_of_numbers()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] = np.inf
    gguf_files.write(tmp_path / 'x.gguf', model)
    with pytest.raises(
        ValueError, match=r'x\.gguf: the tensor model\.layers\.0\.mlp\.up_proj\.weight'
    ):
        _load(tmp_path / 'x.gguf')


@pytest.mark.parametrize(
    'metadata, message',
    [
        ({'general__architecture': 'falcon'}, "'falcon' is not supported; supported: llama, qwen2"),
        ({'llama__expert_count': 8}, 'nothing reads llama.expert_count=8'),
        ({'llama__block_count': None}, 'the metadata has no llama.block_count'),
        ({'llama__attention__head_count_kv': [1, 2]}, 'head_count_kv differs between layers'),
        (
            {'llama__rope__scaling__type': 'yarn', 'llama__rope__scaling__factor': 4.0},
            "rope type 'yarn' is not supported",
        ),
        ({'split__count': 3}, 'is a part of a split model'),
        ({'llama__feed_forward_length': 95}, 'the tensors do not match its metadata: misshapen'),
        ({'llama__block_count': 2}, 'missing: model.layers.1.self_attn.q_proj.weight'),
    ],
)
def test_metadata_that_cannot_be_followed_is_refused_by_name(tmp_path, metadata, message):
    path = tmp_path / 'x.gguf'
    gguf_files.write(path, _model_of_numbers(), **metadata)
    with pytest.raises(ValueError, match=re.escape(message)):
        _load(path)


def test_a_tensor_without_a_place_in_a_folder_is_refused_by_its_own_name(tmp_path):
    model = _model_of_numbers()
    path = tmp_path / 'x.gguf'
    gguf_files.write(
        path, model, extra={'blk.0.ffn_gate_exps.weight': np.zeros((2, 32), np.float32)}
    )
    with pytest.raises(ValueError, match=r'extra: blk\.0\.ffn_gate_exps\.weight'):
        _load(path)


def test_a_type_that_is_not_turned_into_floats_is_refused(tmp_path):
    path = tmp_path / 'x.gguf'
    extra = {'blk.0.counts': np.zeros((2, 32), np.int32)}
    gguf_files.write(path, _model_of_numbers(), extra=extra)
    with pytest.raises(ValueError, match=r'the tensor blk\.0\.counts has type 26'):
        _load(path)


@pytest.mark.parametrize('share', [0.0, 0.0001, 0.01, 0.1, 0.3, 0.9, 0.9999])
def test_a_file_that_is_cut_short_is_refused(tmp_path, share):
    path = tmp_path / 'x.gguf'
    gguf_files.write(path, _model_of_numbers())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r'x\.gguf (is damaged or cut short|is not a GGUF file)'):
        hf.read_fields(str(path))


def test_a_damaged_header_is_refused_or_read_and_never_crashes(tmp_path):
    path = tmp_path / 'x.gguf'
    gguf_files.write(path, _model_of_numbers())
    content = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = content.copy()
        damaged[rng.integers(0, 3000, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            hf.read_config(str(path))
        except ValueError as refusal:
            assert 'x.gguf' in str(refusal)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'PK\x03\x04' + bytes(100), 'is not a GGUF file'),
        (b'GGUF\x01\x00\x00\x00' + bytes(100), 'GGUF version 1 is not supported; supported: 2, 3'),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path, content, message):
    (tmp_path / 'x.gguf').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        hf.read_fields(str(tmp_path / 'x.gguf'))


def test_a_part_of_a_split_file_is_refused(tmp_path):
    path = tmp_path / 'x-00002-of-00003.gguf'
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='part of a split model.*llama-gguf-split --merge'):
        hf.read_fields(str(path))


def test_without_the_package_the_refusal_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gguf', None)
    with pytest.raises(ValueError, match=r"needs the package gguf: pip install 'selfrew\[gguf\]'"):
        hf.read_fields(str(tmp_path / 'x.gguf'))


def test_a_file_that_is_absent_is_refused_and_not_looked_up_on_the_hub(tmp_path):
    for path in (tmp_path / 'x.gguf', 'models/x.gguf'):
        with pytest.raises(FileNotFoundError, match='no model folder'):
            language_model.load(folder=str(path))
