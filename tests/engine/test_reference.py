"""The reference column comes from where it is asked for, and trainer and sampler agree on it."""

import dataclasses
import functools

import jax
import pytest
from toy_training import pairs, train
from toys import EOS, assert_close, prompt, toy

from selfrew.engine import packing, reference
from selfrew.shelves import losses
from selfrew.types import Example, Response, user_prompt


def _column(lm, params, examples):
    """The log-probs [examples N] of a plain pass."""
    docs, _ = packing.tokenise(lm.text, examples, row_length=64)
    batches = packing.batches(docs, batch=len(docs), row_length=64)
    return reference.reference_logp(lm, params, batches).column


def test_the_gap_is_that_of_the_samplers_logp():
    """Three tokens have log-prob −6 to the sampler: the gap is the difference from the trainer's
    own, by a plain pass, over 3.
    """
    lm, params = toy()
    sampled = Response('', (5, 6, EOS), 'stop', -6.0)
    example = Example(prompt([7, 8]), (sampled,))
    logp = _column(lm, params, [example])[0, 0]
    _, totals, _ = train(lm, params, [example], losses.sft)
    assert totals['gap'] == totals['gap_max'] == pytest.approx(abs(logp + 6.0) / 3, rel=1e-4)
    assert totals['tokens'] == 3 and totals['examples'] == 1 and totals['dropped'] == 0


def _with_responses(example, responses):
    return dataclasses.replace(example, responses=tuple(responses))


def _sampled_pairs(lm, params, off=0.0):
    """Six pairs whose sampler's log-probs are the trainer's own plus `off` nats per token."""
    examples = [
        _with_responses(
            pair,
            [Response('', (*map(int, r.text.split()), EOS), 'stop', 0.0) for r in pair.responses],
        )
        for pair in pairs(6)
    ]

    def with_logp(response, logp):
        return dataclasses.replace(response, logp=float(logp) + off * len(response.tokens))

    column = _column(lm, params, examples)
    return [
        _with_responses(example, map(with_logp, example.responses, logp_N))
        for example, logp_N in zip(examples, column)
    ]


def test_the_samplers_logp_serve_as_the_reference_without_a_pass_over_all(monkeypatch):
    lm, params = toy()
    examples, passes = _sampled_pairs(lm, params), []
    reference_logp = reference.reference_logp

    def counted(lm, params, batches, *rest):
        passes.append(len(batches))
        return reference_logp(lm, params, batches, *rest)

    monkeypatch.setattr(reference, 'reference_logp', counted)
    options = {'batch': 2, 'lr': 1e-3}
    _, _, exact_rows = train(lm, params, examples, losses.dpo, **options)
    _, totals, rows = train(lm, params, examples, losses.dpo, reference='sampler', **options)
    assert passes == [3, 1]  # three batches, and the first
    assert totals['gap'] < 1e-4  # of some 4 nats per token
    exact_losses = [metrics['loss'] for _, metrics in exact_rows]
    assert [metrics['loss'] for _, metrics in rows] == pytest.approx(exact_losses, rel=1e-4)


def test_the_base_as_the_reference_is_the_model_of_the_folder(tiny):
    """From changed parameters: the rewards of the first update are β times the distance of each
    response from the base.
    """
    lm, params = tiny
    changed = jax.tree.map(lambda leaf: leaf * 1.02, params)
    responses = Response('7, 8'), Response('9')
    examples = [
        Example(user_prompt('p0', 'Hi'), responses),
        Example(user_prompt('p1', 'Give 2'), responses),
    ]
    logp_BN = _column(lm, changed, examples)
    moved_N = (logp_BN - _column(lm, params, examples)).mean(axis=0)
    loss = functools.partial(losses.dpo, beta=0.3)
    _, _, rows = train(lm, changed, examples, loss, batch=2, reference='base')
    rewards = [rows[0][1]['rewards/chosen'], rows[0][1]['rewards/rejected']]
    rounding = 0.3 * 1e-5 * float(abs(logp_BN).max())  # a reward is a difference of log-probs
    assert rewards == pytest.approx(0.3 * moved_N, abs=rounding)
    assert min(abs(moved_N)) > 0.1


def test_a_sampler_that_is_not_the_trainer_is_no_reference():
    lm, params = toy()
    examples = _sampled_pairs(lm, params, off=0.25)
    train_on = functools.partial(train, lm, params, reference='sampler')
    far_off = r'differ by 0\.25 nats a token in the mean, 0\.25 at most, and max_gap=0\.2;'
    with pytest.raises(ValueError, match=far_off):
        train_on(examples, losses.dpo, max_gap=0.2)
    _, totals, _ = train_on(examples, losses.dpo, max_gap=0.3)
    assert [totals['gap'], totals['gap_max']] == pytest.approx([0.25, 0.25], abs=1e-4)
    missing = r'examples \[0, 1, 2, 3, 4\] have no log-probability .* 6 examples in all'
    with pytest.raises(ValueError, match=missing):
        train_on(pairs(6), losses.dpo)
    with pytest.raises(ValueError, match="no reference 'policy'; there are: exact, sampler, base"):
        train(lm, params, examples, losses.dpo, reference='policy')


def test_a_column_has_a_reference_for_each_example_of_the_round():
    lm, params = toy()
    examples = pairs(3)
    backwards = _column(lm, params, examples[::-1])
    assert_close(backwards[::-1], _column(lm, params, examples))
