"""What a loss asks for reaches it: scores, labels, each token's log-probs, mismatched responses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import pairs, train
from toys import EOS, Numbers, docs, prompt, toy

from selfrew.engine import logprobs, loss_contract, packing, reference, train_step
from selfrew.types import Example, Response

MESHES = {}, {'fsdp': 2}


def _examples():
    """Singles with scores and labels, one without a label."""
    texts = '10 11', '20', '30 31 32'
    scores, labels = (0.5, -1.0, 2.0), ((1.0,), (0.0,), ())
    return [
        Example(prompt([3, i]), (Response(text),), (score,), labels=label)
        for i, (text, score, label) in enumerate(zip(texts, scores, labels), start=40)
    ]


def test_scores_and_labels_of_examples_are_in_the_batch_and_nan_where_there_are_none():
    packed, dropped = packing.tokenise(Numbers(), _examples(), row_length=32)
    (batch,) = packing.batches(packed, batch=4, row_length=32)
    assert dropped == 0 and batch.index[:3].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(batch.scores[:, 0], [0.5, -1.0, 2.0, np.nan])
    np.testing.assert_array_equal(batch.labels[:, 0], [1.0, 0.0, np.nan, np.nan])


@loss_contract.reference_free
def _labelled(out, batch, key):
    """(2 · label − 1) · score · log-prob, 0 without a label."""
    del key
    sign_BN = jnp.nan_to_num(2.0 * batch.labels - 1.0)
    scores_BN = jnp.nan_to_num(batch.scores)
    return (sign_BN * scores_BN * out.logp)[:, 0], {'seen': sign_BN[:, 0]}


@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_loss_reads_scores_and_labels_in_an_update(accumulate):
    lm, params = toy()
    _, _, rows = train(lm, params, _examples(), _labelled, batch=3, accumulate=accumulate)
    packed, _ = packing.tokenise(Numbers(), _examples(), row_length=32)
    batches = packing.batches(packed, batch=3, row_length=32)
    logp = reference.reference_logp(lm, params, batches).column[:, 0]
    assert rows[0][1]['loss'] == pytest.approx((0.5 * logp[0] + logp[1]) / 3, rel=1e-5)
    assert rows[0][1]['seen'] == 0.0  # 1 - 1 + 0


def _first_tokens(out, batch, key, *, token_logp: bool = True):
    """The sum of first tokens' ratios, and how far sums over tokens are from the responses'."""
    del key, token_logp
    _, _, place_PS = logprobs.response_places(batch)
    ratio_PS = out.token_logp - batch.ref_token_logp
    loss_BN = logprobs.response_sums(batch, jnp.where(place_PS == 0, ratio_PS, 0.0))
    # The places of a response are 0, 1, … below its length.
    places_BN = logprobs.response_sums(batch, place_PS * batch.mask)
    off_B = jnp.max(jnp.abs(places_BN - out.length * (out.length - 1) / 2), axis=1)
    sums = {
        'off policy': out.logp - logprobs.response_sums(batch, out.token_logp),
        'off reference': batch.ref_logp - logprobs.response_sums(batch, batch.ref_token_logp),
    }
    metrics = {name: jnp.max(jnp.abs(x_BN), axis=1) for name, x_BN in sums.items()}
    return jnp.sum(loss_BN, axis=1), metrics | {'off places': off_B}


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('mesh', MESHES, ids=str)
def test_each_tokens_log_probs_come_with_those_of_the_reference(mesh, accumulate):
    """In shuffled batches, over several updates; the reference is where the round begins."""
    lm, params = toy(**mesh)
    options = {'batch': 4, 'accumulate': accumulate, 'epochs': 2}
    _, _, rows = train(lm, params, pairs(8), _first_tokens, **options)
    assert len(rows) == 4
    assert rows[0][1]['loss'] == pytest.approx(0.0, abs=1e-4)
    assert abs(rows[-1][1]['loss']) > 1e-2  # the policy has left the reference
    for _, metrics in rows:
        for name in ('off policy', 'off reference', 'off places'):
            assert metrics[name] < 1e-4


def test_the_samplers_log_probs_are_no_reference_for_each_token():
    lm, params = toy()
    with pytest.raises(ValueError, match='no log-probability of each token.*use exact'):
        train(lm, params, pairs(4), _first_tokens, reference='sampler')


def test_a_mismatched_response_is_the_next_ones_to_another_prompt_that_fits():
    first, second, third, fourth = docs(4, responses=1, seed=5)
    twin = second._replace(prompt=first.prompt)
    made = packing.with_mismatched([first, twin, third, fourth], row_length=64)
    assert [doc.responses for doc in made] == [
        (first.responses[0], third.responses[0]),  # not the twin's, which has the same prompt
        (twin.responses[0], third.responses[0]),
        (third.responses[0], fourth.responses[0]),
        (fourth.responses[0], first.responses[0]),
    ]
    long = third._replace(responses=(tuple(range(3, 60)),))
    made = packing.with_mismatched([first, long, fourth], row_length=64)
    assert [doc.index for doc in made] == [first.index, fourth.index]  # no room beside the long one
    assert made[0].responses[1] == fourth.responses[0]
    assert not packing.with_mismatched([first, twin], row_length=64)


@loss_contract.with_mismatched
def _kl(out, batch, key):
    """The ratio of the mismatched response."""
    del key
    return (out.logp - batch.ref_logp)[:, -1], {'mismatched length': out.length[:, -1]}


def test_a_loss_gets_mismatched_responses_with_their_reference():
    lm, params = toy()
    lengths = [1 + i for i in range(4)]
    examples = [
        Example(prompt([3, 40 + i]), (Response('', (5,) * length + (EOS,)),))
        for i, length in enumerate(lengths)
    ]
    assert loss_contract.takes_mismatched(functools.partial(_kl))
    _, totals, rows = train(lm, params, examples, _kl, batch=4, epochs=2)
    assert totals['examples'] == 4 and totals['dropped'] == 0
    assert rows[0][1]['loss'] == pytest.approx(0.0, abs=1e-5)
    assert rows[0][1]['mismatched length'] == np.mean(lengths) + 1
    assert rows[1][1]['loss'] < -1e-3  # a lower ratio is a lower loss
    with pytest.raises(ValueError, match='a response to another prompt; none of the 2 examples'):
        train(lm, params, [examples[0]] * 2, _kl)


def test_a_step_without_token_log_probs_carries_none():
    lm, _ = toy()
    (batch,) = packing.batches(docs(4), batch=4, row_length=64)
    assert batch.ref_token_logp is None
    stacked = train_step.stack_micro_batches(batch, 1)
    assert packing.place(lm, stacked).ref_token_logp is None
    assert batch.old_token_logp is None
    assert len(jax.tree.leaves(batch)) == len(packing.Batch._fields) - 2
