"""Every sampler keeps the shelf's contract: a rollout for each prompt that fits, in order."""

import dataclasses
import functools
import inspect

import jax
import pytest
from sampling_toys import KEY
from toys import SMALL, prompt as numbers, toy

from selfrew.running import binding
from selfrew.shelves import samplers, scorers
from selfrew.types import Rollout, user_prompt


def test_a_prompt_that_does_not_fit_is_left_out():
    """1 + 120 + 8 tokens exceed the context of 128."""
    lm, params = toy()
    prompts = [numbers([5], 'short'), numbers([6] * 120, 'long'), numbers([7], 'other')]
    plain = functools.partial(samplers.sample, max_tokens=8)
    for sampler in (plain, functools.partial(samplers.with_greedy, sampler=plain)):
        rollouts = sampler(lm, params, prompts, KEY)
        assert [rollout.prompt.id for rollout in rollouts] == ['short', 'other']


def test_with_greedy_ends_with_the_greedy_response():
    lm, params = toy()
    prompts = [numbers([5, 6], 'a'), numbers([7], 'b')]
    plain = functools.partial(samplers.sample, n=2, max_tokens=8)
    drawn = plain(lm, params, prompts, KEY)
    greedy = plain(lm, params, prompts, jax.random.key(99), n=1, temperature=0.0)
    both = samplers.with_greedy(lm, params, prompts, KEY, sampler=plain)
    assert [rollout.responses for rollout in both] == [
        first.responses + last.responses for first, last in zip(drawn, greedy, strict=True)
    ]


def test_the_greedy_response_joins_those_of_the_data():
    """Of prompts whose greedy response fits, in order; lengths are its own where they are given."""
    lm, params = toy()
    prompts = [
        user_prompt('a', '5 6', responses=['7', '8 9']),
        user_prompt('long', ' '.join(['6'] * 124), responses=['7']),  # 1 + 124 + 4 > 128
        user_prompt('b', '7', responses=['9', '3']),
    ]
    given = functools.partial(samplers.given)
    greedy = samplers.sample(lm, params, prompts, KEY, n=1, temperature=0.0, max_tokens=4)
    made = samplers.with_greedy(lm, params, prompts, KEY, sampler=given, max_tokens=4)
    assert [rollout.prompt.id for rollout in made] == ['a', 'b']
    for rollout, best in zip(made, greedy, strict=True):
        assert [r.text for r in rollout.responses[:2]] == rollout.prompt.meta['responses']
        assert rollout.responses[2] == best.responses[0]
    # grades are of the data alone: the greedy response needs a scorer that scores any response
    graded = [user_prompt('a', '5 6', responses=['7', '8 9'], grades=[1.0, 0.0])]
    rollouts = samplers.with_greedy(lm, params, graded, KEY, sampler=given, max_tokens=4)
    with pytest.raises(ValueError, match='2 grades and 3 responses'):
        scorers.given(lm, params, rollouts, KEY)
    (judgement,) = scorers.length(lm, params, rollouts, KEY, target=2)
    assert len(judgement.scores) == 3


def test_whether_rollouts_end_greedy_is_known():
    assert samplers.ends_greedy(functools.partial(samplers.with_greedy))
    assert not samplers.ends_greedy(functools.partial(samplers.sample))


def test_no_sample_is_refused():
    with pytest.raises(ValueError, match='n=0'):
        samplers.sample(*toy(), [numbers([5])], KEY, n=0)


def test_given_wants_a_response_with_every_prompt():
    (rollout,) = samplers.given(
        None, None, [user_prompt('a', 'Hi', responses=['Hello', 'Ho'])], KEY
    )
    assert [response.text for response in rollout.responses] == ['Hello', 'Ho']
    assert {response.finish for response in rollout.responses} == {'stop'}
    with pytest.raises(ValueError, match="'b' came without"):
        samplers.given(None, None, [user_prompt('b', 'Hi')], KEY)


@pytest.mark.parametrize('name', binding.part_names('sampler', samplers))
def test_every_sampler_keeps_the_shelfs_contract(name):
    """(lm, params, prompts, key, *, …) -> a Rollout for each prompt, in order; the same key gives
    the same rollouts.
    """
    function = getattr(samplers, name)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:4] == ['lm', 'params', 'prompts', 'key']
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[4:]) and function.__doc__
    options = {'n': 2, 'max_tokens': 6}
    options['sampler'] = functools.partial(samplers.sample, **options)
    options |= {'scorer': scorers.length, 'strength': 1.0, 'candidates': 3, 'block': 2}
    sampler = functools.partial(
        function, **{key: value for key, value in options.items() if key in parameters}
    )
    lm, params = toy(dataclasses.replace(SMALL, value_head=True))
    params = params | {'value': jax.random.normal(jax.random.key(1), params['value'].shape)}
    # What `disputed` asks for: one prompt for each response that is judged.
    meta = {'responses': ['7', '8 9'], 'points': [0, 5]}
    prompts = [user_prompt(f'p{i}', f'5 {6 + i}', judged=i, **meta) for i in range(3)]
    rollouts = sampler(lm, params, prompts, KEY)
    assert all(isinstance(rollout, Rollout) for rollout in rollouts)
    assert [rollout.prompt for rollout in rollouts] == prompts
    for rollout in rollouts:
        assert rollout.responses
        assert all(response.tokens or response.text for response in rollout.responses)
    assert rollouts == sampler(lm, params, prompts, KEY)
    assert sampler(lm, params, [], KEY) == []
