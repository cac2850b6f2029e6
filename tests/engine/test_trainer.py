"""The update sees what it should and nothing else: same numbers however it is packed, ordered,
compiled or sharded.
"""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import EOS, SMALL, docs, prompt, toy

from selfrew.engine import (
    logprobs,
    loss_contract,
    packing,
    reference,
    schedules,
    train_state,
    trainer,
)
from selfrew.mesh import sharding
from selfrew.run import binding
from selfrew.shelves import losses, optimizers
from selfrew.types import Example, Response, State, ask

DPO = functools.partial(losses.dpo, beta=0.5, nll=1.0)
IDENTITY = optax.identity()
TABLE = (
    -np.random.default_rng(9).uniform(5.0, 40.0, (64, 2)).astype(np.float32)
)  # a reference of any kind


def _pack(given, lm=None, batch=None, row_length=64, rng=None):
    shards = sharding.row_shards(lm.mesh) if lm else 1
    found = packing.batches(
        given, batch=batch or len(given), row_length=row_length, parts=shards, rng=rng
    )
    return [reference.with_reference(b, TABLE) for b in found]


def _step(lm, params, batch, loss):
    """(loss, metrics, gradients) of one real step: the identity as optimiser at rate 1 moves by
    minus the gradient.
    """
    state = train_state.begin_round(lm, State(jax.tree.map(jnp.copy, params), None, 0, 0), IDENTITY)
    state, metrics = trainer.compiled_step(lm, loss, IDENTITY)(
        state, packing.place(lm, batch), 1.0, jax.random.key(0)
    )
    grads = jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), params, state.params)
    return float(metrics['loss']), {k: float(v) for k, v in metrics.items()}, grads


def _assert_same(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1] == pytest.approx(other[1], abs=1e-4)  # metrics, sums of up to 40 nats among them
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one[2], other[2])
    assert (
        max(np.abs(g).max() for g in jax.tree.leaves(one[2])) > 1e-3
    )  # there was something to compare


@pytest.fixture(scope='module')
def plain():
    """Eight documents, and for each loss what a step on them gives, packed in two or three rows on
    one device.
    """
    lm, params = toy()
    given = docs(8)
    return given, {loss: _step(lm, params, _pack(given)[0], loss) for loss in LOSSES}


def _all():
    """Every loss on the shelf, with its options that change what is computed; new ones stand here
    by themselves.
    """
    options = {'dpo': {'beta': 0.5, 'nll': 1.0}}
    return [
        functools.partial(getattr(losses, n), **options.get(n, {}))
        for n in binding.part_names('loss', losses)
    ]


LOSSES = _all()
both = pytest.mark.parametrize('loss', LOSSES, ids=lambda loss: loss.func.__name__)


@both
def test_padding_changes_nothing(plain, loss):
    given, results = plain
    _assert_same(_step(*toy(), _pack(given, row_length=100)[0], loss), results[loss])


@both
def test_packing_changes_nothing(plain, loss):
    given, results = plain
    (together,) = _pack(given, row_length=sum(map(packing._length, given)))
    assert (together.doc > 0).any(axis=1).sum() == 1
    apart = packing._pack(
        given, [[[i]] for i in range(8)], 8, 1, 32, 32
    )  # a row and a part each, by hand
    apart = reference.with_reference(apart, TABLE)
    _assert_same(_step(*toy(), together, loss), results[loss])
    _assert_same(_step(*toy(), apart, loss), results[loss])


@both
def test_the_order_of_examples_changes_nothing(plain, loss):
    given, results = plain
    (batch,) = _pack(given, rng=np.random.default_rng(4))
    assert batch.index.tolist() != list(range(8))
    _assert_same(_step(*toy(), batch, loss), results[loss])


@pytest.mark.slow
@both
def test_compilation_changes_nothing(plain, loss):
    given, results = plain
    with jax.disable_jit():
        eager = _step(*toy(), _pack(given)[0], loss)
    _assert_same(eager, results[loss])


@both
@pytest.mark.parametrize('mesh', [{'data': 8}, {'fsdp': 8}, {'tensor': 2, 'fsdp': 4}], ids=str)
def test_eight_devices_give_what_one_gives(plain, loss, mesh):
    given, results = plain
    lm, params = toy(**mesh)
    _assert_same(_step(lm, params, _pack(given, lm)[0], loss), results[loss])


@both
def test_filling_changes_nothing(plain, loss):
    given, results = plain
    (batch,) = _pack(given, batch=13)
    assert batch.real.sum() == 8
    _assert_same(_step(*toy(), batch, loss), results[loss])


