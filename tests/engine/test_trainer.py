"""A round of updates learns what its loss says, from every example, once per epoch, and compiles no
program twice.
"""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import leaves, pairs, train
from toys import prompt, toy

from selfrew.engine import packing, trainer
from selfrew.shelves import losses, optimizers
from selfrew.types import Example, Response, State

MESHES = {'one': {}, 'fsdp': {'fsdp': 8}, 'tensor': {'tensor': 2, 'fsdp': 4}}


@contextlib.contextmanager
def _compiled_names():
    """A list that receives the name of each program compiled within."""
    names = []

    def watch(event, _, **about):
        if 'backend_compile' in event:
            names.append(about['fun_name'])

    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)


@pytest.fixture(scope='module', params=MESHES, ids=str)
def two_rounds(request):
    """(lm, first state, metrics, second state, names of what each round compiled) of two rounds of
    DPO on a mesh.
    """
    lm, params = toy(**MESHES[request.param])
    loss = functools.partial(losses.dpo, beta=0.1)
    with _compiled_names() as first_names:
        first, _, rows = train(lm, params, pairs(), loss, key=0)
    with _compiled_names() as second_names:
        second, _, _ = train(lm, first.params, pairs(), loss, key=1)
    return lm, first, rows, second, (first_names, second_names)


@pytest.mark.slow
def test_the_first_update_has_margin_zero_and_loss_ln_two(two_rounds):
    _, _, rows, _, _ = two_rounds
    first, second = rows[0][1], rows[1][1]
    rounding = 1e-5 * abs(first['logps/chosen'])  # a margin is a difference of log-probs
    assert first['rewards/margins'] == pytest.approx(0.0, abs=rounding)
    assert first['dpo'] == first['loss'] == pytest.approx(math.log(2), abs=rounding)
    assert abs(second['rewards/margins']) > rounding


@pytest.mark.slow
def test_two_rounds_compile_one_step(two_rounds):
    _, _, _, _, (first, second) = two_rounds
    assert sum('step' in name for name in first) == 1, first
    assert not second


@pytest.mark.slow
def test_parameters_and_moments_stay_where_the_table_of_shardings_puts_them(two_rounds):
    lm, first, _, second, _ = two_rounds
    shardings = dict(leaves(lm.param_shardings()))
    for state in (first, second):
        params, moments = dict(leaves(state.params)), 0
        for path, moment in leaves(state.opt):
            for name in [name for name in params if path.endswith(name)]:
                assert moment.shape == params[name].shape
                assert moment.sharding.is_equivalent_to(shardings[name], moment.ndim), path
                moments += 1
        assert moments == 2 * len(params)  # Adam's two
        for path, leaf in params.items():
            assert leaf.sharding.is_equivalent_to(shardings[path], leaf.ndim), path


def test_dpo_raises_the_winner_over_the_loser():
    lm, params = toy()
    _, totals, rows = train(lm, params, pairs(), losses.dpo, epochs=8)
    assert totals['steps'] == len(rows) == 16 and [i for i, _ in rows] == list(range(16))
    first, last = rows[0][1], rows[-1][1]
    assert last['rewards/margins'] > 0.5 and last['rewards/accuracies'] == 1.0
    assert last['dpo'] < first['dpo'] / 1.2
    first_gap = first['logps/chosen'] - first['logps/rejected']
    assert last['logps/chosen'] - last['logps/rejected'] > first_gap
    # with the winner's likelihood held up (IRPO's NLL term), it rises in itself
    _, _, rows = train(lm, params, pairs(), functools.partial(losses.dpo, nll=1.0), epochs=8)
    assert rows[-1][1]['logps/chosen'] > rows[0][1]['logps/chosen']


def _winners(count=8):
    """Examples of one response each."""
    return [Example(pair.prompt, pair.responses[:1]) for pair in pairs(count)]


