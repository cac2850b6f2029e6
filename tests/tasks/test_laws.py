"""Best-of-n, tilted laws and their KL: published values, enumeration, and what no law exceeds."""

import itertools

import numpy as np
import pytest

from selfrew.tasks import laws


def _random_law(rng, size):
    return rng.dirichlet(np.full(size, rng.choice([0.3, 1.0, 5.0])))


@pytest.mark.parametrize(
    'size, n, exact, estimate, bound',
    [(10, 16, 1.733, 1.756, 1.835), (2, 4, 0.459, 0.499, 0.636)],  # uniform laws, papers' values
)
def test_kl_estimate_and_bound_have_their_published_values(size, n, exact, estimate, bound):
    reference = np.full(size, 1 / size)
    best = laws.best_of_n_law(reference, np.arange(size), n)
    assert laws.kl(best, reference) == pytest.approx(exact, abs=5e-4)
    assert best @ laws.kl_estimate(np.log(reference), n) == pytest.approx(estimate, abs=5e-4)
    assert laws.kl_bound(n) == pytest.approx(bound, abs=1e-3)


def test_best_of_4_of_a_hundred_equal_outcomes_wins_four_fifths():
    reference, rewards = np.full(100, 0.01), np.arange(100)
    best = laws.best_of_n_law(reference, rewards, 4)
    assert laws.win_rate(best, reference, rewards) == pytest.approx(0.8, abs=1e-4)


def test_the_law_of_the_best_is_that_of_all_draws():
    """All 5³ draws of 3 from 5 outcomes, two of which are equally good."""
    reference, rewards = np.array([0.1, 0.3, 0.2, 0.25, 0.15]), np.array([1.0, 0.0, 2.0, 1.0, 0.5])
    by_order, first = np.zeros((2, 5))
    for draw in itertools.product(range(5), repeat=3):
        chance = np.prod(reference[list(draw)])
        by_order[max(draw, key=lambda i: (rewards[i], i))] += chance
        first[max(draw, key=lambda i: rewards[i])] += chance
    np.testing.assert_allclose(laws.best_of_n_law(reference, rewards, 3), by_order, atol=1e-12)
    drawn = laws.best_of_n_law(reference, rewards, 3, ties='first')
    np.testing.assert_allclose(drawn, first, atol=1e-12)
    assert laws.kl(drawn, reference) < laws.kl(by_order, reference)
    with pytest.raises(ValueError, match="no ties 'last'"):
        laws.best_of_n_law(reference, rewards, 3, ties='last')


def test_kl_lies_below_its_estimate_and_the_estimate_below_the_bound():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        reference, n = _random_law(rng, rng.integers(2, 30)), int(rng.integers(1, 100))
        best = laws.best_of_n_law(reference, rng.normal(size=len(reference)), n)
        # Of an outcome that cannot come (its chance underflows), nothing is known.
        estimate = best @ laws.kl_estimate(np.log(np.maximum(reference, 1e-300)), n)
        exact = laws.kl(best, reference)
        assert exact <= estimate + 1e-9 and estimate <= laws.kl_bound(n) + 1e-9


def test_an_estimate_of_unlikely_responses_is_the_bound_and_of_a_sure_one_0():
    np.testing.assert_allclose(laws.kl_estimate([-50.0, -5000.0], 64), laws.kl_bound(64))
    np.testing.assert_allclose(laws.kl_estimate([0.0, -1e-12], 64), 0.0, atol=1e-9)
    for eps in (1e-9, 1e-4, 0.3):  # the formula as it stands, where float64 can compute it
        rest, n = 1 - eps, 8
        value = rest**n * (np.log(n) + (n - 1) * np.log(rest) - (n - 1) / n)
        value += (1 - rest**n) * np.log((1 - rest**n) / eps)
        assert laws.kl_estimate(np.log(eps), n) == pytest.approx(value, rel=1e-6)