def test_an_example_of_weight_zero_moves_nothing():
    """The mean still counts it: with one more example of weight 0, n·loss and n·gradient stay."""
    given, (lm, params) = docs(4), toy()
    one = _step(lm, params, _pack(given)[0], DPO)
    more = _step(lm, params, _pack([*given, docs(5, seed=1)[4]._replace(weight=0.0)])[0], DPO)
    assert more[0] * 5 == pytest.approx(one[0] * 4, abs=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(5 * a, 4 * b, atol=1e-4), more[2], one[2])


def test_a_weight_multiplies_its_examples_loss():
    (lm, params), (doc,) = toy(), docs(1)
    one, three = (_step(lm, params, _pack([doc._replace(weight=w)])[0], DPO) for w in (1.0, 3.0))
    assert three[0] == pytest.approx(3 * one[0], rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 3 * b, atol=1e-5), three[2], one[2])


@pytest.mark.parametrize('chunk', [1, 7, 10])
def test_logp_in_chunks_is_that_of_the_whole(monkeypatch, chunk):
    lm, params = toy()
    hidden = jax.random.normal(jax.random.key(1), (3, 10, SMALL.width))
    target = jax.random.randint(jax.random.key(2), (3, 10), 0, SMALL.vocab)
    monkeypatch.setattr(
        logprobs, 'CHUNK', chunk * 4 * SMALL.vocab
    )  # so many tokens of a part at a time
    of = lambda p, h: logprobs.measure(lm.module, p, h, target)['logp']
    value, grads = jax.value_and_grad(lambda p, h: of(p, h).sum(), (0, 1))(params, hidden)
    logp = jax.nn.log_softmax(hidden @ params['head'])  # the definition, [3 10 64] whole
    np.testing.assert_allclose(
        of(params, hidden), jnp.take_along_axis(logp, target[..., None], -1)[..., 0], atol=1e-5
    )

    def whole(p, h):
        return jnp.take_along_axis(jax.nn.log_softmax(h @ p['head']), target[..., None], -1).sum()

    expected, expected_grads = jax.value_and_grad(whole, (0, 1))(params, hidden)
    assert float(value) == pytest.approx(float(expected), abs=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, expected_grads)


@both
def test_a_head_in_chunks_changes_nothing(plain, loss, monkeypatch):
    given, results = plain
    lm, params = _again()
    monkeypatch.setattr(logprobs, 'CHUNK', 5 * 4 * SMALL.vocab)
    _assert_same(_step(lm, params, _pack(given)[0], loss), results[loss])


@both
@pytest.mark.parametrize('remat', ['full', 'dots'])
def test_what_is_computed_again_changes_nothing(plain, loss, remat):
    given, results = plain
    lm, params = _again(remat=remat)
    _assert_same(_step(lm, params, _pack(given)[0], loss), results[loss])


@both
@pytest.mark.parametrize('mesh', [{}, {'fsdp': 4}], ids=str)
def test_accumulation_changes_nothing(plain, loss, mesh):
    given, results = plain
    lm, params = toy(**mesh)
    (batch,) = packing.batches(
        given, batch=9, row_length=64, parts=3 * sharding.row_shards(lm.mesh)
    )
    batch = trainer.stack_micro_batches(reference.with_reference(batch, TABLE), 3)
    assert batch.tokens.ndim == 3 and batch.real.sum(axis=0).tolist() == [1] * 8 + [0]
    _assert_same(_step(lm, params, batch, loss), results[loss])


def _again(**fields):
    """The toy as another object, for which everything is compiled again."""
    lm, params = toy()
    return dataclasses.replace(lm, module=lm.module.clone(**fields)), params


# --- what a loss may ask for ------------------------------------------------------------------------------------------

KEYS = jax.random.split(jax.random.key(3), (2, 10))
EXPECT = {'expect': True}
WANTS = {
    'entropy': {'entropy': True},
    'contrast': {'contrast': 4},
    'expect': EXPECT,
    'value': EXPECT,
}


def _by_hand(name, params, hidden, target):
    """[2 10] from all logits at once; of the contrast, for each token that could have been drawn:
    [2 10 V].
    """
    logits = hidden @ params['head']
    p = jax.nn.softmax(logits, axis=-1)
    own = lambda x: jnp.take_along_axis(x, target[..., None], axis=-1)
    if name == 'entropy':
        return -jnp.sum(p * jnp.log(p), axis=-1)
    if name == 'contrast':
        return -jnp.log(jax.nn.sigmoid(logits - own(logits)))
    values = hidden @ params['value']
    return jnp.sum(p * values, axis=-1) if name == 'expect' else own(values)[..., 0]


