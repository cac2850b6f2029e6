"""A random model of a thousandth of the tiny base, its tokenizer of numbers, and documents to train
it on.
"""

import functools

import jax
import numpy as np

from selfrew.engine import packing
from selfrew.mesh import sharding
from selfrew.models import decoder
from selfrew.models.language_model import Lm
from selfrew.types import ask

SMALL = decoder.ModelConfig(
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

    bos, eos, pad, ends = BOS, EOS, PAD, (EOS,)

    def prompt_tokens(self, prompt):
        return [BOS, *self.encode(prompt.text)]

    def encode(self, text):
        return [int(word) for word in text.split()]

    def response_tokens(self, text, finish):
        return self.encode(text) + [EOS] * (finish == 'stop')

    def decode(self, tokens):
        return ' '.join(str(t) for t in tokens if t not in (BOS, EOS, PAD))


@functools.cache
def _host(config, seed):
    return jax.tree.map(
        np.asarray, decoder.init_params(decoder.make_module(config), jax.random.key(seed))
    )


@functools.cache
def toy(config=SMALL, seed=0, **mesh):
    """(lm, params) of a random model, the same for the same seed on any mesh; made once, so that
    steps compile once.
    """
    where = sharding.make_mesh(**mesh)
    lm = Lm(decoder.make_module(config, mesh=where), Numbers(), where)
    return lm, jax.tree.map(jax.device_put, _host(config, seed), lm.param_shardings())


def prompt(tokens, name='p'):
    """A prompt of those tokens (BOS comes before them)."""
    return ask(name, ' '.join(map(str, tokens)))


def docs(count, n=2, seed=0, low=3, high=9):
    """Documents of random tokens and lengths, with `n` responses each and weights that differ."""
    rng = np.random.default_rng(seed)
    some = lambda: tuple(int(t) for t in rng.integers(3, SMALL.vocab, rng.integers(low, high)))
    return [
        packing.Doc(i, some(), tuple(some() for _ in range(n)), float(rng.uniform(0.5, 2.0)))
        for i in range(count)
    ]
