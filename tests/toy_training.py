"""Real updates of the toy model (see toys): one step, and a round of them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import assert_close, prompt

from selfrew.engine import packing, reference, train_state, train_step, trainer
from selfrew.mesh import sharding
from selfrew.shelves import losses, optimizers
from selfrew.types import Example, Response, State

IDENTITY = optax.identity()
# An arbitrary reference column.
COLUMN = -np.random.default_rng(9).uniform(5.0, 40.0, (64, 2)).astype(np.float32)
# Options of a loss that change what is computed.
OPTIONS = {
    'dpo': {'beta': 0.5, 'nll': 1.0},
    'sum': {
        'losses': (functools.partial(losses.dpo), functools.partial(losses.cringe, contrast=3)),
        'weights': (1.0, 0.5),
    },
}
# A loss for each way in which losses ask for something; others are functions of the same arrays.
LOSSES = [
    functools.partial(getattr(losses, name), **OPTIONS.get(name, {}))
    for name in ('dpo', 'ld_dpo', 'sum')
]
every_loss = pytest.mark.parametrize('loss', LOSSES, ids=lambda loss: loss.func.__name__)


class StepResult(NamedTuple):
    loss: float
    metrics: dict[str, float]
    grads: Any


def pack(docs, lm=None, batch=None, row_length=64, rng=None):
    """The docs as batches with a reference, on the mesh of `lm`. Default: one batch of all."""
    parts = sharding.row_shards(lm.mesh) if lm else 1
    options = {'batch': batch or len(docs), 'row_length': row_length, 'parts': parts, 'rng': rng}
    batches = packing.batches(docs, **options)
    return [reference.with_reference(batch, reference_of(docs)) for batch in batches]


def reference_of(docs):
    """An arbitrary reference of these docs; its tokens do not add up to COLUMN."""
    rng = np.random.default_rng(8)
    tokens = -rng.uniform(0.5, 3.0, (len(COLUMN), 200)).astype(np.float32)
    return reference.Reference(
        COLUMN, {d.index: tokens[d.index][: d.response_length] for d in docs}
    )


def first_state(params, lm, optimizer=IDENTITY):
    """The state before a first update. The update overwrites `params`."""
    return train_state.begin_round(lm, State(params, None, 0, 0), optimizer)


def step(lm, params, batch, loss) -> StepResult:
    """One real step; the identity as optimiser at rate 1 moves parameters by minus the gradient."""
    state = first_state(jax.tree.map(jnp.copy, params), lm)
    update = train_step.compiled_step(lm, loss, IDENTITY)
    state, metrics = update(state, packing.place(lm, batch), 1.0, jax.random.key(0))
    grads = jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), params, state.params)
    return StepResult(
        float(metrics['loss']), {name: float(value) for name, value in metrics.items()}, grads
    )


def assert_same_step(result: StepResult, expected: StepResult):
    """Two steps agree up to rounding. Metrics are sums of some 40 nats, and their differences."""
    assert_close(result.loss, expected.loss)
    assert_close(result.metrics, expected.metrics)
    assert_close(result.grads, expected.grads, rel=2e-5)
    largest = max(np.abs(grad).max() for grad in jax.tree.leaves(expected.grads))
    assert largest > 1e-3, 'there was nothing to compare'


def leaves(tree):
    """(path, leaf) of each leaf."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in flat]


def pairs(count=8):
    """Pairs of one length, so that any order packs alike: the winner says 10, the loser 20."""
    return [
        Example(
            prompt([3, 4, 40 + index], f'p{index}'),
            (Response(f'10 {30 + index}'), Response(f'20 {30 + index}')),
            (1.0, 0.0),
        )
        for index in range(count)
    ]


def train(lm, params, examples, loss, *, key=0, **options):
    """(state, totals, [(step, metrics)]) of a round from a copy of the parameters."""
    rows = []
    defaults = {'optimizer': optimizers.adamw, 'lr': 1e-2, 'batch': 4, 'row_length': 64}
    state, totals = trainer.train(
        lm,
        State(jax.tree.map(jnp.copy, params), None, 0, 0),
        examples,
        jax.random.key(key),
        loss,
        lambda index, metrics: rows.append((index, metrics)),
        **(defaults | options),
    )
    return state, totals, rows