@pytest.mark.parametrize('chunk', [3, 10])
@pytest.mark.parametrize('name', WANTS)
def test_what_is_wanted_is_that_of_all_logits_at_once(monkeypatch, name, chunk):
    monkeypatch.setattr(logprobs, 'CHUNK', chunk * 4 * SMALL.vocab)
    lm, params = toy()
    params = params | {'value': jax.random.normal(jax.random.key(4), params['head'].shape)}
    hidden = 3 * jax.random.normal(jax.random.key(1), (2, 10, SMALL.width))
    target = jax.random.randint(jax.random.key(2), (2, 10), 0, SMALL.vocab)

    def found(params, hidden):
        return logprobs.measure(lm.module, params, hidden, target, key_PS=KEYS, **WANTS[name])[name]

    value, back = jax.vjp(jax.jit(found), params, hidden)
    expected, expected_back = jax.vjp(
        functools.partial(_by_hand, name, target=target), params, hidden
    )
    slope = jax.random.normal(jax.random.key(5), (2, 10))
    if (
        name == 'contrast'
    ):  # which was drawn: one of the four largest but the target, by what its contrast is
        own = np.arange(SMALL.vocab) == np.asarray(target)[..., None]
        order = np.argsort(np.where(own, np.inf, -np.asarray(hidden @ params['head'])))
        order = order[..., :4]
        off = np.abs(
            np.take_along_axis(np.asarray(expected), order, -1) - np.asarray(value)[..., None]
        )
        assert (off.min(axis=-1) < 1e-5).all() and len(
            set(off.argmin(axis=-1).ravel().tolist())
        ) > 1
        drawn = np.take_along_axis(order, off.argmin(axis=-1)[..., None], -1) == np.arange(
            SMALL.vocab
        )
        expected, slopes = (
            jnp.sum(jnp.where(drawn, expected, 0.0), axis=-1),
            jnp.where(drawn, slope[..., None], 0.0),
        )
    else:
        slopes = slope
    np.testing.assert_allclose(value, expected, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), back(slope), expected_back(slopes)
    )


def test_a_contrast_is_drawn_as_the_softmax_of_the_largest_says():
    logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))[None].repeat(
        4000, 0
    )  # the target 0 is out, 3 too small
    keys = jax.random.split(jax.random.key(0), 4000)
    found = np.asarray(logprobs.contrast(logits, jnp.zeros(4000, jnp.int32), keys, 2))
    share = np.isclose(found, np.log1p(0.4 / 0.3))  # −log σ(log 0.3 − log 0.4)
    assert np.isclose(found, np.log1p(0.4 / 0.2))[~share].all()
    assert share.mean() == pytest.approx(
        0.6, abs=0.03
    )  # 0.3 / (0.3 + 0.2), within four standard deviations


def test_a_draw_is_the_tokens_own_wherever_it_stands():
    (lm, params), given = toy(), docs(6)
    of = jax.jit(
        lambda batch: (
            logprobs.forward(lm.module, params, batch, jax.random.key(7), contrast=5).contrast
        )
    )
    (one,) = packing.batches(given, batch=6, row_length=64)
    (other,) = packing.batches(
        given, batch=6, row_length=128, parts=2, rng=np.random.default_rng(1)
    )
    np.testing.assert_allclose(of(other)[np.argsort(other.index)], of(one), atol=1e-4)


@both
def test_what_no_loss_asks_for_is_not_computed(loss):
    """The entropy takes an exponential and a logarithm a logit more: unasked, the program has none
    of them.
    """
    lm, params = toy()
    (batch,) = _pack(docs(4))
    cost = lambda loss: (
        trainer.compiled_step(lm, loss, IDENTITY)
        .compiled.lower(
            train_state.begin_round(lm, State(params, None, 0, 0), IDENTITY),
            {'blocks': {}},
            batch,
            1.0,
            jax.random.key(0),
        )
        .compile()
        .cost_analysis()['transcendentals']
    )
    assert loss_contract.requested_fields(loss) == {} and loss_contract.requested_fields(
        functools.partial(loss, entropy=True)
    ) == {'entropy': True}
    asked = functools.partial(loss.func, **loss.keywords, entropy=True)
    assert cost(asked) - cost(loss) >= batch.mask.size * SMALL.vocab
    metrics = _step(lm, params, batch, asked)[1]
    assert 0 < metrics['entropy/chosen'] < math.log(SMALL.vocab)


