"""Expected scores against a plain forward pass, and where they are not known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfrew.models import decoder
from selfrew.shelves import prompts, scorers
from selfrew.shelves.scorers.expected_scores import expected_scores
from selfrew.tasks import templates
from selfrew.types import Response, Rollout, user_prompt

KEY = jax.random.key(0)


def test_an_expected_score_is_the_mean_over_what_could_stand_there(tiny):
    """Each score is one token, so that the logits at its place give all probabilities."""
    lm, params = tiny
    ranked = prompts.ranked(lm, params, KEY, tasks=('word_problems',), n=4)
    rollouts = [Rollout(p, tuple(map(Response, p.meta['responses']))) for p in ranked]
    options = {'template': 'check', 'votes': 1, 'max_tokens': 64}
    judge = functools.partial(scorers.judge, lm, params, rollouts, KEY, **options)
    drawn, means = judge(), judge(expected=True)
    score_ids = [lm.text.encode(f' {score}') for score in range(6)]
    assert all(len(ids) == 1 for ids in score_ids)

    @jax.jit
    def score_probabilities(tokens, place):
        seen = jnp.tril(jnp.ones((1, 256, 256), bool))
        hidden, _ = lm.module.apply({'params': params}, tokens, jnp.arange(256)[None], seen)
        logits = decoder.logits(lm.module, params, hidden[0, place][None])
        return jax.nn.softmax(logits[0, np.ravel(score_ids)])

    differ = 0
    for judgement, expected in zip(drawn, means, strict=True):
        assert judgement.verdicts == expected.verdicts
        rows = judgement.verdicts, judgement.votes, expected.votes
        for response, (verdict,), (vote,), (mean,) in zip(judgement.rollout.responses, *rows):
            question = judgement.rollout.prompt.text
            shown = templates.render('check', prompt=question, response=response.text)
            tokens = lm.text.prompt_tokens(user_prompt('', shown))
            tokens = [*tokens, *lm.text.encode(verdict[: verdict.rindex(' ')])]
            padded = np.array([tokens + [0] * (256 - len(tokens))])
            probabilities = score_probabilities(padded, len(tokens) - 1)
            # Rounding moves logits by some 1e-5; another score of probability 1e-3 is caught.
            assert mean == pytest.approx(float(probabilities @ np.arange(6.0)), abs=1e-3)
            differ += abs(mean - vote) > 1e-3
    assert differ  # the means are not just the drawn scores


def test_a_score_that_the_tokenizer_cuts_otherwise_has_no_mean(tiny):
    lm, params = tiny
    prompt, verdict = (
        lm.text.prompt_tokens(user_prompt('', 'Hi')),
        tuple(lm.text.encode('Score: 4')),
    )
    assert expected_scores(lm, params, [(prompt, verdict, len('Score: '))], ['14', '24']) == [None]
