"""A reward model's score against a plain forward pass; its checkpoint is checked at start-up."""

import functools
import math

import jax
import numpy as np
import pytest

from selfrew.models import decoder, language_model
from selfrew.running import binding
from selfrew.shelves import scorers
from selfrew.types import Response, Rollout, user_prompt

KEY = jax.random.key(0)


def _rollout(*texts, id='p') -> Rollout:
    return Rollout(user_prompt(id, 'What is 2 + 2?'), tuple(map(Response, texts)))


def _assert_near(rewards, expected):
    """Equal up to rounding. A reward is a sum of products that can cancel, so that its error scales
    with the largest reward (about 24). The rewards of different responses here are 1.5 apart.
    """
    atol = 2e-5 * np.max(np.abs(expected))
    np.testing.assert_allclose(rewards, expected, rtol=0.0, atol=atol)


def test_a_reward_is_the_scalar_at_the_end_of_the_conversation(tiny, reward_base):
    rollouts = [_rollout('4', 'It is 4, as 2 + 2 = 4.', 'x ' * 600), _rollout('5', id='q')]
    score = functools.partial(scorers.reward_model, checkpoint=reward_base.folder, rows=2)
    first, second = score(*tiny, rollouts, KEY)
    text, prompt = tiny[0].text, rollouts[0].prompt
    # The template closes the conversation as a response ends.
    tokens = text.prompt_tokens(prompt) + text.response_tokens('4', 'stop')
    assert text.conversation_tokens(prompt, '4') == tokens
    L = len(tokens)
    position_RL, seen_RLL = np.arange(L)[None], np.tril(np.ones((L, L), bool))[None]
    inputs = np.array([tokens]), position_RL, seen_RLL
    hidden_RLD, _ = reward_base.module.apply({'params': reward_base.params}, *inputs)
    expected = float(decoder.scalar_value(reward_base.params, hidden_RLD[0, -1:])[0])
    assert first.scores[0] == pytest.approx(expected, rel=2e-5)
    assert math.isnan(first.scores[2])  # longer than the context
    assert len({*first.scores[:2], *second.scores}) == 3


def test_a_reward_does_not_depend_on_its_batch_mates_or_the_mesh(reward_base):
    rollouts = [_rollout('4', 'four', 'It is 4, as 2 + 2 = 4.'), _rollout('5', id='q')]
    one_device = language_model.load(folder='tiny')
    eight_devices = language_model.load(folder='tiny', fsdp=4, tensor=2)
    score = functools.partial(scorers.reward_model, checkpoint=reward_base.folder)

    def rewards(judgements):
        return np.concatenate([judgement.scores for judgement in judgements])

    together = rewards(score(*one_device, rollouts, KEY))
    alone = [score(*one_device, [rollout], KEY, rows=1)[0] for rollout in rollouts]
    _assert_near(rewards(alone), together)
    _assert_near(rewards(score(*eight_devices, rollouts, KEY)), together)


def test_a_reward_model_is_looked_up_at_start(reward_base):
    entry = {'name': 'reward_model', 'checkpoint': reward_base.folder}
    bound = binding.bind('scorer', entry, 'round.scorer')
    assert bound.keywords == {'checkpoint': reward_base.folder}
    message = 'round.scorer .*checkpoint: tiny has no scalar head: it is LlamaForCausalLM; want'
    with pytest.raises(ValueError, match=message):
        binding.bind('scorer', entry | {'checkpoint': 'tiny'}, 'round.scorer')
    with pytest.raises(ValueError, match="checkpoint: no model folder 'nowhere'"):
        binding.bind('scorer', entry | {'checkpoint': 'nowhere'}, 'round.scorer')


@pytest.mark.parametrize('reward', [math.nan, math.inf], ids=['nan', 'inf'])
def test_a_reward_that_is_not_finite_is_no_score(tiny, reward_base, monkeypatch, reward):
    monkeypatch.setattr(
        scorers.reward_models.scalar_values, 'last_values', lambda *_, **__: [1.0, reward]
    )
    with pytest.raises(ValueError, match='a reward is not finite'):
        scorers.reward_model(*tiny, [_rollout('4', '5')], KEY, checkpoint=reward_base.folder)
