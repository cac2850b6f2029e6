"""Sampling with the toy model (see toys): ragged prompts, keys, calls, and how samples compare."""

import jax
import numpy as np
from toys import BOS, SMALL, Numbers, assert_close

from selfrew.engine import generate
from selfrew.engine.generate import programs

KEY = jax.random.key(7)
# Of the largest log-prob in a comparison. In float32 another order of sums costs a token's log-prob
# some 1e-6 of the logits; a wrong token, position or mask costs 1e-2 and more.
LOGP_REL = 3e-5


class Endless(Numbers):
    """A tokenizer without an end token: every sample goes to its limit."""

    stop_tokens = (-5,)


def ragged_prompts(count=12, seed=0):
    """Random prompts of 1 to 40 tokens."""
    rng = np.random.default_rng(seed)
    return [
        [BOS, *rng.integers(3, SMALL.vocab, rng.integers(0, 40)).tolist()] for _ in range(count)
    ]


def request_keys(count, key=KEY):
    return generate.request_keys(key, [f'p{i}' for i in range(count)], [0] * count)


def sample(lm, params, prompts, keys=None, **options):
    """A response for each prompt, of at most 12 tokens where `options` do not say otherwise."""
    keys = request_keys(len(prompts)) if keys is None else keys
    return generate.generate(lm, params, prompts, keys, **({'max_tokens': 12} | options))


def assert_same_responses(responses, expected):
    """The same tokens, texts and finish reasons; log-probs up to the order of float32 sums."""
    assert len(responses) == len(expected)
    for response, other in zip(responses, expected):
        assert response.tokens == other.tokens
        assert (response.finish, response.text) == (other.finish, other.text)
    assert_close(
        [response.logp for response in responses], [other.logp for other in expected], LOGP_REL
    )


class CallCounter:
    """Counts what a call makes the device do: decode steps, and tokens prefilled."""

    def __init__(self, monkeypatch):
        self.steps = self.prefilled = 0
        decode, prefill = programs.decode, programs.prefill

        def counted_decode(module, params, prefix, slots, *rest):
            before = np.array(slots.token_count)
            after = decode(module, params, prefix, slots, *rest)
            self.steps += int((np.asarray(after.token_count) - before).max())
            return after

        def counted_prefill(module, params, tokens, *rest):
            self.prefilled += tokens.size
            return prefill(module, params, tokens, *rest)

        monkeypatch.setattr(programs, 'decode', counted_decode)
        monkeypatch.setattr(programs, 'prefill', counted_prefill)
