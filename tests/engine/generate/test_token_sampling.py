"""A token comes as often as its probability says, and never from outside top-k, top-p or min-p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import assert_close

from selfrew.engine.generate import token_sampling

_sample_tokens = jax.jit(token_sampling.sample_tokens)
BELOW_ONE = 1 - 2.0**-23  # the largest draw


def _sample(logits, uniform, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """sample_tokens with the same options for each row."""

    def per_row(value, dtype=np.float32):
        return np.full(len(logits), value, dtype)

    options = per_row(temperature), per_row(top_k, np.int32), per_row(top_p), per_row(min_p)
    return _sample_tokens(logits, uniform, *options)


def _random_logits(rows, vocab, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab)).astype(np.float32)


def _expected_probabilities(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """[V] By sorting, in float64."""
    weight = np.exp(logits.astype(np.float64) / temperature)
    likely, order = weight.max(), np.argsort(-weight)
    weight[order[top_k or len(logits) :]] = 0
    probability = weight / weight.sum()
    likelier = np.cumsum(probability[order]) - probability[order]
    probability[order[likelier >= top_p]] = 0  # outside the smallest set that holds top_p
    probability[np.exp(logits / temperature) < min_p * likely] = 0
    return probability / probability.sum()


@pytest.mark.parametrize('vocab', [16, 300])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'temperature': 0.5},
        {'top_p': 0.7},
        {'temperature': 2.0, 'top_p': 0.3},
        {'top_k': 3},
        {'min_p': 0.2},
        {'top_k': 5, 'top_p': 0.8},
        {'temperature': 2.0, 'top_k': 7, 'top_p': 0.9, 'min_p': 0.05},
    ],
    ids=str,
)
def test_tokens_come_as_often_as_their_probability(options, vocab):
    """For draws (i + ½)/4000 a token's count is 4000·p, but for ±1 at each end of its interval.

    Its first log-prob is that at temperature 1 and of the whole vocabulary, its second that of the
    law which drew it.
    """
    draws, (logits,) = 4000, _random_logits(1, vocab)
    uniform = (np.arange(draws, dtype=np.float32) + 0.5) / draws
    tokens, logp, sampled_logp = _sample(np.tile(logits, (draws, 1)), uniform, **options)
    share = np.bincount(tokens, minlength=vocab) / draws
    assert np.abs(share - _expected_probabilities(logits, **options)).max() <= 1.5 / draws
    raw = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    assert_close(logp, raw[tokens], rel=1e-6)
    law = _expected_probabilities(logits, **options)
    assert_close(sampled_logp, np.log(law[np.asarray(tokens)]), rel=1e-5)
    assert (np.asarray(sampled_logp) == np.asarray(logp)).all() == (not options)


@pytest.mark.parametrize('top_p', [0.1, 0.5, 0.9])
def test_no_token_comes_from_outside_the_nucleus(top_p):
    logits = _random_logits(256, 64, seed=1)
    probability = np.asarray(jax.nn.softmax(logits), np.float64)
    is_likelier = probability[:, None, :] > probability[:, :, None]
    likelier_RV = (probability[:, None, :] * is_likelier).sum(-1)  # the mass of likelier tokens
    for uniform in (*np.random.default_rng(2).uniform(size=8), 0.0, BELOW_ONE):
        tokens, *_ = _sample(logits, np.full(256, uniform, np.float32), top_p=top_p)
        # Up to the rounding of float32 sums: a whole token too many has far more mass.
        assert (likelier_RV[np.arange(256), tokens] < top_p * (1 + 1e-5)).all()


def test_no_rounding_lets_an_excluded_token_through():
    """Hard draws: those on a rounded step of the CDF, at a vocabulary that is summed in blocks."""
    logits = _random_logits(64, 500, seed=3)
    probability = np.asarray(jax.nn.softmax(logits))
    order = np.argsort(-probability, axis=-1, kind='stable')
    ranked = np.take_along_axis(probability, order, -1)
    likelier = np.cumsum(ranked, -1) - ranked
    nucleus = np.zeros_like(probability)
    np.put_along_axis(nucleus, order, np.where(likelier < 0.7 * (1 + 1e-5), ranked, 0), -1)
    cdf = np.asarray(jnp.cumsum(jnp.asarray(nucleus), axis=-1))
    for column in range(0, 500, 5):
        uniform = np.clip(cdf[:, column] / cdf[:, -1], 0, BELOW_ONE).astype(np.float32)
        tokens, *_ = _sample(logits, uniform, top_p=0.7)
        assert (nucleus[np.arange(64), tokens] > 0).all()


def test_rows_do_not_share_their_options():
    """Each row alone, and all rows in one call: the same tokens."""
    logits, uniform = _random_logits(6, 200, seed=5), np.linspace(0.05, 0.9, 6, dtype=np.float32)
    options = [
        (1.0, 0, 1.0, 0.0),
        (0.0, 0, 1.0, 0.0),
        (0.7, 4, 1.0, 0.0),
        (1.0, 0, 0.5, 0.0),
        (2.0, 9, 0.8, 0.1),
        (1.0, 0, 1.0, 0.3),
    ]
    temperature, top_k, top_p, min_p = np.array(options, np.float32).T
    tokens, logp, _ = _sample_tokens(
        logits, uniform, temperature, top_k.astype(np.int32), top_p, min_p
    )
    alone = [
        _sample(logits[row : row + 1], uniform[row : row + 1], *options[row]) for row in range(6)
    ]
    assert [int(token_1[0]) for token_1, *_ in alone] == tokens.tolist()
    # Another shape may sum in another order.
    assert_close(np.array([float(logp_1[0]) for _, logp_1, _ in alone]), logp, rel=1e-6)


def test_temperature_zero_is_argmax_whatever_the_draw():
    logits = _random_logits(64, 32)
    for uniform in (0.0, 0.4, BELOW_ONE):
        tokens, *_ = _sample(logits, np.full(64, uniform, np.float32), temperature=0.0)
        np.testing.assert_array_equal(tokens, logits.argmax(-1))
