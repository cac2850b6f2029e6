"""Every family has the logits, rewards and greedy tokens of transformers on torch, and goes back.

Needs the extra `parity`; skipped without torch.
"""

import copy
import json
import os

import jax
import numpy as np
import pytest
import transformers
from families import FAMILIES, architecture, make_config
from toys import EOS, Numbers

from selfrew.engine import generate
from selfrew.mesh import sharding
from selfrew.models import decoder, hf
from selfrew.models.language_model import Lm

torch = pytest.importorskip('torch')

# Relative to the largest logit. Float32 rounding alone gives some 3e-6.
TOLERANCE = 1e-4
ONE_PER_FAMILY = 'llama3', 'mistral', 'qwen2_window', 'qwen3', 'gemma2', 'gemma3', 'phi3', 'olmo2'


@pytest.fixture(autouse=True)
def compile_quickly():
    """Compiling is most of what these tests do. Torch's threads would compete with JAX's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)
    torch.set_num_threads(threads)


def _torch_model(name, head='ForCausalLM', **fields):
    """A random model of the family, spread out enough that a wrong switch shows."""
    torch.manual_seed(0)
    model_class = getattr(transformers, architecture(name, head))
    config = make_config(name, **fields)
    model = model_class._from_config(config, attn_implementation='eager').eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too: at 1 and 0 they would hide
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


def _round_to_bfloat16(model):
    """The model, its parameters rounded in place; `.bfloat16()` would round its rotations too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return model


def _load(folder, max_length=None, **axes):
    config = hf.read_config(str(folder), max_length)
    mesh = sharding.make_mesh(**axes)
    lm = Lm(decoder.make_module(config, mesh=mesh), Numbers(), mesh)
    return lm, hf.read_params(str(folder), config, lm.abstract_params(), lm.param_shardings())


def _ragged(rows=3, length=24):
    """Random tokens [rows length], padded on the right to different lengths, and their mask."""
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(3, 96, (rows, length)), np.zeros((rows, length), bool)
    for row in range(rows):
        mask[row, : (length, 5, 17)[row % 3]] = True
    return np.where(mask, tokens, 0), mask


def _hidden(lm, params, tokens, mask):
    position = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    causal = np.tril(np.ones((tokens.shape[1],) * 2, bool))[None] & mask[:, None, :]
    inputs = lm.place_rows((tokens, position, causal))
    hidden, _ = jax.jit(lm.module.apply)({'params': params}, *inputs)
    return hidden.reshape(-1, hidden.shape[-1])


def _torch_logits(model, tokens, mask):
    attention_mask = torch.tensor(mask.astype(int))
    with torch.no_grad():
        return model(torch.tensor(tokens), attention_mask=attention_mask).logits.numpy()


def _assert_equal_logits(model, lm, params, tokens, mask):
    expected = _torch_logits(model, tokens, mask)
    logits = decoder.logits(lm.module, params, _hidden(lm, params, tokens, mask))
    logits, expected = np.asarray(logits).reshape(expected.shape)[mask], expected[mask]
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)
    assert np.ptp(expected, axis=-1).min() > 1  # of logits that differ


def _assert_greedy(model, prompt, response, max_tokens):
    """Each token of the response is torch's most likely one after those before it.

    Of two that are equally likely within the tolerance, either is: a rounding decides between them.
    """
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].numpy()
    chosen = logits[np.arange(len(response)), response]
    assert (logits.max(axis=-1) - chosen).max() <= TOLERANCE * np.abs(logits).max()
    assert EOS not in response[:-1]
    assert response[-1] == EOS or len(response) == max_tokens


@pytest.mark.parametrize('name', FAMILIES)
def test_a_family_has_the_logits_and_greedy_tokens_of_transformers_and_goes_back(tmp_path, name):
    model = _torch_model(name)
    model.save_pretrained(tmp_path / 'in')
    lm, params = _load(tmp_path / 'in')
    tokens, mask = _ragged()
    _assert_equal_logits(model, lm, params, tokens, mask)

    prompts = [tokens[row][mask[row]].tolist() for row in range(len(tokens))]
    keys = generate.request_keys(jax.random.key(0), list('abc'), [0, 0, 0])
    responses = generate.generate(lm, params, prompts, keys, max_tokens=64, temperature=0.0)
    for prompt, response in zip(prompts, responses):
        _assert_greedy(model, prompt, list(response.tokens), max_tokens=64)

    hf.write(str(tmp_path / 'out'), hf.read_fields(str(tmp_path / 'in')), lm.config, params)
    again = type(model).from_pretrained(tmp_path / 'out', attn_implementation='eager').eval()
    parameters = zip(model.named_parameters(), again.named_parameters(), strict=True)
    for (parameter_name, before), (_, after) in parameters:
        assert torch.equal(before, after), parameter_name
    with torch.no_grad():
        batch = torch.tensor(tokens)
        assert torch.equal(model(batch).logits, again(batch).logits)