def test_sft_learns_its_responses():
    lm, params = toy()
    _, _, rows = train(lm, params, _winners(), losses.sft, epochs=8)
    assert rows[-1][1]['nll'] < rows[0][1]['nll'] - 0.5


def test_a_round_leaves_no_second_copy_of_the_parameters():
    lm, params = toy()
    spent = jax.tree.map(jnp.copy, params)
    trainer.train(
        lm,
        State(spent, None, 0, 0),
        pairs(4),
        jax.random.key(0),
        losses.sft,
        lambda *_: None,
        optimizer=optimizers.adamw,
        lr=1e-2,
        batch=4,
        row_length=64,
    )
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(spent))


def test_training_again_gives_the_same_bits():
    lm, params = toy()
    first, _, _ = train(lm, params, pairs(), losses.dpo)
    again, _, _ = train(lm, params, pairs(), losses.dpo)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


def _watch_batches(monkeypatch, watch):
    """Calls watch(batch) for each batch that is put on the mesh."""
    place = packing.place

    def watched(lm, batch):
        watch(batch)
        return place(lm, batch)

    monkeypatch.setattr(packing, 'place', watched)


def test_every_epoch_sees_every_example_once(monkeypatch):
    seen = []
    lm, params = toy()
    _watch_batches(monkeypatch, lambda batch: seen.append(batch.index[batch.real > 0].tolist()))
    # no reference pass: each call is an update
    train(lm, params, _winners(6), losses.sft, epochs=2)
    assert sorted(sum(seen[:2], [])) == sorted(sum(seen[2:], [])) == list(range(6))
    assert seen[:2] != seen[2:]


def _random_pairs(count, rng):
    """Pairs whose prompts and responses have 2 to 14 tokens."""

    def response():
        return Response(' '.join(['9'] * rng.integers(2, 15)))

    return [
        Example(prompt([5] * rng.integers(2, 15)), (response(), response())) for _ in range(count)
    ]


@pytest.mark.slow
def test_rounds_of_different_sizes_compile_a_program_for_each_shape_only(monkeypatch):
    """Six rounds of 20 to 25 examples of random lengths: two numbers of rows, two of selected
    tokens.
    """
    lm, params = toy()
    loss, shapes = functools.partial(losses.dpo, beta=0.3), set()
    _watch_batches(monkeypatch, lambda batch: shapes.add((batch.tokens.shape, batch.target.shape)))
    with _compiled_names() as names:
        for round in range(6):
            examples = _random_pairs(20 + round, np.random.default_rng(round))
            train(lm, params, examples, loss, key=round, batch=8, epochs=2)
    assert len(shapes) < 4
    assert sum('step' in name for name in names) <= len(shapes)
    assert sum('response_logp' in name for name in names) <= len(shapes)


def test_train_says_what_is_wrong():
    lm, params = toy()
    no_schedule = r"no schedule 'step'; there are: constant, linear, cosine, wsd"
    with pytest.raises(ValueError, match=no_schedule):
        train(lm, params, pairs(), losses.dpo, schedule='step')
    with pytest.raises(ValueError, match=r'8 came, 8 of them empty or longer than row_length=5'):
        train(lm, params, pairs(), losses.dpo, row_length=5)
    with pytest.raises(ValueError, match=r'0 came'):
        train(lm, params, [], losses.dpo)
    with pytest.raises(ValueError, match=r'wants 2 responses an example, got 1'):
        train(lm, params, _winners(), losses.dpo)
    with pytest.raises(ValueError, match='responses: example 8 has 1, example 0 has 2'):
        train(lm, params, [*pairs(), Example(prompt([5]), (Response('6'),))], losses.dpo)


@pytest.mark.parametrize(
    'options', [{'max_steps': 0}, {'epochs': 0}, {'batch': 0}, {'accumulate': 0}], ids=str
)
def test_training_for_no_step_is_refused_by_name(options):
    lm, params = toy()
    with pytest.raises(ValueError, match=next(iter(options))):
        train(lm, params, pairs(), losses.dpo, **options)
