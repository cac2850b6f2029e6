"""Prompts with constraints: what is asked depends on the key and the prompt's id alone."""

import functools
import math

import jax
import pytest

from selfrew.running import binding
from selfrew.shelves import prompts, scorers
from selfrew.types import Response, Rollout, user_prompt

KEY = jax.random.key(0)
QUESTIONS = [user_prompt(f'q{i}', f'Question {i}?', answer=i) for i in range(40)]


def _constrained(source=QUESTIONS, key=KEY, **options):
    return prompts.constrained(None, None, key, prompts=lambda *_: source, **options)


def test_each_prompt_has_as_many_constraints_as_allowed_and_says_them():
    made = _constrained(least=1, most=3)
    counts = [len(prompt.meta['constraints']) for prompt in made]
    assert set(counts) == {1, 2, 3}
    for prompt, question in zip(made, QUESTIONS):
        assert prompt.id == question.id and prompt.answer is None
        assert prompt.text.startswith(f'{question.text}\n\n')
    assert made == _constrained(list(reversed(QUESTIONS)), least=1, most=3)[::-1]
    assert made != _constrained(key=jax.random.key(1), least=1, most=3)


def test_only_the_kinds_that_are_named_are_drawn():
    made = _constrained(most=1, kinds=('no_commas', 'bullets'))
    drawn = {c['kind'] for prompt in made for c in prompt.meta['constraints']}
    assert drawn == {'no_commas', 'bullets'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'kinds': ('bullets', 'sentences')}, 'least=1, most=2: want least <= most <= 1'),
        ({'least': 3, 'most': 2}, 'least=3, most=2: want least <= most <= 6'),
        ({'kinds': ('bulets',)}, "no kind of constraint 'bulets'; there are: at_most_words"),
    ],
)
def test_what_cannot_be_drawn_is_refused_when_the_config_is_bound(options, message):
    source = {'name': 'task', 'tasks': ('rising',), 'n': 2}
    entry = {'name': 'constrained', 'prompts': source} | options
    with pytest.raises(ValueError, match=message):
        binding.bind('prompts', entry, 'round.prompts')


def test_the_score_is_the_share_kept_and_a_cut_response_keeps_none():
    asked = [{'kind': 'no_commas'}, {'kind': 'sentences', 'n': 1}, {'kind': 'lower_case'}]
    prompt = user_prompt('a', 'Hi', constraints=asked)
    texts = 'one.', 'One.', 'One. Two, three.'
    responses = (*map(Response, texts), Response('one.', finish='length'))
    judge = functools.partial(scorers.constraints, None, None)
    (judgement,) = judge([Rollout(prompt, responses)], KEY)
    assert judgement.scores == pytest.approx((1.0, 2 / 3, 0.0, 0.0))
    (without,) = judge([Rollout(user_prompt('b', 'Hi'), (Response('one.'),))], KEY)
    assert math.isnan(without.scores[0])