def test_means_over_subsets_are_those_of_all_subsets():
    scores, n = np.random.default_rng(1).integers(0, 5, 9).astype(float), 3
    subsets = [list(chosen) for chosen in itertools.combinations(range(9), n)]
    mean = np.mean([scores[chosen].max() for chosen in subsets])
    assert laws.selection_weights(9, n) @ np.sort(scores) == pytest.approx(mean)
    wins = [
        np.sign(scores[list(chosen)].max() - scores[other]) / 2 + 0.5
        for other in range(9)
        for chosen in itertools.combinations([i for i in range(9) if i != other], n)
    ]
    assert laws.best_of_n_win_rate(scores, n) == pytest.approx(np.mean(wins))
    assert laws.best_of_n_win_rate(np.arange(1025), 1024) == pytest.approx(1024 / 1025)
    assert np.isnan(laws.best_of_n_win_rate(scores, 9))
    assert laws.selection_weights(1024, 1024)[-1] == 1.0
    for n in (0, 10):
        with pytest.raises(ValueError, match=f'n={n} from 9 samples: want 1 to 9'):
            laws.selection_weights(9, n)


def test_a_win_rate_over_laws_is_that_over_all_pairs():
    rng = np.random.default_rng(2)
    law, reference = _random_law(rng, 12), _random_law(rng, 12)
    rewards = rng.integers(0, 4, 12).astype(float)
    wins = np.sign(rewards[:, None] - rewards[None]) / 2 + 0.5
    assert laws.win_rate(law, reference, rewards) == pytest.approx(law @ wins @ reference)


def test_at_equal_kl_no_law_has_more_reward_than_the_tilted_one():
    """Uniform-100 at the KL of best-of-2 (0.668 against 0.678), and random laws."""
    reference, rewards = np.full(100, 0.01), np.arange(100) / 99
    best = laws.best_of_n_law(reference, rewards, 2)
    assert best @ rewards == pytest.approx(0.668, abs=1e-3)
    ceiling = laws.ceiling([reference], [rewards], laws.kl(best, reference))
    assert ceiling == pytest.approx(0.678, abs=1e-3)
    rng = np.random.default_rng(3)
    for _ in range(50):
        size = int(rng.integers(2, 20))
        references = [_random_law(rng, size) for _ in range(3)]
        rewards = [rng.standard_t(2, size) for _ in range(3)]
        others = [_random_law(rng, size) for _ in range(3)]
        kl = np.mean([laws.kl(o, p) for o, p in zip(others, references)])
        reward = np.mean([o @ r for o, r in zip(others, rewards)])
        assert reward <= laws.ceiling(references, rewards, kl) + 1e-6


def test_the_ceiling_ends_at_the_reference_and_at_the_best_outcome():
    reference, rewards = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 4.0])
    assert laws.ceiling([reference], [rewards], 0.0) == pytest.approx(reference @ rewards)
    assert laws.ceiling([reference], [rewards], np.log(5) + 1e-3) == pytest.approx(4.0, abs=1e-2)
    assert laws.ceiling([reference], [np.ones(3)], 1.0) == pytest.approx(1.0)
    np.testing.assert_allclose(laws.tilted_law(reference, rewards, np.inf), reference)


def test_importance_weights_estimate_the_tilted_law():
    """200,000 samples of a law of ten outcomes; of few effective samples the estimate says so."""
    rng = np.random.default_rng(4)
    reference, rewards, beta = _random_law(rng, 10), rng.normal(size=10), 0.7
    tilted = laws.tilted_law(reference, rewards, beta)
    drawn = rewards[rng.choice(10, 200_000, p=reference)]
    estimate = laws.tilted_estimate(drawn, beta)
    assert estimate.reward == pytest.approx(tilted @ rewards, abs=0.02)
    assert estimate.kl == pytest.approx(laws.kl(tilted, reference), abs=0.02)
    # Kish: n / (1 + the variance of the weights over their squared mean).
    weights = np.exp(rewards / beta)
    share = (reference @ weights) ** 2 / (reference @ weights**2)
    assert estimate.effective_samples == pytest.approx(200_000 * share, rel=0.02)
    assert laws.tilted_estimate([0.0, 0.0, 50.0], 0.1).effective_samples == pytest.approx(1.0)