@pytest.mark.parametrize('name', ONE_PER_FAMILY)
def test_a_reward_model_gives_the_rewards_of_transformers(tmp_path, name):
    model = _torch_model(name, 'ForSequenceClassification', num_labels=1)
    model.save_pretrained(tmp_path)
    lm, params = _load(tmp_path)
    assert lm.config.scalar_head
    tokens, mask = _ragged()
    expected = _torch_logits(model, tokens, mask)[:, 0]
    values = np.asarray(decoder.scalar_value(params, _hidden(lm, params, tokens, mask)))
    last = mask.sum(axis=1) - 1
    rewards = values.reshape(tokens.shape)[np.arange(len(tokens)), last]
    np.testing.assert_allclose(rewards, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)
    assert np.ptp(expected) > 0.1

    two_labels = make_config(name, num_labels=2)
    two_labels.architectures = [architecture(name, 'ForSequenceClassification')]
    two_labels.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='num_labels=2 .*is not supported; supported: 1, a reward'):
        hf.read_config(str(tmp_path))


def test_longrope_takes_the_long_factors_where_the_run_has_longer_contexts(tmp_path):
    original = {'original_max_position_embeddings': 16}
    rope_parameters = FAMILIES['phi3_long'][1]['rope_parameters'] | original
    model = _torch_model('phi3_long', rope_parameters=copy.deepcopy(rope_parameters), **original)
    model.save_pretrained(tmp_path)
    tokens, mask = _ragged()
    lm, params = _load(tmp_path, max_length=128)
    assert lm.config.max_length == 128
    # 24 tokens are more than 16: transformers takes the long factors too.
    _assert_equal_logits(model, lm, params, tokens, mask)

    lm, params = _load(tmp_path)
    assert lm.config.max_length == 16
    _assert_equal_logits(model, lm, params, tokens[:, :16], mask[:, :16])
    with pytest.raises(AssertionError):
        _assert_equal_logits(model, lm, params, tokens, mask)


@pytest.mark.parametrize('name', ['llama3', 'gemma2', 'phi3', 'olmo2'])
def test_bfloat16_in_many_files_reads_onto_a_mesh(tmp_path, name):
    model = _round_to_bfloat16(_torch_model(name))
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size='20KB')
    assert len(list(tmp_path.glob('model-*.safetensors'))) > 3
    tokens, mask = _ragged(rows=8)
    for axes in ({'fsdp': 8}, {'tensor': 2, 'fsdp': 4}):
        lm, params = _load(tmp_path, **axes)
        assert not params['blocks']['gate'].sharding.is_fully_replicated
        _assert_equal_logits(model, lm, params, tokens, mask)


@pytest.mark.parametrize('name', ['qwen2', 'gemma2', 'phi3'])
def test_what_is_written_in_many_files_of_bfloat16_loads_in_transformers(tmp_path, name):
    model = _torch_model(name)
    model.save_pretrained(tmp_path / 'in')
    lm, params = _load(tmp_path / 'in')
    fields, out = hf.read_fields(str(tmp_path / 'in')), str(tmp_path / 'out')
    hf.write(out, fields, lm.config, params)
    # Replaces the single file.
    hf.write(out, fields, lm.config, params, dtype='bfloat16', shard_bytes=20_000)
    files = {entry.name: entry.stat().st_size for entry in os.scandir(out)}
    with open(os.path.join(out, 'model.safetensors.index.json')) as file:
        index = json.load(file)
    shards = set(index['weight_map'].values())
    assert set(files) == shards | {'model.safetensors.index.json', 'config.json'}
    assert len(files) > 5 and max(files.values()) < 25_000
    assert index['metadata']['total_size'] == 2 * sum(p.numel() for p in model.parameters())

    load = type(model).from_pretrained
    assert {parameter.dtype for parameter in load(out).parameters()} == {torch.bfloat16}
    again = load(out, attn_implementation='eager', dtype=torch.float32).eval()
    tokens = torch.tensor(_ragged()[0])
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, _round_to_bfloat16(model)(tokens).logits)
