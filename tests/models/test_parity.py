"""Every family against transformers on torch: the same logits, rewards and greedy tokens, and back
again.

Wants the extra `parity`; skipped without torch.
"""

import copy
import json
import os

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch')
import transformers
from toys import Numbers

from selfrew.engine import generate
from selfrew.mesh import sharding
from selfrew.models import decoder, hf
from selfrew.models.language_model import Lm

BASE = dict(
    vocab_size=96,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LONGROPE = {
    'type': 'longrope',
    'short_factor': [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
    'long_factor': [1.5, 2, 3, 4, 6, 9],
}
LLAMA3 = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
}
FAMILIES = {
    'llama2': (
        'Llama',
        {'num_key_value_heads': 4, 'rms_norm_eps': 0.05},
    ),  # large: 1e-5 or 1e-6 would not show
    'llama3': (
        'Llama',
        {'rope_parameters': LLAMA3 | {'rope_theta': 5e5}, 'tie_word_embeddings': True},
    ),
    'llama_linear': (
        'Llama',
        {'rope_parameters': {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 1e4}},
    ),
    'mistral': ('Mistral', {'sliding_window': 7}),
    'mistral_whole': ('Mistral', {'sliding_window': None, 'head_dim': 16}),
    'qwen2': ('Qwen2', {'tie_word_embeddings': True}),
    'qwen2_window': (
        'Qwen2',
        {'use_sliding_window': True, 'sliding_window': 6, 'max_window_layers': 2},
    ),
    'qwen3': ('Qwen3', {'head_dim': 16}),
    'gemma2': (
        'Gemma2',
        {
            'head_dim': 16,
            'query_pre_attn_scalar': 20,
            'sliding_window': 6,
            'attn_logit_softcapping': 3.0,
            'final_logit_softcapping': 2.0,
        },
    ),
    'gemma3': (
        'Gemma3',
        {'head_dim': 16, 'query_pre_attn_scalar': 20, 'sliding_window': 6, 'num_hidden_layers': 7},
    ),
    'gemma3_scaled': (
        'Gemma3',
        {
            'head_dim': 16,
            'sliding_window': 5,
            'sliding_window_pattern': 2,
            'rope_parameters': {
                'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6},
                'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
            },
        },
    ),
    'phi3': ('Phi3', {'sliding_window': 9}),
    'phi3_partial': (
        'Phi3',
        {
            'rope_parameters': {
                'rope_type': 'default',
                'rope_theta': 1e4,
                'partial_rotary_factor': 0.5,
            }
        },
    ),
    'phi3_long': (
        'Phi3',
        {
            'rope_parameters': LONGROPE | {'rope_theta': 1e4, 'rope_type': 'longrope'},
            'original_max_position_embeddings': 100,
        },
    ),
    'olmo2': ('Olmo2', {'rms_norm_eps': 0.05}),
}
TEXT_CONFIGS = {'Gemma3': 'Gemma3TextConfig'}


@pytest.fixture(autouse=True)
def quickly():
    """Compiling is most of what these tests do; that torch and jax share the cores is most of the
    rest.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)
    torch.set_num_threads(threads)


def _config(name, **more):
    family, fields = FAMILIES[name]
    return getattr(transformers, TEXT_CONFIGS.get(family, f'{family}Config'))(
        **BASE | copy.deepcopy(fields) | more
    )


def _architecture(name, head):
    family = FAMILIES[name][0]
    return ('Gemma3Text' if family == 'Gemma3' and head != 'ForCausalLM' else family) + head


def _theirs(name, head='ForCausalLM', **more):
    """A random model of the family, spread out enough that a wrong switch shows."""
    torch.manual_seed(0)
    kind = getattr(transformers, _architecture(name, head))
    model = kind._from_config(_config(name, **more), attn_implementation='eager').eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too: at 1 and 0 they would hide
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


def _loaded(folder, max_length=None, **mesh):
    config = hf.read_config(str(folder), max_length)
    mesh = sharding.make_mesh(**mesh)
    lm = Lm(decoder.make_module(config, mesh=mesh), Numbers(), mesh)
    return lm, hf.read_params(str(folder), config, lm.abstract_params(), lm.param_shardings())


def _ragged(rows=3, length=24):
    """Random tokens, padded on the right: each row as long as it likes."""
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(3, 96, (rows, length)), np.zeros((rows, length), bool)
    for row in range(rows):
        mask[row, : (length, 5, 17)[row % 3]] = True
    return np.where(mask, tokens, 0), mask


def _hidden(lm, params, tokens, mask):
    position = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    causal = np.tril(np.ones((tokens.shape[1],) * 2, bool))[None] & mask[:, None, :]
    hidden, _ = jax.jit(lm.module.apply)({'params': params}, *lm.place_rows((tokens, position, causal)))
    return hidden.reshape(-1, hidden.shape[-1])


def _equal_logits(model, lm, params, tokens, mask, atol=1e-4):
    with torch.no_grad():
        want = model(
            torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))
        ).logits.numpy()
    found = np.asarray(
        decoder.logits(lm.module, params, _hidden(lm, params, tokens, mask))
    ).reshape(want.shape)
    np.testing.assert_allclose(found[mask], want[mask], atol=atol)
    assert np.ptp(want[mask], axis=-1).min() > 1  # of logits that differ


@pytest.mark.parametrize('name', FAMILIES)
def test_a_family_has_the_logits_and_greedy_tokens_of_transformers_and_goes_back(tmp_path, name):
    model = _theirs(name)
    model.save_pretrained(tmp_path / 'in')
    lm, params = _loaded(tmp_path / 'in')
    tokens, mask = _ragged()
    _equal_logits(model, lm, params, tokens, mask)

    prompts = [tokens[row][mask[row]].tolist() for row in range(len(tokens))]
    keys = generate.request_keys(jax.random.key(0), list('abc'), [0, 0, 0])
    found = generate.generate(lm, params, prompts, keys, max_tokens=64, temperature=0.0)
    for prompt, response in zip(prompts, found):
        with torch.no_grad():
            want = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=int),
                max_new_tokens=64,
                do_sample=False,
                eos_token_id=2,
                pad_token_id=0,
            )[0, len(prompt) :]
        assert list(response.tokens) == want.tolist()

    hf.write(str(tmp_path / 'out'), hf.read_json(str(tmp_path / 'in')), lm.config, params)
    again = type(model).from_pretrained(tmp_path / 'out', attn_implementation='eager').eval()
    for (at, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), at
    with torch.no_grad():
        x = torch.tensor(tokens)
        assert torch.equal(model(x).logits, again(x).logits)


# --- config.json ------------------------------------------------------------------------------------------------------


def _saved(name):
    """config.json as transformers writes it."""
    return json.loads(_config(name).to_json_string(use_diff=True)) | {
        'architectures': [_architecture(name, 'ForCausalLM')],
        'dtype': 'bfloat16',
    }


def _older(name, kind):
    """The same as writers before transformers 5 had it; `kind`: how they spelt rope_type."""
    family, fields = FAMILIES[name][0], _saved(name)
    new = (
        'rope_parameters',
        'layer_types',
        'dtype',
        '_sliding_window_pattern',
        'use_bidirectional_attention',
    )
    old = {k: v for k, v in fields.items() if k not in new} | {'torch_dtype': fields['dtype']}

    def scaling(rope):
        own = {
            k: v
            for k, v in rope.items()
            if k not in ('rope_theta', 'rope_type', 'type', 'partial_rotary_factor')
        }
        if family == 'Phi3':
            own.pop('original_max_position_embeddings', None)  # stands outside
        spelt = 'su' if rope['rope_type'] == 'longrope' and kind == 'type' else rope['rope_type']
        return None if rope['rope_type'] == 'default' else own | {kind: spelt}

    rope = fields['rope_parameters']
    if family == 'Gemma3':
        old['rope_local_base_freq'] = rope['sliding_attention']['rope_theta']
        old['sliding_window_pattern'] = fields['_sliding_window_pattern']
        rope = rope['full_attention']
    old |= {'rope_theta': rope['rope_theta'], 'rope_scaling': scaling(rope)}
    if rope.get('partial_rotary_factor', 1.0) != 1.0:
        old['partial_rotary_factor'] = rope['partial_rotary_factor']
    return old


@pytest.mark.parametrize('kind', ['type', 'rope_type'])
@pytest.mark.parametrize('name', FAMILIES)
def test_the_older_form_of_a_config_says_the_same(name, kind):
    new, old = _saved(name), _older(name, kind)
    assert 'rope_parameters' in new and not {'rope_parameters', 'layer_types', 'dtype'} & set(old)
    assert hf.config_of(old, 'old') == hf.config_of(new, 'new')
    # what stands there anyway by default may be left out
    family = FAMILIES[name][0]
    default = getattr(transformers, TEXT_CONFIGS.get(family, f'{family}Config'))().to_dict()
    default |= {
        'rope_theta': 1e6 if family == 'Gemma3' else 1e4,
        'rope_scaling': None,
        'rope_local_base_freq': 1e4,
        'sliding_window_pattern': 6,
    }
    least = {
        k: v for k, v in old.items() if k == 'architectures' or k not in default or v != default[k]
    }
    assert len(least) < len(old) - 5
    assert hf.config_of(least, 'least') == hf.config_of(new, 'new')


@pytest.mark.parametrize('windowed', [False, True])
@pytest.mark.parametrize('family', hf.FAMILIES)
def test_what_a_config_leaves_out_is_what_the_class_of_the_family_takes(family, windowed):
    least = dict(
        vocab_size=96,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=30,
        num_attention_heads=4,
    )
    least |= {'use_sliding_window': True} if windowed else {}
    full = getattr(transformers, TEXT_CONFIGS.get(family, f'{family}Config'))(**least).to_dict()
    named = {'architectures': [f'{family}ForCausalLM']}
    found = hf.config_of(least | named, 'least')
    assert found == hf.config_of(json.loads(json.dumps(full)) | named, 'full')
    assert (
        windowed is False
        or not family.startswith('Qwen')
        or found.local == (False,) * 28 + (True,) * 2
    )


# --- other heads, other forms -----------------------------------------------------------------------------------------

ONE_EACH = 'llama3', 'mistral', 'qwen2_window', 'qwen3', 'gemma2', 'gemma3', 'phi3', 'olmo2'


@pytest.mark.parametrize('name', ONE_EACH)
def test_a_reward_model_gives_the_rewards_of_transformers(tmp_path, name):
    model = _theirs(name, 'ForSequenceClassification', num_labels=1)
    model.save_pretrained(tmp_path)
    lm, params = _loaded(tmp_path)
    assert lm.config.scalar_head
    tokens, mask = _ragged()
    with torch.no_grad():
        want = model(
            torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))
        ).logits.numpy()[:, 0]
    value = np.asarray(decoder.scalar_value(params, _hidden(lm, params, tokens, mask))).reshape(
        tokens.shape
    )
    found = value[np.arange(len(tokens)), mask.sum(axis=1) - 1]
    np.testing.assert_allclose(found, want, atol=1e-4)
    assert np.ptp(want) > 0.1

    two = _config(name, num_labels=2)
    two.architectures = [_architecture(name, 'ForSequenceClassification')]
    two.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='2 labels .*are not supported; supported: 1, a reward'):
        hf.read_config(str(tmp_path))


def test_longrope_takes_the_long_factors_where_the_run_has_longer_contexts(tmp_path):
    rope = {
        'original_max_position_embeddings': 16,
        'rope_parameters': FAMILIES['phi3_long'][1]['rope_parameters']
        | {'original_max_position_embeddings': 16},
    }
    model = _theirs('phi3_long', **copy.deepcopy(rope))
    model.save_pretrained(tmp_path)
    tokens, mask = _ragged()
    lm, params = _loaded(tmp_path, max_length=128)
    assert lm.config.max_length == 128
    _equal_logits(model, lm, params, tokens, mask)  # 24 > 16: transformers takes the long ones too

    lm, params = _loaded(tmp_path)
    assert lm.config.max_length == 16
    _equal_logits(model, lm, params, tokens[:, :16], mask[:, :16])
    with pytest.raises(AssertionError):
        _equal_logits(model, lm, params, tokens, mask)


def _rounded(model):
    """The model at parameters that bfloat16 holds; `model.bfloat16().float()` would round its
    rotations as well.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return model


@pytest.mark.parametrize('name', ['llama3', 'gemma2', 'phi3', 'olmo2'])
def test_bfloat16_in_many_files_reads_onto_a_mesh(tmp_path, name):
    model = _rounded(_theirs(name))
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size='20KB')
    assert len(list(tmp_path.glob('model-*.safetensors'))) > 3
    tokens, mask = _ragged(rows=8)
    for mesh in ({'fsdp': 8}, {'tensor': 2, 'fsdp': 4}):
        lm, params = _loaded(tmp_path, **mesh)
        assert not params['blocks']['gate'].sharding.is_fully_replicated
        _equal_logits(model, lm, params, tokens, mask)


