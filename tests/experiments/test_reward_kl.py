"""The world of letters: its exact laws are those that the samplers draw from."""

import itertools

import jax
import numpy as np
import pytest

from experiments.reward_kl import figure, letters
from selfrew.engine.generate import Control
from selfrew.models import language_model
from selfrew.shelves.samplers.plain import sample_with
from selfrew.tasks import laws

COUNT = 600  # answers to each question


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """(world, params, law of tokens, values, head) of a model that learned little."""
    folder = str(tmp_path_factory.mktemp('letters'))
    letters.write_folder(folder, 0, texts=960)
    lm, params = language_model.load(folder=folder)
    made = letters.make_world(lm)
    head = 0.6 * jax.random.normal(jax.random.key(1), (letters.WIDTH, lm.config.vocab))
    return made, params, *letters.token_laws(made, params, head), head


@pytest.mark.slow
def test_all_answers_have_probability_1_and_rewards_of_their_own(world):
    made, _, law, _, _ = world
    outcomes = letters.outcome_law(made, law)
    np.testing.assert_allclose(outcomes.sum(axis=1), 1.0, rtol=1e-9)
    assert outcomes.shape == made.outcome_rewards.shape
    texts = [
        ''.join(letters_of_text)
        for length in range(letters.MAX_TOKENS + 1)
        for letters_of_text in itertools.product(letters.LETTERS, repeat=length)
    ]
    rewards = {round(letters.reward('ab', text), 12) for text in texts}
    assert len(rewards) == len(texts) == 1365
    np.testing.assert_allclose(
        np.sum(law[0] * letters.true_values(made, law)[0], axis=(1, 2)),
        np.sum((outcomes * made.outcome_rewards)[:, : -made.cut.shape[1]], axis=1),
    )


@pytest.mark.slow
@pytest.mark.parametrize('fields', [{}, {'strength': 1.5}, {'candidates': 3, 'block': 2}], ids=str)
def test_samples_come_from_the_exact_law(world, fields):
    """The mean reward of 3,600 answers, and their mean log-prob under the base: within 4.5 standard
    errors of the exact ones; with a sampled KL where the law has log-probs.
    """
    made, params, law, values, head = world
    base = letters.outcome_law(made, law)
    if 'strength' in fields:
        expected = letters.outcome_law(made, letters.tokenwise(law, values, fields['strength']))
    elif fields:
        expected = letters.blockwise(made, law, values, fields['candidates'], fields['block'])
    else:
        expected = base
    np.testing.assert_allclose(expected.sum(axis=1), 1.0, rtol=1e-9)
    control = Control(head) if fields else None
    rollouts = sample_with(
        made.lm,
        params,
        letters.prompts(),
        jax.random.key(3),
        n=COUNT,
        max_tokens=letters.MAX_TOKENS,
        control=control,
        **fields,
    )
    judgements = letters.score(None, None, rollouts, None)
    logp = np.log(np.maximum(base, 1e-300))
    for i, judgement in enumerate(judgements):
        for drawn, exact in (
            (np.array(judgement.scores), made.outcome_rewards[i]),
            (np.array([r.logp for r in judgement.rollout.responses]), logp[i]),
        ):
            mean = expected[i] @ exact
            error = np.sqrt((expected[i] @ exact**2 - mean**2) / COUNT)
            assert abs(drawn.mean() - mean) < 4.5 * error
        if 'block' not in fields:
            gaps = np.array([r.sampled_logp - r.logp for r in judgement.rollout.responses])
            exact_kl = laws.kl(expected[i], base[i])
            assert abs(gaps.mean() - exact_kl) < 4.5 * gaps.std() / np.sqrt(COUNT) + 1e-4
    moved = letters.place(made, expected, base)
    assert moved['kl'] == pytest.approx(0.0, abs=1e-9) if not fields else moved['kl'] > 0.2


def test_block_wise_control_of_a_whole_answer_is_best_of_n_by_the_values(world):
    made, _, law, _, _ = world
    base = letters.outcome_law(made, law)
    truth = letters.true_values(made, law)
    whole = letters.blockwise(made, law, truth, 4, letters.MAX_TOKENS)
    # Of answers that are cut the value is 0, and not their reward.
    rewards = np.concatenate([*made.ended, np.zeros_like(made.cut)], axis=1)
    expected = [laws.best_of_n_law(p, r, 4) for p, r in zip(base, rewards)]
    ended = slice(0, -made.cut.shape[1])
    np.testing.assert_allclose(whole[:, ended], np.array(expected)[:, ended], atol=1e-9)


def test_the_figure_shows_every_method(tmp_path):
    rows = [
        {'task': 'letters', 'seed': s, 'method': m, 'knob': k, 'reward': k + s, 'kl': float(k)}
        | {'win_rate': 0.5, 'kl_kind': 'exact', 'ceiling': 4.0}
        for m in ('base', 'best-of-n', 'tilted (ceiling)', 'block-wise cd_q, M=1')
        for k in (1, 2)
        for s in (0, 1)
    ]
    figure.plot(rows, str(tmp_path / 'curve.png'))
    assert (tmp_path / 'curve.png').stat().st_size > 10_000
    lines = figure.table(rows).split('\n')
    assert len(lines) == 2 + 8 and '| 1.500 ± 0.707 |' in lines[2]
