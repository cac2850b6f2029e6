"""A small random model, a tokenizer whose words are token numbers, and random documents."""

import functools

import jax
import numpy as np

from selfrew.engine import packing
from selfrew.mesh import sharding
from selfrew.models import config, decoder
from selfrew.models.language_model import Lm
from selfrew.types import user_prompt

SMALL = config.ModelConfig(
    vocab=64,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp=64,
    max_length=128,
    tied=False,
)
BOS, EOS, PAD = 1, 2, 0


class Numbers:
    """A tokenizer whose words are token numbers: '5 7 9'."""

    bos, eos, pad, stop_tokens = BOS, EOS, PAD, (EOS,)

    def prompt_tokens(self, prompt):
        return [BOS, *self.encode(prompt.text)]

    def encode(self, text):
        return [int(word) for word in text.split()]

    def response_tokens(self, text, finish):
        return self.encode(text) + [EOS] * (finish == 'stop')

    def decode(self, tokens):
        return ' '.join(str(token) for token in tokens if token not in (BOS, EOS, PAD))


@functools.cache
def _host_params(config, seed):
    params = decoder.init_params(decoder.make_module(config), jax.random.key(seed))
    return jax.tree.map(np.asarray, params)


@functools.cache
def toy(config=SMALL, seed=0, **mesh):
    """(lm, params) of a random model: the same parameters for the same seed on any mesh.

    Each is made once, so that its steps are compiled once.
    """
    toy_mesh = sharding.make_mesh(**mesh)
    lm = Lm(decoder.make_module(config, mesh=toy_mesh), Numbers(), toy_mesh)
    return lm, jax.tree.map(jax.device_put, _host_params(config, seed), lm.param_shardings())


def prompt(tokens, name='p'):
    """A prompt of these tokens (the tokenizer puts BOS before them)."""
    return user_prompt(name, ' '.join(map(str, tokens)))


def docs(count, responses=2, seed=0, low=3, high=9):
    """Documents of random tokens, lengths (low to high - 1) and weights, with `responses` each."""
    rng = np.random.default_rng(seed)

    def tokens():
        return tuple(int(token) for token in rng.integers(3, SMALL.vocab, rng.integers(low, high)))

    documents = []
    for index in range(count):
        prompt_tokens = tokens()
        branches = tuple(tokens() for _ in range(responses))
        weight = float(rng.uniform(0.5, 2.0))
        documents.append(packing.Doc(index, prompt_tokens, branches, weight))
    return documents


def _scale(expected) -> float:
    return max(float(np.abs(np.asarray(leaf)).max()) for leaf in jax.tree.leaves(expected))


def assert_close(actual, expected, rel=1e-5):
    """Trees of arrays agree, each element up to `rel` times the largest of all expected values.

    Sums of float32 in another order differ by some 1e-6 of their largest terms.
    """
    atol = rel * _scale(expected)

    def assert_leaf_close(leaf, expected_leaf):
        np.testing.assert_allclose(np.asarray(leaf), np.asarray(expected_leaf), rtol=0, atol=atol)

    jax.tree.map(assert_leaf_close, actual, expected)
