"""Each request has its own key and options, and its response ends where they say."""

import dataclasses

import jax
import numpy as np
import pytest
from sampling_toys import (
    KEY,
    assert_same_responses,
    ragged_prompts,
    request_keys,
    sample,
)
from toys import BOS, EOS, SMALL, prompt as numbers, toy

from selfrew.models import paged_attention
from selfrew.shelves import samplers


def _draw(key=KEY, name='p', count=1):
    """The tokens of `count` samples of one prompt."""
    lm, params = toy()
    (rollout,) = samplers.sample(lm, params, [numbers([5, 6], name)], key, n=count, max_tokens=12)
    return [response.tokens for response in rollout.responses]


def test_every_sample_of_a_prompt_is_drawn_anew():
    assert len(set(_draw(count=8))) == 8  # 8 draws among about 64^12


def test_other_keys_and_other_prompt_ids_give_other_samples():
    assert _draw(name='a') == _draw(name='a')
    others = _draw(name='a'), _draw(name='b'), _draw(jax.random.key(8), name='a')
    assert len({tokens for (tokens,) in others}) == 3


def test_more_samples_begin_with_the_fewer():
    assert _draw(count=5)[:2] == _draw(count=2)


def test_a_response_ends_at_the_first_end_token_or_at_the_limit():
    lm, params = toy()
    # The larger its column of the untied head, the likelier the end token. With three times the
    # column about half of 64 responses stop.
    params = params | {'head': params['head'].at[:, EOS].multiply(3.0)}
    responses = sample(lm, params, ragged_prompts(64), max_tokens=16)
    for response in responses:
        is_stopped = response.finish == 'stop'
        assert response.tokens.count(EOS) == is_stopped
        assert (response.tokens[-1] == EOS) if is_stopped else len(response.tokens) == 16
    assert {response.finish for response in responses} == {'stop', 'length'}


@pytest.mark.parametrize(
    'name, value',
    [
        ('max_tokens', 0),
        ('temperature', -0.1),
        ('top_p', 0.0),
        ('top_p', 1.1),
        ('slots', 0),
        ('top_k', -1),
        ('min_p', 1.5),
        ('temperature', float('nan')),
    ],
)
def test_an_option_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}={value}'):
        sample(*toy(), [[BOS]], **{name: value})


def test_bad_lists_and_too_long_prompts_are_refused():
    lm, params = toy()
    fits = SMALL.max_length - 12
    message = f'{fits + 1} tokens and max_tokens=12 exceed the context of 128'
    with pytest.raises(ValueError, match=message):
        sample(lm, params, [[BOS] * (fits + 1)])
    assert len(sample(lm, params, [[BOS] * fits])) == 1
    with pytest.raises(ValueError, match=r"stop=\('',\)"):
        sample(lm, params, [[BOS]], stop=('',))
    with pytest.raises(ValueError, match='2 values of top_k for 1 requests'):
        sample(lm, params, [[BOS]], top_k=[1, 2])


def test_no_request_gives_no_response():
    assert sample(*toy(), [], keys=request_keys(1)) == []


@pytest.mark.slow
def test_each_request_has_its_own_options():
    lm, params = toy()
    prompts, keys = ragged_prompts(), request_keys(12)
    options = {
        'temperature': [1.0, 0.0, 0.5] * 4,
        'top_k': [0, 3, 0, 5] * 3,
        'top_p': [1.0] * 6 + [0.7] * 6,
        'min_p': [0.0, 0.2] * 6,
        'max_tokens': list(range(1, 13)),
        'stop': [('7',), ()] * 6,
        'ends': [(EOS,), (EOS, 5, 6), (7, 8)] * 4,
    }
    responses = sample(lm, params, prompts, keys, **options)
    for index, response in enumerate(responses):
        own_options = {name: values[index] for name, values in options.items()}
        only = slice(index, index + 1)
        assert_same_responses(
            [response], sample(lm, params, prompts[only], keys[only], **own_options)
        )


def test_a_list_of_equal_values_is_as_that_value():
    lm, params = toy()
    prompts = ragged_prompts()
    expected = sample(lm, params, prompts)
    assert_same_responses(sample(lm, params, prompts, max_tokens=[12] * 12), expected)


@pytest.mark.parametrize('shared', [0, 150], ids=['no prefix', 'a prefix in shared pages'])
@pytest.mark.parametrize('axes', [{}, {'data': 2, 'tensor': 2}], ids=str)
@pytest.mark.parametrize('attention, kernel', [('splash', 'tpu'), ('cudnn_paged', 'gpu')])
def test_samples_by_a_kernel_are_those_by_plain_products(
    monkeypatch, interpreted_kernel, attention, kernel, axes, shared
):
    """Ragged prompts of up to 40 tokens, or of up to 190 of which 128 lie in a shared page."""
    config = dataclasses.replace(SMALL, head_dim=128, max_length=512)
    lm, params = toy(config, **axes)
    prefix = np.random.default_rng(5).integers(3, SMALL.vocab, shared).tolist()
    prompts = [[*prefix, *prompt] for prompt in ragged_prompts(6)]
    expected = sample(lm, params, prompts, max_tokens=5, slots=4)
    monkeypatch.setattr(paged_attention, 'kernel_of', lambda module, dtype: kernel)
    by_kernel = dataclasses.replace(lm, module=lm.module.clone(attention=attention))
    assert_same_responses(sample(by_kernel, params, prompts, max_tokens=5, slots=4), expected)
