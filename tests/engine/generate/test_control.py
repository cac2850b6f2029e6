"""Controlled decoding draws from the laws of arXiv 2310.17022, and reads nothing again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_toys import CallCounter, Endless, assert_same_responses, ragged_prompts, sample
from toys import BOS, SMALL, assert_close, toy

from selfrew.engine import generate, response_logps
from selfrew.engine.generate import Control, blocks, journal, memory_plan, options, programs
from selfrew.models import decoder
from selfrew.types import Prompt

VALUED = dataclasses.replace(SMALL, value_head=True)
HEAD = 0.3 * jax.random.normal(jax.random.key(5), (SMALL.width, SMALL.vocab))
OWN = Control(HEAD, name='own')


@functools.partial(jax.jit, static_argnums=0)
def _forward(module, params, head, tokens_1L):
    length = tokens_1L.shape[1]
    position, mask = jnp.arange(length)[None], jnp.tril(jnp.ones((1, length, length), bool))
    hidden, _ = module.apply({'params': params}, tokens_1L, position, mask)
    logp = jax.nn.log_softmax(decoder.logits(module, params, hidden[0]))
    return logp, decoder.values(head, hidden[0])


def _laws(lm, params, tokens):
    """(log-probs [T V] of the model, values [T V]) after each of these tokens."""
    padded = np.zeros((1, 80), np.int32)  # what comes later changes nothing
    padded[0, : len(tokens)] = tokens
    logp, values = _forward(lm.module, params, HEAD, padded)
    return np.asarray(logp)[: len(tokens)], np.asarray(values)[: len(tokens)]


# --- a token at a time ----------------------------------------------------------------------------


def test_both_log_probs_of_a_response_are_those_of_its_tokens():
    lm, params = toy()
    prompts, strength, temperature = ragged_prompts(8), 2.0, 0.8
    control = {'control': OWN, 'strength': strength, 'temperature': temperature}
    for prompt, response in zip(prompts, sample(lm, params, prompts, **control)):
        logp, value = _laws(lm, params, [*prompt, *response.tokens])
        steps = np.arange(len(prompt) - 1, len(prompt) - 1 + len(response.tokens))
        tilted = (logp + strength * value)[steps] / temperature
        tilted -= np.log(np.exp(tilted).sum(axis=-1, keepdims=True))
        drawn = np.arange(len(steps)), np.array(response.tokens)
        assert response.logp == pytest.approx(logp[steps][drawn].sum(), rel=1e-4)
        assert response.sampled_logp == pytest.approx(tilted[drawn].sum(), rel=1e-4, abs=1e-4)


def test_each_request_has_its_own_strength_and_0_changes_not_a_bit():
    lm, params = toy()
    prompts = ragged_prompts(8)
    plain = sample(lm, params, prompts)
    steered = sample(lm, params, prompts, control=OWN, strength=2.0)
    mixed = sample(lm, params, prompts, control=OWN, strength=[0.0, 2.0] * 4)
    assert mixed[::2] == plain[::2] and mixed[1::2] == steered[1::2]
    assert [r.sampled_logp for r in plain] == [r.logp for r in plain]
    assert all(a.tokens != b.tokens for a, b in zip(steered, plain) if len(a.tokens) > 3)


def test_a_scorer_with_a_model_of_its_own_says_the_same_as_a_head_on_that_model():
    """Half of the head on the model that samples, and half on a copy of that model."""
    (lm, params), prompts = toy(VALUED), ragged_prompts(8)
    expected = sample(lm, params, prompts, control=OWN, strength=1.5)
    half = Control(0.5 * HEAD, ((lm, params | {'value': 0.5 * HEAD}),))
    responses = sample(lm, params, prompts, control=half, strength=1.5)
    assert_same_responses(responses, expected)
    assert_close([r.sampled_logp for r in responses], [r.sampled_logp for r in expected], 1e-4)


def test_a_scorer_of_another_base_reads_the_tokens_with_its_own_model():
    (lm, params), (other, other_params) = toy(VALUED), toy(VALUED, seed=3)
    prompts = ragged_prompts(8)
    control = Control(0.0 * HEAD, ((other, other_params | {'value': HEAD}),))
    responses = sample(lm, params, prompts, control=control, strength=2.0)
    for prompt, response in zip(prompts, responses):
        tokens = [*prompt, *response.tokens]
        logp, _ = _laws(lm, params, tokens)
        _, value = _laws(other, other_params, tokens)
        tilted = (logp + 2.0 * value)[len(prompt) - 1 : -1]
        tilted -= np.log(np.exp(tilted).sum(axis=-1, keepdims=True))
        drawn = np.arange(len(response.tokens)), np.array(response.tokens)
        assert response.sampled_logp == pytest.approx(tilted[drawn].sum(), rel=1e-4, abs=1e-4)


# --- a block at a time ----------------------------------------------------------------------------


def _blockwise(lm, params, prompts, candidates, block, **fields):
    return sample(lm, params, prompts, control=OWN, candidates=candidates, block=block, **fields)


@pytest.fixture
def small_pages(monkeypatch):
    """So that a block lies in several pages, and begins within one."""
    monkeypatch.setattr(memory_plan, 'CPU_PAGE_SIZE', 16)


@pytest.mark.usefixtures('small_pages')
@pytest.mark.parametrize('mesh', [{}, {'tensor': 2, 'fsdp': 2}], ids=str)
def test_the_first_block_is_the_candidate_of_the_highest_value(mesh):
    """The candidates are those that a plain call makes with their keys."""
    lm, params = toy(**mesh)
    prompts, K, block = ragged_prompts(5), 4, 6
    chosen = _blockwise(lm, params, prompts, K, block, max_tokens=40)
    words = np.asarray(
        jax.random.key_data(
            generate.request_keys(jax.random.key(7), [f'p{i}' for i in range(5)], [0] * 5)
        )
    )
    law = options.Options(block, 1.0, 0, 1.0, 0.0, (), tuple(lm.text.stop_tokens))
    asked = [options.Request(tuple(p), w, law) for p, w in zip(prompts, words)]
    requests = blocks.candidate_requests(asked, K)
    keys = jax.random.wrap_key_data(np.stack([request.key_words for request in requests]))
    drafts = sample(lm, params, [list(r.prompt) for r in requests], keys, max_tokens=block)
    single = toy()
    for i, (prompt, response) in enumerate(zip(prompts, chosen)):
        values = []
        for draft in drafts[i * K : (i + 1) * K]:
            _, value = _laws(*single, [*prompt, *draft.tokens])
            values.append(value[-2, draft.tokens[-1]])
        best = drafts[i * K + int(np.argmax(values))]
        assert response.tokens[: len(best.tokens)] == best.tokens


@pytest.mark.usefixtures('small_pages')
def test_what_goes_on_from_a_block_sees_all_tokens_before_it(monkeypatch):
    """The raw log-prob of each response is that of its tokens: no page of another candidate was
    kept. And no prompt is read twice.
    """
    (lm, params), calls = toy(), CallCounter(monkeypatch)
    lm, prompts = (
        dataclasses.replace(lm, text=Endless()),
        [[BOS, *range(3, 3 + n)] for n in (20, 30)],
    )
    responses = _blockwise(lm, params, prompts, 5, 7, max_tokens=45)
    assert calls.prefilled == 2 * 32
    for prompt, response in zip(prompts, responses):
        assert len(response.tokens) == 45 and response.sampled_logp is None
        logp, _ = _laws(lm, params, [*prompt, *response.tokens])
        steps = np.arange(len(prompt) - 1, len(prompt) + 44)
        forced = logp[steps, np.array(response.tokens)].sum()
        assert response.logp == pytest.approx(forced, rel=1e-4)


PROMPTS, LIMITS = ragged_prompts(9), [5, 12, 9] * 3


def test_block_wise_samples_do_not_depend_on_slots_or_on_each_other():
    lm, params = toy()
    expected = _blockwise(lm, params, PROMPTS, 3, 4, max_tokens=LIMITS)
    responses = _blockwise(lm, params, PROMPTS, 3, 4, max_tokens=LIMITS, slots=6)
    assert_same_responses(responses, expected)


def test_a_killed_block_wise_call_goes_on_with_not_a_bit_changed(tmp_path, monkeypatch):
    (lm, params), path = toy(), str(tmp_path / 'x.partial.jsonl')
    call = functools.partial(_blockwise, lm, params, PROMPTS, 3, 4, max_tokens=LIMITS, slots=6)
    expected, decode, calls = call(), programs.decode, []

    def dying(*args):
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return decode(*args)

    monkeypatch.setattr(programs, 'decode', dying)
    with pytest.raises(KeyboardInterrupt), journal.recording(path):
        call()
    monkeypatch.setattr(programs, 'decode', decode)
    with open(path) as file:
        assert 0 < len(file.readlines()) < 9
    with journal.recording(path):
        assert call() == expected


def test_what_cannot_be_is_refused():
    lm, params = toy()
    refused = {
        'nothing that values tokens': {'strength': 1.0},
        'candidates=0': {'control': OWN, 'candidates': 0, 'block': 4},
        'strength=nan': {'control': OWN, 'strength': float('nan')},
        'end tokens only': {'control': OWN, 'candidates': 2, 'block': 4, 'stop': ('5',)},
    }
    for message, fields in refused.items():
        with pytest.raises(ValueError, match=message):
            sample(lm, params, ragged_prompts(2), **fields)
    worthless = Control(float('nan') * HEAD)
    with pytest.raises(ValueError, match='the value of a candidate is not finite'):
        fields = {'max_tokens': LIMITS, 'slots': 6}
        sample(lm, params, PROMPTS, control=worthless, candidates=3, block=4, **fields)
    small = dataclasses.replace(lm, cache_gib=3e-4)
    with pytest.raises(ValueError, match='50 slots are sampled together'):
        _blockwise(small, params, ragged_prompts(2), 50, 4)


def test_log_probs_of_responses_are_those_of_training():
    lm, params = toy()
    prompts = ragged_prompts(7)
    asked = [
        Prompt(str(i), ({'role': 'user', 'content': ' '.join(map(str, p[1:])) or '3'},))
        for i, p in enumerate(prompts)
    ]
    responses = sample(lm, params, [lm.text.prompt_tokens(p) for p in asked])
    found = response_logps.token_logps(lm, params, list(zip(asked, responses)), batch=3)
    assert_close([found[i].sum() for i in range(7)], [r.logp for r in responses], 1e-4)
    assert [len(found[i]) for i in range(7)] == [len(r.tokens) for r in responses]