@pytest.mark.parametrize('mesh', [{}, {'fsdp': 8}, {'fsdp': 4, 'tensor': 2}], ids=str)
def test_no_logits_larger_than_a_chunk_exist(monkeypatch, mesh):
    """Of all arrays with an axis of V in the compiled update, none has more than a chunk's tokens
    beside it.
    """
    config = dataclasses.replace(SMALL, vocab=1504, width=8)
    lm, params = toy(config, **mesh)
    shards, vocab = lm.mesh.shape['tensor'], 1504
    (batch,) = _pack(docs(32, low=6, high=12), lm)
    chunk = max(batch.mask.shape[1] // 5, 1)
    monkeypatch.setattr(logprobs, 'CHUNK', chunk * 4 * vocab // shards)
    state = train_state.begin_round(lm, State(params, None, 0, 0), IDENTITY)
    compiled = (
        trainer.compiled_step(lm, losses.dpo, IDENTITY)
        .compiled.lower(state, {'blocks': {}}, packing.place(lm, batch), 1.0, jax.random.key(0))
        .compile()
    )
    sizes = [
        math.prod(map(int, shape.split(',')))
        for shape in re.findall(r'f32\[([\d,]+)\]', compiled.as_text())
        if str(vocab // shards) in shape.split(',') or str(vocab) in shape.split(',')
    ]
    assert (
        chunk > config.width and vocab * config.width <= max(sizes) <= chunk * vocab
    )  # the head itself is [8 V]
    assert (
        batch.mask.shape[1] * vocab // shards > 2 * chunk * vocab
    )  # and all logits of a device would be more


# --- what a token sees ------------------------------------------------------------------------------------------------


def test_a_response_beside_a_sibling_has_the_logp_it_has_alone():
    (lm, params), given = toy(), docs(6, n=2)
    both = reference.reference_logp(lm, params, packing.batches(given, batch=6, row_length=64))
    for n in range(2):
        alone = [d._replace(responses=(d.responses[n],)) for d in given]
        column = reference.reference_logp(
            lm, params, packing.batches(alone, batch=1, row_length=64)
        )
        np.testing.assert_allclose(both[:, n], column[:, 0], atol=1e-5)


def test_logp_and_length_are_the_definitions():
    """Summed over the response, log softmax of the token before it, in a plain causal pass over
    prompt + response.
    """
    (lm, params), (doc,) = toy(), docs(1)
    (batch,) = packing.batches([doc], batch=1, row_length=32)
    out = jax.jit(logprobs.forward, static_argnums=0)(lm.module, params, batch)
    for n, response in enumerate(doc.responses):
        tokens = jnp.array([doc.prompt + response])
        length = tokens.shape[1]
        hidden, _ = lm.module.apply(
            {'params': params},
            tokens,
            jnp.arange(length)[None],
            jnp.tril(jnp.ones((1, length, length), bool)),
        )
        logp = jax.nn.log_softmax(hidden[0] @ params['head'])
        first = len(doc.prompt)
        expected = sum(logp[first - 1 + i, token] for i, token in enumerate(response))
        assert out.logp[0, n] == pytest.approx(float(expected), abs=1e-4)
        assert out.length[0, n] == len(response)


def test_no_gradient_comes_from_the_future_a_sibling_or_another_document():
    """All tokens of the row are different, so a row of the embedding's gradient is one token's
    share.
    """
    lm, params = toy()
    ids = iter(range(3, 64))
    take = lambda k: tuple(next(ids) for _ in range(k))
    given = [packing.Doc(i, take(4), (take(5), take(6)), 1.0) for i in range(3)]
    (batch,) = packing.batches(given, batch=3, row_length=60)
    assert (batch.doc > 0).any(axis=1).sum() == 1
    logp_of = lambda embed: logprobs.forward(lm.module, params | {'embed': embed}, batch).logp
    grads = np.asarray(jax.jit(jax.jacrev(logp_of))(params['embed']))  # [B N V D]
    for i, doc in enumerate(given):
        for n, response in enumerate(doc.responses):
            seen = set(np.flatnonzero(np.abs(grads[i, n]).max(axis=1)).tolist())
            assert seen == {*doc.prompt, *response[:-1]}  # nothing follows a response's last token


def test_a_tokens_logp_does_not_look_at_later_ones():
    lm, params = toy()
    response = (5, 6, 7, 8, 9)
    (batch,) = packing.batches(
        [packing.Doc(0, (1, 10, 11), (response,), 1.0)], batch=1, row_length=16
    )
    logp = jax.jit(lambda b: logprobs.forward(lm.module, params, b).logp[0, 0])
    for cut in range(1, 5):
        first = batch._replace(
            mask=batch.mask * (np.arange(batch.mask.shape[1]) < cut)[None, :].astype(np.float32)
        )
        later = first._replace(tokens=np.where(batch.position >= 3 + cut, 50, batch.tokens))
        assert (later.tokens != first.tokens).sum() >= 5 - cut and float(logp(first)) == float(
            logp(later)
        ) != 0.0


def test_other_tokens_in_siblings_and_neighbours_leave_a_logp_bit_for_bit():
    lm, params = toy()
    (batch,) = packing.batches(docs(3), batch=3, row_length=64)
    before = np.asarray(reference.response_logp(lm.module, params, batch))
    for doc, branch in ((1, 2), (2, 1), (3, 0)):
        where = (batch.doc == doc) & (batch.branch == branch)
        changed = batch._replace(
            tokens=np.where(where, (batch.tokens + 17) % SMALL.vocab, batch.tokens)
        )
        after = np.asarray(reference.response_logp(lm.module, params, changed))
        mine = np.zeros_like(before, bool)
        mine[doc - 1, slice(None) if branch == 0 else branch - 1] = True
        np.testing.assert_array_equal(after[~mine], before[~mine])
        assert (after[mine] != before[mine]).all()


def _leaves(tree):
    return [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


# --- a round of updates -----------------------------------------------------------------------------------------------


def _examples(count=8):
    """Pairs of one length, so that any order packs alike: the winner says 10, the loser 20."""
    one = lambda i, word: Response(f'{word} {30 + i}')
    return [
        Example(prompt([3, 4, 40 + i], f'p{i}'), (one(i, 10), one(i, 20)), (1.0, 0.0))
        for i in range(count)
    ]


def _train(lm, params, examples, loss, *, key=0, **options):
    rows = []
    state, totals = trainer.train(
        lm,
        State(jax.tree.map(jnp.copy, params), None, 0, 0),
        examples,
        jax.random.key(key),
        loss,
        lambda i, m: rows.append((i, m)),
        **({'optimizer': optimizers.adamw, 'lr': 1e-2, 'batch': 4, 'row_length': 64} | options),
    )
    return state, totals, rows


MESHES = {'one': {}, 'fsdp': {'fsdp': 8}, 'tensor': {'tensor': 2, 'fsdp': 4}}


@pytest.fixture(scope='module', params=MESHES, ids=str)
def two_rounds(request):
    """(lm, first state, metrics, second state, names of what each round compiled) of two rounds of
    DPO on a mesh.
    """
    lm, params = toy(**MESHES[request.param])
    loss, compiled = functools.partial(losses.dpo, beta=0.1), ([], [])

    def one(params, key, names):
        def watch(event, _, **about):
            if 'backend_compile' in event:
                names.append(about['fun_name'])

        jax.monitoring.register_event_duration_secs_listener(watch)
        try:
            return _train(lm, params, _examples(), loss, key=key)
        finally:
            jax.monitoring.unregister_event_duration_listener(watch)

    first, _, rows = one(params, 0, compiled[0])
    second, _, _ = one(first.params, 1, compiled[1])
    return lm, first, rows, second, compiled


@pytest.mark.slow
def test_the_first_update_has_margin_zero_and_loss_ln_two(two_rounds):
    _, _, rows, _, _ = two_rounds
    assert rows[0][1]['rewards/margins'] == pytest.approx(0.0, abs=1e-5)
    assert rows[0][1]['dpo'] == rows[0][1]['loss'] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[1][1]['rewards/margins'] != 0.0


@pytest.mark.slow
def test_two_rounds_compile_one_step(two_rounds):
    _, _, _, _, (first, second) = two_rounds
    assert sum('step' in name for name in first) == 1, first
    assert not second


@pytest.mark.slow
def test_parameters_and_moments_stay_where_the_table_of_shardings_puts_them(two_rounds):
    lm, first, _, second, _ = two_rounds
    wanted = dict(_leaves(lm.param_shardings()))
    for state in (first, second):
        of_path, moments = dict(_leaves(state.params)), 0
        for path, leaf in _leaves(state.opt):
            for name, param in of_path.items():
                if path.endswith(name):
                    assert leaf.shape == param.shape and leaf.sharding.is_equivalent_to(
                        wanted[name], leaf.ndim
                    ), path
                    moments += 1
        assert moments == 2 * len(of_path)  # Adam's two
        for path, leaf in of_path.items():
            assert leaf.sharding.is_equivalent_to(wanted[path], leaf.ndim), path


def test_dpo_raises_the_winner_over_the_loser():
    lm, params = toy()
    _, totals, rows = _train(lm, params, _examples(), losses.dpo, epochs=8)
    assert totals['steps'] == len(rows) == 16 and [i for i, _ in rows] == list(range(16))
    first, last = rows[0][1], rows[-1][1]
    assert (
        last['rewards/margins'] > 0.5
        and last['rewards/accuracies'] == 1.0
        and last['dpo'] < first['dpo'] / 1.2
    )
    gap = lambda m: m['logps/chosen'] - m['logps/rejected']
    assert gap(last) > gap(first)
    # with the winner's likelihood held up (IRPO's NLL term), it rises in itself
    _, _, rows = _train(lm, params, _examples(), functools.partial(losses.dpo, nll=1.0), epochs=8)
    assert rows[-1][1]['logps/chosen'] > rows[0][1]['logps/chosen']


def test_sft_learns_its_responses():
    lm, params = toy()
    examples = [Example(e.prompt, e.responses[:1]) for e in _examples()]
    _, _, rows = _train(lm, params, examples, losses.sft, epochs=8)
    assert rows[-1][1]['nll'] < rows[0][1]['nll'] - 0.5


def test_a_round_leaves_no_second_copy_of_the_parameters():
    lm, params = toy()
    given = jax.tree.map(jnp.copy, params)
    trainer.train(
        lm,
        State(given, None, 0, 0),
        _examples(4),
        jax.random.key(0),
        losses.sft,
        lambda *_: None,
        optimizer=optimizers.adamw,
        lr=1e-2,
        batch=4,
        row_length=64,
    )
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))


def test_training_again_gives_the_same_bits():
    lm, params = toy()
    one, other = (_train(lm, params, _examples(), losses.dpo)[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_every_epoch_sees_every_example_once():
    seen = []
    lm, params = toy()
    place = packing.place

    def watched(lm, batch):
        seen.append(batch.index[batch.real > 0].tolist())
        return place(lm, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, 'place', watched)
        examples = [Example(e.prompt, e.responses[:1]) for e in _examples(6)]
        _train(
            lm, params, examples, losses.sft, epochs=2
        )  # no reference pass: each call is an update
    assert sorted(sum(seen[:2], [])) == sorted(sum(seen[2:], [])) == list(range(6))
    assert seen[:2] != seen[2:]


def test_the_gap_is_that_of_the_samplers_logp():
    """Three tokens of logp −6 to the sampler; the trainer's own by a plain pass: the gap is their
    difference / 3.
    """
    lm, params = toy()
    sampled = Response('', (5, 6, EOS), 'stop', -6.0)
    example = Example(prompt([7, 8]), (sampled,))
    found, _ = packing.tokenise(lm.text, [example], row_length=64)
    mine = reference.reference_logp(lm, params, packing.batches(found, batch=1, row_length=64))[
        0, 0
    ]
    _, totals, _ = _train(lm, params, [example], losses.sft)
    assert totals['gap'] == totals['gap_max'] == pytest.approx(abs(mine + 6.0) / 3, abs=1e-5)
    assert totals['tokens'] == 3 and totals['examples'] == 1 and totals['dropped'] == 0


def _sampled(lm, params, count=6, off=0.0):
    """Examples with the trainer's own log-probabilities as the sampler's, but for `off` nats a
    token.
    """
    examples = [
        dataclasses.replace(
            e,
            responses=tuple(
                Response('', (*map(int, r.text.split()), EOS), 'stop', 0.0) for r in e.responses
            ),
        )
        for e in _examples(count)
    ]
    found, _ = packing.tokenise(lm.text, examples, row_length=64)
    table = reference.reference_logp(lm, params, packing.batches(found, batch=count, row_length=64))
    return [
        dataclasses.replace(
            e,
            responses=tuple(
                dataclasses.replace(r, logp=float(logp) + off * len(r.tokens))
                for r, logp in zip(e.responses, row)
            ),
        )
        for e, row in zip(examples, table)
    ]


def test_the_samplers_logp_serve_as_the_reference_without_a_pass_over_all(monkeypatch):
    lm, params = toy()
    examples, passes = _sampled(lm, params), []
    reference_logp = reference.reference_logp
    monkeypatch.setattr(
        reference, 'reference_logp', lambda *a: passes.append(len(a[2])) or reference_logp(*a)
    )
    exact, _, rows = _train(lm, params, examples, losses.dpo, batch=2, lr=1e-3)
    ours, totals, found = _train(
        lm, params, examples, losses.dpo, batch=2, lr=1e-3, reference='sampler'
    )
    assert passes == [3, 1] and totals['gap'] < 1e-5  # three batches, and the first
    assert [m['loss'] for _, m in found] == pytest.approx([m['loss'] for _, m in rows], abs=1e-5)


def test_the_base_as_the_reference_is_the_model_of_the_folder(tiny):
    """From changed parameters: rewards of the first update are β times the distance of each
    response from the base.
    """
    lm, params = tiny
    now = jax.tree.map(lambda x: x * 1.02, params)
    examples = [
        Example(ask(f'p{i}', text), (Response('7, 8'), Response('9')))
        for i, text in enumerate(('Hi', 'Give 2'))
    ]
    docs, _ = packing.tokenise(lm.text, examples, row_length=64)
    of = lambda params: reference.reference_logp(
        lm, params, packing.batches(docs, batch=2, row_length=64)
    )
    moved = (of(now) - of(params)).mean(axis=0)
    loss = functools.partial(losses.dpo, beta=0.3)
    _, _, rows = _train(lm, now, examples, loss, batch=2, reference='base')
    assert [rows[0][1]['rewards/chosen'], rows[0][1]['rewards/rejected']] == pytest.approx(
        0.3 * moved, rel=1e-4
    )
    assert min(abs(moved)) > 0.1


def test_a_sampler_that_is_not_the_trainer_is_no_reference():
    lm, params = toy()
    off, train = (
        _sampled(lm, params, off=0.25),
        functools.partial(_train, lm, params, reference='sampler'),
    )
    with pytest.raises(
        ValueError,
        match=r'differ by 0\.25 nats a token in the mean, 0\.25 at most, and max_gap=0\.2;',
    ):
        train(off, losses.dpo, max_gap=0.2)
    _, totals, _ = train(off, losses.dpo, max_gap=0.3)
    assert [totals['gap'], totals['gap_max']] == pytest.approx([0.25, 0.25], abs=1e-5)
    with pytest.raises(
        ValueError, match=r'examples \[0, 1, 2, 3, 4\] have no log-probability .* 6 examples in all'
    ):
        train(_examples(6), losses.dpo)
    with pytest.raises(ValueError, match="no reference 'policy'; there are: exact, sampler, base"):
        _train(lm, params, off, losses.dpo, reference='policy')


def test_rounds_of_different_sizes_compile_a_program_for_each_shape_only():
    """Six rounds of 20 to 25 examples of random lengths: two numbers of rows, two of selected
    tokens.
    """
    lm, params = toy()
    loss, names, shapes = functools.partial(losses.dpo, beta=0.3), [], set()
    place = packing.place
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            packing,
            'place',
            lambda *a: shapes.add((a[1].tokens.shape, a[1].target.shape)) or place(*a),
        )

        def watch(event, _, **about):
            names.extend([about['fun_name']] if 'backend_compile' in event else [])

        jax.monitoring.register_event_duration_secs_listener(watch)
        try:
            for i in range(6):
                rng = np.random.default_rng(i)
                say = lambda: Response(' '.join(['9'] * rng.integers(2, 15)))
                examples = [
                    Example(prompt([5] * rng.integers(2, 15)), (say(), say()))
                    for _ in range(20 + i)
                ]
                _train(lm, params, examples, loss, key=i, batch=8, epochs=2)
        finally:
            jax.monitoring.unregister_event_duration_listener(watch)
    assert len(shapes) < 4
    assert sum('step' in n for n in names) <= len(shapes) and sum(
        'response_logp' in n for n in names
    ) <= len(shapes)


def test_train_says_what_is_wrong():
    lm, params = toy()
    with pytest.raises(
        ValueError, match=r"no schedule 'step'; there are: constant, linear, cosine, wsd"
    ):
        _train(lm, params, _examples(), losses.dpo, schedule='step')
    with pytest.raises(ValueError, match=r'8 came, 8 of them empty or longer than row_length=5'):
        _train(lm, params, _examples(), losses.dpo, row_length=5)
    with pytest.raises(ValueError, match=r'0 came'):
        _train(lm, params, [], losses.dpo)
    with pytest.raises(ValueError, match=r'wants 2 responses an example, got 1'):
        _train(lm, params, [Example(e.prompt, e.responses[:1]) for e in _examples()], losses.dpo)
    with pytest.raises(ValueError, match=r'differ in responses: \[1, 2\]'):
        _train(lm, params, [*_examples(), Example(prompt([5]), (Response('6'),))], losses.dpo)


@pytest.mark.parametrize(
    'options', [{'max_steps': 0}, {'epochs': 0}, {'batch': 0}, {'accumulate': 0}], ids=str
)
def test_training_for_no_step_is_refused_by_name(options):
    lm, params = toy()
    with pytest.raises(ValueError, match=next(iter(options))):
        _train(lm, params, _examples(), losses.dpo, **options)


# --- optimisers -------------------------------------------------------------------------------------------------------


SHELF = {name: getattr(optimizers, name) for name in binding.part_names('optimizer', optimizers)}
MOMENTS = {
    'adamw': 2,
    'rmsprop': 1,
    'lion': 1,
    'sgd': 0,
    'adafactor': 1,
}  # arrays of each parameter's shape


@pytest.mark.parametrize('name', SHELF)
def test_moments_begin_where_their_parameters_lie(name):
    lm, params = toy(tensor=2, fsdp=4)
    state, wanted = (
        train_state.begin_round(
            lm, State(params, None, 0, 0), train_state.cached_optimizer(SHELF[name])
        ),
        dict(_leaves(lm.param_shardings())),
    )
    shapes = {path: x.shape for path, x in _leaves(params)}
    like = [
        name
        for path, leaf in _leaves(state.opt)
        for name, where in wanted.items()
        if path.endswith(name)
        and leaf.shape == shapes[name]
        and leaf.sharding.is_equivalent_to(where, leaf.ndim)
    ]
    assert sorted(like) == sorted([*wanted] * MOMENTS[name])


@pytest.mark.parametrize('name', SHELF)
def test_every_optimiser_learns(name):
    lm, params = toy(fsdp=2)
    lr = {'sgd': 0.3, 'adafactor': 3e-3, 'lion': 1e-3}.get(name, 5e-3)
    optimizer = functools.partial(SHELF[name], weight_decay=1e-4)
    _, _, rows = _train(lm, params, _examples(), losses.dpo, optimizer=optimizer, epochs=4, lr=lr)
    assert rows[-1][1]['dpo'] < rows[0][1]['dpo'] - 0.03


def test_first_directions_by_hand():
    """Of gradients (3, 4) clipped to norm 1, so (0.6, 0.8), at parameters (1, 2)."""
    gradient, at = jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0])

    def first(name, **options):
        made = SHELF[name](clip=1.0, **options)
        return np.asarray(made.update(gradient, made.init(at), at)[0])

    near = functools.partial(pytest.approx, rel=1e-4)
    assert first('sgd') == near([0.6, 0.8]) and first('sgd', momentum=0.9) == near([0.6, 0.8])
    assert first('adamw', weight_decay=0.5) == near(
        [1.5, 2.0]
    )  # the sign, and half of the parameter
    assert first('lion', weight_decay=0.5) == near([1.5, 2.0])
    assert first('rmsprop', decay=0.75) == near([2.0, 2.0])  # g / √(¼ g²)
    assert first('adafactor') == near([1.0, 1.0])  # g / √g² at first, of root mean square 1


def test_a_first_moment_can_be_kept_in_bfloat16():
    lm, params = toy()
    state = train_state.begin_round(
        lm, State(params, None, 0, 0), optimizers.adamw(moments='bfloat16')
    )
    kinds = [leaf.dtype for _, leaf in _leaves(state.opt) if leaf.ndim]
    assert sorted({str(k) for k in kinds}) == ['bfloat16', 'float32'] and kinds.count(
        jnp.bfloat16
    ) * 2 == len(kinds)
    with pytest.raises(ValueError, match="no moments 'half'; there are: float32, bfloat16"):
        optimizers.adamw(moments='half')


def test_nothing_larger_than_a_norm_is_whole_on_every_device():
    lm, params = toy(fsdp=8)
    for path, leaf in _leaves(params):
        held = leaf.addressable_shards[0].data.size
        if leaf.size > SMALL.layers * SMALL.width:  # the norms of all layers
            assert held * 8 == leaf.size, path


def test_learning_rates_by_hand():
    rate = functools.partial(schedules.learning_rate, lr=1.0)
    assert [rate(i, 5) for i in range(5)] == [1.0] * 5
    # warmup 0.4 of 10 steps: 4 steps on the way to the 5th, 1/5 … 4/5
    assert [rate(i, 10, warmup=0.4) for i in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [rate(i, 4, schedule='linear') for i in range(4)] == pytest.approx(
        [1.0, 0.75, 0.5, 0.25]
    )
    # halfway the cosine is 0: 0.2 + 0.8 · ½ = 0.6; a quarter: ½(1 + cos 45°) = 0.853553, 0.2 + 0.8
    # · 0.853553
    assert rate(2, 4, schedule='cosine', final=0.2) == pytest.approx(0.6)
    assert [rate(i, 10, schedule='wsd') for i in (0, 7, 8, 9)] == pytest.approx(
        [1.0, 1.0, 1.0, 0.5]
    )
    assert rate(1, 4, schedule='cosine', final=0.2) == pytest.approx(0.882843, abs=1e-6)


def test_the_rate_multiplies_the_first_adam_step():
    """Adam's first step is the gradient's sign: every parameter with a gradient moves by lr, up to
    eps.
    """
    lm, params = toy()
    state, _, rows = _train(lm, params, _examples(4), losses.dpo, lr=1e-3)
    moved = np.abs(np.asarray(state.params['head']) - np.asarray(params['head']))
    assert rows[0][1]['lr'] == 1e-3 and moved.max() == pytest.approx(1e-3, rel=1e-2)
