"""Log-probs, entropy and contrast match their definitions, in chunks or whole, whatever else lies
in the row.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import IDENTITY, first_state, pack
from toys import SMALL, assert_close, docs, toy

from selfrew.engine import logprobs, packing, reference, train_step
from selfrew.shelves import losses

# --- the selected-token primitive ---------------------------------------------------------------


@pytest.mark.parametrize('chunk', [1, 7, 10])
def test_logp_in_chunks_is_that_of_the_whole(monkeypatch, chunk):
    lm, params = toy()
    hidden = jax.random.normal(jax.random.key(1), (3, 10, SMALL.width))
    target = jax.random.randint(jax.random.key(2), (3, 10), 0, SMALL.vocab)
    monkeypatch.setattr(logprobs, 'CHUNK_BYTES', chunk * 4 * SMALL.vocab)  # tokens of a part

    def measured(params, hidden):
        return logprobs.measure(lm.module, params, hidden, target)['logp']

    def defined(params, hidden):  # from all logits [3 10 64] at once
        logp = jax.nn.log_softmax(hidden @ params['head'])
        return jnp.take_along_axis(logp, target[..., None], -1)[..., 0]

    def total(logp, params, hidden):
        return logp(params, hidden).sum()

    assert_close(measured(params, hidden), defined(params, hidden))
    found, grads = jax.value_and_grad(total, (1, 2))(measured, params, hidden)
    expected, expected_grads = jax.value_and_grad(total, (1, 2))(defined, params, hidden)
    assert_close(found, expected)
    assert_close(grads, expected_grads)


KEYS = jax.random.split(jax.random.key(3), (2, 10))
EXPECT = {'expect': True}
WANTS = {
    'entropy': {'entropy': True},
    'contrast': {'contrast': 4},
    'expect': EXPECT,
    'value': {'value': True},
}


def _from_all_logits(name, params, hidden, target):
    """The measure [2 10] from all logits at once; for 'contrast' [2 10 V], its value for each token
    that could be drawn.
    """
    logits = hidden @ params['head']
    probability = jax.nn.softmax(logits, axis=-1)

    def of_target(x):
        return jnp.take_along_axis(x, target[..., None], axis=-1)

    if name == 'entropy':
        return -jnp.sum(probability * jnp.log(probability), axis=-1)
    if name == 'contrast':
        return -jnp.log(jax.nn.sigmoid(logits - of_target(logits)))
    values = hidden @ params['value']
    if name == 'expect':
        return jnp.sum(probability * values, axis=-1)
    return of_target(values)[..., 0]


def _drawn_tokens(contrast, contrast_by_token, logits, target):
    """[2 10 V] bool: the token that was drawn, told by its contrast.

    It is one of the four with the largest logits except the target.
    """
    is_target = np.arange(SMALL.vocab) == np.asarray(target)[..., None]
    candidates = np.argsort(np.where(is_target, np.inf, -np.asarray(logits)))[..., :4]
    values = np.take_along_axis(np.asarray(contrast_by_token), candidates, -1)
    distance = np.abs(values - np.asarray(contrast)[..., None])
    assert (distance.min(axis=-1) < 1e-5 * values.max()).all()
    assert len(set(distance.argmin(axis=-1).ravel().tolist())) > 1
    drawn = np.take_along_axis(candidates, distance.argmin(axis=-1)[..., None], -1)
    return drawn == np.arange(SMALL.vocab)


@pytest.mark.parametrize('chunk', [3, 10])
@pytest.mark.parametrize('name', WANTS)
def test_what_is_wanted_is_that_of_all_logits_at_once(monkeypatch, name, chunk):
    monkeypatch.setattr(logprobs, 'CHUNK_BYTES', chunk * 4 * SMALL.vocab)
    lm, params = toy()
    params = params | {'value': jax.random.normal(jax.random.key(4), params['head'].shape)}
    hidden = 3 * jax.random.normal(jax.random.key(1), (2, 10, SMALL.width))
    target = jax.random.randint(jax.random.key(2), (2, 10), 0, SMALL.vocab)

    def measured(params, hidden):
        measures = logprobs.measure(lm.module, params, hidden, target, key_PS=KEYS, **WANTS[name])
        return measures[name]

    def defined(params, hidden):
        return _from_all_logits(name, params, hidden, target)

    value, pull_back = jax.vjp(jax.jit(measured), params, hidden)
    expected, expected_pull_back = jax.vjp(defined, params, hidden)
    slope = expected_slope = jax.random.normal(jax.random.key(5), (2, 10))
    if name == 'contrast':
        is_drawn = _drawn_tokens(value, expected, hidden @ params['head'], target)
        expected = jnp.sum(jnp.where(is_drawn, expected, 0.0), axis=-1)
        expected_slope = jnp.where(is_drawn, slope[..., None], 0.0)
    assert_close(value, expected)
    assert_close(pull_back(slope), expected_pull_back(expected_slope))


def test_a_measure_that_cannot_be_taken_is_refused_by_name():
    lm, params = toy()
    hidden, target = jnp.zeros((1, 3, SMALL.width)), jnp.zeros((1, 3), int)
    with pytest.raises(ValueError, match="no measure 'worth'; there are: entropy, contrast, value"):
        logprobs.measure(lm.module, params, hidden, target, worth=True)
    for name in ('value', 'expect'):
        with pytest.raises(ValueError, match=f'{name!r} needs a value head: set model.value_head'):
            logprobs.measure(lm.module, params, hidden, target, **{name: True})


def test_a_contrast_is_drawn_as_the_softmax_of_the_largest_says():
    # the target 0 is left out, and 3 is not among the two largest
    logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))[None].repeat(4000, 0)
    keys = jax.random.split(jax.random.key(0), 4000)
    contrast = np.asarray(logprobs.contrast(logits, jnp.zeros(4000, jnp.int32), keys, 2))
    is_first = np.isclose(contrast, np.log1p(0.4 / 0.3), rtol=1e-4)  # −log σ(log 0.3 − log 0.4)
    assert np.isclose(contrast, np.log1p(0.4 / 0.2), rtol=1e-4)[~is_first].all()
    # 0.3 / (0.3 + 0.2), within four standard deviations
    assert is_first.mean() == pytest.approx(0.6, abs=0.03)


def test_a_draw_is_the_tokens_own_wherever_it_stands():
    (lm, params), documents = toy(), docs(6)

    @jax.jit
    def contrast(batch):
        return logprobs.forward(lm.module, params, batch, jax.random.key(7), contrast=5).contrast

    rng = np.random.default_rng(1)
    (ordered,) = packing.batches(documents, batch=6, row_length=64)
    (shuffled,) = packing.batches(documents, batch=6, row_length=128, parts=2, rng=rng)
    assert_close(contrast(shuffled)[np.argsort(shuffled.index)], contrast(ordered))


@pytest.mark.parametrize('mesh', [{}, {'fsdp': 8}, {'fsdp': 4, 'tensor': 2}], ids=str)
def test_no_logits_larger_than_a_chunk_exist(monkeypatch, mesh):
    """Of all arrays with an axis of V in the compiled update, none has more than a chunk's tokens
    beside it.
    """
    config = dataclasses.replace(SMALL, vocab=1504, width=8)
    lm, params = toy(config, **mesh)
    shards, vocab = lm.mesh.shape['tensor'], 1504
    (batch,) = pack(docs(32, low=6, high=12), lm)
    selected = batch.mask.shape[1]
    chunk = max(selected // 5, 1)
    monkeypatch.setattr(logprobs, 'CHUNK_BYTES', chunk * 4 * vocab // shards)
    update = train_step.compiled_step(lm, losses.dpo, IDENTITY).compiled
    placed = packing.place(lm, batch)
    arguments = first_state(params, lm), {'blocks': {}}, placed, 1.0, jax.random.key(0)
    program = update.lower(*arguments).compile().as_text()
    shapes = [shape.split(',') for shape in re.findall(r'f32\[([\d,]+)\]', program)]
    vocab_axes = {str(vocab), str(vocab // shards)}
    sizes = [math.prod(map(int, shape)) for shape in shapes if vocab_axes & set(shape)]
    # the head itself is [8 V]
    assert chunk > config.width and vocab * config.width <= max(sizes) <= chunk * vocab
    # and all logits of a device would be more
    assert selected * vocab // shards > 2 * chunk * vocab


# --- what a token sees --------------------------------------------------------------------------


def test_a_response_beside_a_sibling_has_the_logp_it_has_alone():
    (lm, params), documents = toy(), docs(6, responses=2)
    batches = packing.batches(documents, batch=6, row_length=64)
    together = reference.reference_logp(lm, params, batches).column
    for response in range(2):
        alone = [doc._replace(responses=(doc.responses[response],)) for doc in documents]
        batches = packing.batches(alone, batch=1, row_length=64)
        column = reference.reference_logp(lm, params, batches).column
        assert_close(together[:, response], column[:, 0])


def _causal_logp(lm, params, tokens):
    """log softmax [L V] of a plain causal pass over tokens (L,)."""
    length = len(tokens)
    position, mask = jnp.arange(length)[None], jnp.tril(jnp.ones((1, length, length), bool))
    hidden, _ = lm.module.apply({'params': params}, jnp.array([tokens]), position, mask)
    return jax.nn.log_softmax(hidden[0] @ params['head'])


def test_logp_and_length_are_the_definitions():
    """A response's log-prob is the sum over its tokens of log softmax at the token before, in a
    plain causal pass over prompt + response.
    """
    (lm, params), (doc,) = toy(), docs(1)
    (batch,) = packing.batches([doc], batch=1, row_length=32)
    out = jax.jit(logprobs.forward, static_argnums=0)(lm.module, params, batch)
    first = len(doc.prompt)
    for branch, response in enumerate(doc.responses):
        logp = _causal_logp(lm, params, doc.prompt + response)
        expected = sum(float(logp[first - 1 + i, token]) for i, token in enumerate(response))
        assert out.logp[0, branch] == pytest.approx(expected, rel=1e-5)
        assert out.length[0, branch] == len(response)


def test_no_gradient_comes_from_the_future_a_sibling_or_another_document():
    """All tokens of the row differ, so a row of the embedding's gradient is one token's share."""
    lm, params = toy()
    ids = iter(range(3, 64))

    def fresh_tokens(count):
        return tuple(next(ids) for _ in range(count))

    documents = []
    for index in range(3):
        prompt, responses = fresh_tokens(4), (fresh_tokens(5), fresh_tokens(6))
        documents.append(packing.Doc(index, prompt, responses, 1.0))
    (batch,) = packing.batches(documents, batch=3, row_length=60)
    assert (batch.doc > 0).any(axis=1).sum() == 1

    def logp(embed):
        return logprobs.forward(lm.module, params | {'embed': embed}, batch).logp

    grads = np.asarray(jax.jit(jax.jacrev(logp))(params['embed']))  # [B N V D]
    for index, doc in enumerate(documents):
        for n, response in enumerate(doc.responses):
            seen = set(np.flatnonzero(np.abs(grads[index, n]).max(axis=1)).tolist())
            assert seen == {*doc.prompt, *response[:-1]}  # nothing follows a response's last token


def test_a_tokens_logp_does_not_look_at_later_ones():
    lm, params = toy()
    doc = packing.Doc(0, (1, 10, 11), ((5, 6, 7, 8, 9),), 1.0)
    (batch,) = packing.batches([doc], batch=1, row_length=16)

    @jax.jit
    def logp(batch):
        return logprobs.forward(lm.module, params, batch).logp[0, 0]

    for cut in range(1, 5):
        is_kept = (np.arange(batch.mask.shape[1]) < cut)[None, :]
        first = batch._replace(mask=batch.mask * is_kept.astype(np.float32))
        later = first._replace(tokens=np.where(batch.position >= 3 + cut, 50, batch.tokens))
        assert (later.tokens != first.tokens).sum() >= 5 - cut
        assert float(logp(first)) == float(logp(later)) != 0.0


def test_other_tokens_in_siblings_and_neighbours_leave_a_logp_bit_for_bit():
    lm, params = toy()
    (batch,) = packing.batches(docs(3), batch=3, row_length=64)
    before = np.asarray(reference.response_logp(lm.module, params, batch).logp)
    for doc, branch in ((1, 2), (2, 1), (3, 0)):
        is_changed = (batch.doc == doc) & (batch.branch == branch)
        other_tokens = (batch.tokens + 17) % SMALL.vocab
        changed = batch._replace(tokens=np.where(is_changed, other_tokens, batch.tokens))
        after = np.asarray(reference.response_logp(lm.module, params, changed).logp)
        sees_change = np.zeros_like(before, bool)
        sees_change[doc - 1, slice(None) if branch == 0 else branch - 1] = True
        np.testing.assert_array_equal(after[~sees_change], before[~sees_change])
        assert (after[sees_change] != before[sees_change]).all()
