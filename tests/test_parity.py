"""Every family against transformers on torch: the same logits, the same greedy tokens, and back again.

Wants the extra `parity`; skipped without torch.
"""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')
import transformers  # noqa: E402

from selfrew import generate, sharding  # noqa: E402
from selfrew.lm import Lm  # noqa: E402
from selfrew.models import decoder, hf  # noqa: E402
from toys import Numbers  # noqa: E402

BASE = dict(
    vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
LONGROPE = {'type': 'longrope', 'short_factor': [1.0, 1.1, 1.3, 1.6, 2.0, 2.5], 'long_factor': [1.5, 2, 3, 4, 6, 9]}
LLAMA3 = {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
          'original_max_position_embeddings': 32}  # fmt: skip
FAMILIES = {
    'llama2': ('Llama', {'num_key_value_heads': 4}),
    'llama3': ('Llama', {'rope_parameters': LLAMA3 | {'rope_theta': 5e5}, 'tie_word_embeddings': True}),
    'llama_linear': ('Llama', {'rope_parameters': {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 1e4}}),
    'mistral': ('Mistral', {'sliding_window': 7}),
    'mistral_whole': ('Mistral', {'sliding_window': None, 'head_dim': 16}),
    'qwen2': ('Qwen2', {'tie_word_embeddings': True}),
    'qwen2_window': ('Qwen2', {'use_sliding_window': True, 'sliding_window': 6, 'max_window_layers': 2}),
    'qwen3': ('Qwen3', {'head_dim': 16}),
    'gemma2': ('Gemma2', {'head_dim': 16, 'query_pre_attn_scalar': 20, 'sliding_window': 6,
                          'attn_logit_softcapping': 3.0, 'final_logit_softcapping': 2.0}),
    'gemma3': ('Gemma3', {'head_dim': 16, 'query_pre_attn_scalar': 20, 'sliding_window': 6, 'num_hidden_layers': 7}),
    'gemma3_scaled': ('Gemma3', {'head_dim': 16, 'sliding_window': 5, 'rope_parameters': {
        'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4}}}),
    'phi3': ('Phi3', {'sliding_window': 9}),
    'phi3_partial': ('Phi3', {'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4,
                                                  'partial_rotary_factor': 0.5}}),
    'phi3_long': ('Phi3', {'rope_parameters': LONGROPE | {'rope_theta': 1e4, 'rope_type': 'longrope'},
                           'original_max_position_embeddings': 100}),
    'olmo2': ('Olmo2', {}),
}  # fmt: skip
TEXT_CONFIGS = {'Gemma3': 'Gemma3TextConfig'}


def _theirs(name, head='ForCausalLM', **more):
    """A random model of the family, spread out enough that a wrong switch shows."""
    family, fields = FAMILIES[name]
    config = getattr(transformers, TEXT_CONFIGS.get(family, f'{family}Config'))(**BASE | fields | more)
    torch.manual_seed(0)
    family = 'Gemma3Text' if family == 'Gemma3' and head != 'ForCausalLM' else family
    model = getattr(transformers, family + head)._from_config(config, attn_implementation='eager').eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too: at 1 and 0 they would hide
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


def _loaded(folder, **model):
    config = hf.read_config(str(folder), **model)
    mesh = sharding.make()
    lm = Lm(decoder.module_of(config, mesh=mesh), Numbers(), mesh)
    return lm, hf.read_params(str(folder), config, lm.abstract(), lm.shardings())


def _ragged(rows=3, length=24):
    """Random tokens, padded on the right: each row as long as it likes."""
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(3, 96, (rows, length)), np.zeros((rows, length), bool)
    for row, n in enumerate((length, 5, 17)):
        mask[row, :n] = True
    return np.where(mask, tokens, 0), mask


def _hidden(lm, params, tokens, mask):
    position = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    causal = np.tril(np.ones((tokens.shape[1],) * 2, bool))[None] & mask[:, None, :]
    hidden, _ = lm.module.apply({'params': params}, tokens, position, causal)
    return hidden.reshape(-1, hidden.shape[-1])


def _equal_logits(model, lm, params, tokens, mask, atol=1e-4):
    with torch.no_grad():
        want = model(torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))).logits.numpy()
    found = np.asarray(decoder.head(lm.module, params, _hidden(lm, params, tokens, mask))).reshape(want.shape)
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
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=int), max_new_tokens=64,
                do_sample=False, eos_token_id=2, pad_token_id=0,
            )[0, len(prompt) :]  # fmt: skip
        assert list(response.tokens) == want.tolist()

    hf.write(str(tmp_path / 'out'), hf.read_json(str(tmp_path / 'in')), lm.config, params)
    again = type(model).from_pretrained(tmp_path / 'out', attn_implementation='eager').eval()
    for (at, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), at
    with torch.no_grad():
        x = torch.tensor(tokens)
        assert torch.equal(model(x).logits, again(x).logits)