@pytest.mark.parametrize('name', ['qwen2', 'gemma2', 'phi3'])
def test_what_is_written_in_many_files_of_bfloat16_loads_in_transformers(tmp_path, name):
    model = _theirs(name)
    model.save_pretrained(tmp_path / 'in')
    lm, params = _loaded(tmp_path / 'in')
    fields, out = hf.read_json(str(tmp_path / 'in')), str(tmp_path / 'out')
    hf.write(out, fields, lm.config, params)
    hf.write(
        out, fields, lm.config, params, dtype='bfloat16', shard_bytes=20_000
    )  # over the one file
    files = {entry.name for entry in os.scandir(out)}
    with open(os.path.join(out, 'model.safetensors.index.json')) as file:
        index = json.load(file)
    assert (
        files == {*index['weight_map'].values(), 'model.safetensors.index.json', 'config.json'}
        and len(files) > 5
    )
    assert index['metadata']['total_size'] == 2 * sum(p.numel() for p in model.parameters())
    assert max(os.path.getsize(os.path.join(out, name)) for name in files) < 25_000

    load = type(model).from_pretrained
    assert {p.dtype for p in load(out).parameters()} == {torch.bfloat16}
    again = load(out, attn_implementation='eager', dtype=torch.float32).eval()
    tokens = torch.tensor(_ragged()[0])
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, _rounded(model)(tokens).logits)
