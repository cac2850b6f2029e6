"""The evaluations of reward and KL: by hand, and as a real model's samples say."""

import functools
import math

import jax
import numpy as np
import pytest

from selfrew.running import binding
from selfrew.shelves import evals, samplers, scorers
from selfrew.tasks import laws
from selfrew.types import Judgement, Response, Rollout, user_prompt

PROMPTS = [user_prompt(f'p{i}', f'Tom has {i} apples and gets {i}.', 2 * i) for i in range(2, 14)]


def _pools(*pools):
    """The parts of an evaluation of prompts with pools of (score, log-prob)."""
    asked = [user_prompt(str(i), 'Q?') for i in range(len(pools))]
    rollouts = [
        Rollout(
            p,
            tuple(Response('a', (k,), logp=-9.0, sampled_logp=x) for k, (_, x) in enumerate(pool)),
        )
        for p, pool in zip(asked, pools)
    ]
    judged = [Judgement(r, tuple(s for s, _ in pool)) for r, pool in zip(rollouts, pools)]
    return {
        'prompts': lambda *_: asked,
        'sampler': lambda *_: rollouts,
        'scorer': lambda *_: judged,
    }


def test_best_of_n_is_the_mean_over_all_subsets_of_the_pool():
    parts = _pools([(1.0, -1.0), (3.0, -2.0), (2.0, -0.5)], [(0.0, -1.0), (0.0, -3.0), (6.0, -2.0)])
    metrics, judgements = evals.best_of_n(
        None, None, jax.random.key(0), sizes=(1, 2, 3), strengths=(1.0,), **parts
    )
    # best of each two of three: 3, 2, 3 and 0, 6, 6
    assert metrics['reward/1'] == pytest.approx(2.0)
    assert metrics['reward/2'] == pytest.approx((8 / 3 + 4.0) / 2)
    assert metrics['reward/3'] == metrics['value'] == pytest.approx(4.5)
    # the first pool has no ties: 1/2 and 2/3; of the second, one against one: 1/2, and of two
    # against one: 0 against (0, 6) loses, 6 against (0, 0) wins, in thirds with ties of 0 and 0
    assert metrics['win_rate/1'] == pytest.approx(0.5)
    assert metrics['win_rate/2'] == pytest.approx((2 / 3 + (1.0 + 1.0 + 0.0) / 3) / 2)
    assert math.isnan(metrics['win_rate/3'])
    assert metrics['kl_bound/2'] == pytest.approx(math.log(2) - 0.5)
    # the best of two is the 2nd or 3rd in the order of scores, then of tokens, with 1/3 and 2/3
    chosen = np.array([[-0.5, -2.0], [-3.0, -2.0]])
    expected = (laws.kl_estimate(chosen, 2) @ [1 / 3, 2 / 3]).mean()
    assert metrics['kl/2'] == pytest.approx(expected)
    tilted = [laws.tilted_estimate(scores, 1.0) for scores in ([1, 3, 2], [0, 0, 6])]
    assert metrics['tilted_reward/1'] == pytest.approx(np.mean([t.reward for t in tilted]))
    assert metrics['tilted_samples/1'] == pytest.approx(
        np.mean([t.effective_samples for t in tilted])
    )
    assert len(judgements) == 2 and metrics['left_out'] == 0.0


def test_a_pool_with_too_few_verdicts_is_left_out():
    parts = _pools([(1.0, None), (2.0, -1.0)], [(math.nan, -1.0), (2.0, -1.0)])
    metrics, _ = evals.best_of_n(None, None, jax.random.key(0), sizes=(2,), **parts)
    assert metrics['n'] == 1 and metrics['left_out'] == 0.5 and metrics['value'] == 2.0
    with pytest.raises(ValueError, match='no prompt has 3 responses with a verdict'):
        evals.best_of_n(None, None, jax.random.key(0), sizes=(3,), **parts)


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'sizes': ()}, 'want different whole numbers'),
        ({'sizes': (2, 2)}, 'want different whole numbers'),
        ({'sizes': (0,)}, 'want different whole numbers'),
        ({'strengths': (0.0,)}, 'want different numbers above 0'),
    ],
)
def test_sizes_and_strengths_that_are_none_are_refused(fields, message):
    prompts = {'name': 'task', 'tasks': ('rising',), 'n': 2}
    entry = {'name': 'best_of_n', 'prompts': prompts, 'sampler': {'name': 'sample'}}
    entry |= {'scorer': {'name': 'length'}, 'sizes': (1,)}
    with pytest.raises(ValueError, match=message):
        binding.bind('evals', entry | fields, 'evals.x', evals)


def test_a_base_has_no_kl_from_itself_and_a_sharper_law_has_its_own(tiny):
    """At temperature 0.5: the mean of log q − log π over the same samples, taken apart. A policy's
    win rate is over all pairs of its responses and the base's.
    """
    lm, params = tiny
    parts = {'prompts': lambda *_: PROMPTS, 'scorer': scorers.length}
    plain = functools.partial(samplers.sample, n=4, max_tokens=24)
    metrics, _ = evals.reward_kl(
        lm, params, jax.random.key(0), sampler=plain, base_sampler=plain, **parts
    )
    assert metrics['kl'] == pytest.approx(0.0, abs=1e-4) and 0.3 < metrics['win_rate'] < 0.7
    assert metrics['kl_low'] <= metrics['kl'] <= metrics['kl_high']
    sharp = functools.partial(plain, temperature=0.5)
    metrics, judgements = evals.reward_kl(
        lm, params, jax.random.key(0), sampler=sharp, base_sampler=plain, **parts
    )
    gaps = [r.sampled_logp - r.logp for j in judgements for r in j.rollout.responses]
    assert metrics['kl'] == pytest.approx(np.mean(gaps), rel=1e-3) and metrics['kl'] > 0.3
    best = functools.partial(samplers.best_of_n, sampler=plain, scorer=scorers.length)
    metrics, _ = evals.reward_kl(
        lm, params, jax.random.key(0), sampler=best, base_sampler=plain, **parts
    )
    assert math.isnan(metrics['kl']) and metrics['win_rate'] > 0.6
    assert metrics['value'] > metrics['base_reward']
