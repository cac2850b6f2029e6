"""A step gives the same loss, metrics and gradients however its batch is packed, ordered, compiled,
split or sharded, for each way in which losses ask for something.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
from toy_training import (
    IDENTITY,
    LOSSES,
    assert_same_step,
    every_loss,
    first_state,
    pack,
    reference_of,
    step,
)
from toys import SMALL, assert_close, docs, toy

from selfrew.engine import logprobs, loss_contract, packing, reference, train_step
from selfrew.mesh import sharding
from selfrew.shelves import losses

DPO = functools.partial(losses.dpo, beta=0.5, nll=1.0)


def _named(value) -> str:
    """A loss or another value in a test's name."""
    return value.func.__name__ if isinstance(value, functools.partial) else str(value)


@pytest.fixture(scope='module')
def plain():
    """(eight documents, loss -> StepResult of them in two or three rows on one device)."""
    lm, params = toy()
    documents = docs(8)
    return documents, {loss: step(lm, params, pack(documents)[0], loss) for loss in LOSSES}


@every_loss
def test_padding_changes_nothing(plain, loss):
    documents, results = plain
    (padded,) = pack(documents, row_length=100)
    assert_same_step(step(*toy(), padded, loss), results[loss])


@every_loss
def test_packing_changes_nothing(plain, loss):
    documents, results = plain
    (together,) = pack(documents, row_length=sum(doc.length for doc in documents))
    assert (together.doc > 0).any(axis=1).sum() == 1
    one_per_row = [[[index]] for index in range(8)]  # and one row per part
    apart = packing.pack_rows(documents, one_per_row, batch=8, rows=1, row_length=32, selected=32)
    apart = reference.with_reference(apart, reference_of(documents))
    assert_same_step(step(*toy(), together, loss), results[loss])
    assert_same_step(step(*toy(), apart, loss), results[loss])


@every_loss
def test_the_order_of_examples_changes_nothing(plain, loss):
    documents, results = plain
    (batch,) = pack(documents, rng=np.random.default_rng(4))
    assert batch.index.tolist() != list(range(8))
    assert_same_step(step(*toy(), batch, loss), results[loss])


@pytest.mark.slow
def test_compilation_changes_nothing(plain):
    loss = LOSSES[-1]  # a sum, which asks for what its parts ask for
    documents, results = plain
    with jax.disable_jit():
        eager = step(*toy(), pack(documents)[0], loss)
    assert_same_step(eager, results[loss])


@pytest.mark.parametrize(
    ('loss', 'mesh'),
    [
        *((LOSSES[0], mesh) for mesh in ({'data': 8}, {'fsdp': 8}, {'tensor': 2, 'fsdp': 4})),
        *((loss, {'tensor': 2, 'fsdp': 4}) for loss in LOSSES[1:]),
    ],
    ids=_named,
)
def test_eight_devices_give_what_one_gives(plain, loss, mesh):
    documents, results = plain
    lm, params = toy(**mesh)
    assert_same_step(step(lm, params, pack(documents, lm)[0], loss), results[loss])


@every_loss
def test_examples_that_are_not_real_change_nothing(plain, loss):
    documents, results = plain
    (batch,) = pack(documents, batch=13)
    assert batch.real.sum() == 8
    assert_same_step(step(*toy(), batch, loss), results[loss])


def test_an_example_of_weight_zero_moves_nothing():
    """The mean still counts it: with one more example of weight 0, n·loss and n·gradient stay."""
    documents, (lm, params) = docs(4), toy()
    weightless = docs(5, seed=1)[4]._replace(weight=0.0)
    four = step(lm, params, pack(documents)[0], DPO)
    five = step(lm, params, pack([*documents, weightless])[0], DPO)
    assert five.loss * 5 == pytest.approx(four.loss * 4, rel=1e-5)
    times_five = jax.tree.map(lambda grad: 5 * grad, five.grads)
    assert_close(times_five, jax.tree.map(lambda grad: 4 * grad, four.grads))


def test_a_weight_multiplies_its_examples_loss():
    (lm, params), (doc,) = toy(), docs(1)
    once = step(lm, params, pack([doc._replace(weight=1.0)])[0], DPO)
    thrice = step(lm, params, pack([doc._replace(weight=3.0)])[0], DPO)
    assert thrice.loss == pytest.approx(3 * once.loss, rel=1e-5)
    assert_close(thrice.grads, jax.tree.map(lambda grad: 3 * grad, once.grads))


def _recompiled_toy(**fields):
    """(lm, params) of the toy as another object, for which everything is compiled again."""
    lm, params = toy()
    return dataclasses.replace(lm, module=lm.module.clone(**fields)), params


@every_loss
def test_a_head_in_chunks_changes_nothing(plain, loss, monkeypatch):
    documents, results = plain
    lm, params = _recompiled_toy()
    monkeypatch.setattr(logprobs, 'CHUNK_BYTES', 5 * 4 * SMALL.vocab)
    assert_same_step(step(lm, params, pack(documents)[0], loss), results[loss])


@pytest.mark.parametrize(
    ('loss', 'remat'), list(zip([LOSSES[0], *LOSSES], ['dots', 'full', 'dots', 'full'])), ids=_named
)
def test_rematerialisation_changes_nothing(plain, loss, remat):
    documents, results = plain
    lm, params = _recompiled_toy(remat=remat)
    assert_same_step(step(lm, params, pack(documents)[0], loss), results[loss])


@pytest.mark.parametrize(
    ('loss', 'mesh'),
    list(zip([LOSSES[0], *LOSSES], [{}, {'fsdp': 4}, {}, {'fsdp': 4}])),
    ids=_named,
)
def test_accumulation_changes_nothing(plain, loss, mesh):
    documents, results = plain
    lm, params = toy(**mesh)
    parts = 3 * sharding.row_shards(lm.mesh)
    (batch,) = packing.batches(documents, batch=9, row_length=64, parts=parts)
    batch = train_step.stack_micro_batches(
        reference.with_reference(batch, reference_of(documents)), 3
    )
    assert batch.tokens.ndim == 3 and batch.real.sum(axis=0).tolist() == [1] * 8 + [0]
    assert_same_step(step(lm, params, batch, loss), results[loss])


def _transcendentals(lm, params, batch, loss):
    """Exponentials, logarithms and the like in the compiled step."""
    compiled = train_step.compiled_step(lm, loss, IDENTITY).compiled
    arguments = first_state(params, lm), {'blocks': {}}, batch, 1.0, jax.random.key(0)
    return compiled.lower(*arguments).compile().cost_analysis()['transcendentals']


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sft', 'dpo'])
def test_what_no_loss_asks_for_is_not_computed(name):
    """The entropy takes one exponential and one logarithm more per logit; a step without it has
    none of them.
    """
    loss = functools.partial(getattr(losses, name))
    lm, params = toy()
    (batch,) = pack(docs(4))
    assert loss_contract.requested_fields(loss) == {}
    with_entropy = functools.partial(loss, entropy=True)
    assert loss_contract.requested_fields(with_entropy) == {'entropy': True}
    more = _transcendentals(lm, params, batch, with_entropy)
    assert more - _transcendentals(lm, params, batch, loss) >= batch.mask.size * SMALL.vocab
    metrics = step(lm, params, batch, with_entropy).metrics
    assert 0 < metrics['entropy/chosen'] < math.log(SMALL.vocab)
