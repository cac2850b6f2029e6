"""What is sampled depends on the prompt, the key and the parameters alone, and its log-probability is the trainer's."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import BOS, EOS, SMALL, toy
from toys import prompt as numbers

from selfrew import encode, generate, parts, samplers, update
from selfrew.generate import engine
from selfrew.types import Example, Rollout, ask

PICK = 'Pick 2 fruits from this list: lime, bee, kiwi, saw, axe.'
ASKED = ['Tom has 3 eggs. How many eggs does Tom have?', 'Hi', PICK, '?']
KEY = jax.random.key(7)


def _prompts(lm, count=12, seed=0):
    """Ragged prompts of 1 to 40 tokens."""
    rng = np.random.default_rng(seed)
    return [[BOS, *rng.integers(3, SMALL.vocab, rng.integers(0, 40)).tolist()] for _ in range(count)]


def _keys(count, key=KEY):
    return generate.request_keys(key, [f'p{i}' for i in range(count)], [0] * count)


def _sample(lm, params, prompts, keys=None, **options):
    keys = _keys(len(prompts)) if keys is None else keys
    return generate.generate(lm, params, prompts, keys, **({'max_tokens': 12} | options))


@pytest.fixture(scope='module')
def twelve():
    lm, params = toy()
    prompts = _prompts(lm)
    return lm, params, prompts, _sample(lm, params, prompts)


# --- against the full forward pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize('options', [{}, {'temperature': 0.5, 'top_p': 0.7}, {'temperature': 0.0}], ids=str)
def test_decode_equals_teacher_forcing(tiny, options):
    """The log-probability is the raw distribution's, also where the sample was drawn from another one."""
    lm, params = tiny
    prompts = [ask(f'p{i}', text) for i, text in enumerate(ASKED)]
    rollouts = samplers.sample(lm, params, prompts, KEY, n=3, max_tokens=24, **options)
    assert len({len(lm.text.prompt(p)) for p in prompts}) == 4
    examples = [Example(r.prompt, r.responses) for r in rollouts]
    docs, dropped = encode.tokenise(lm.text, examples, row_length=256)
    table = update.reference(lm, params, encode.batches(docs, batch=4, row_length=256))
    assert dropped == 0
    np.testing.assert_allclose([[a.logp for a in r.responses] for r in rollouts], table, atol=1e-4)


def test_greedy_is_the_argmax_of_full_passes(tiny):
    lm, params = tiny
    length = 96

    @jax.jit
    def best(tokens, count):
        seen = jnp.tril(jnp.ones((1, length, length), bool))
        hidden, _ = lm.module.apply({'params': params}, tokens, jnp.arange(length)[None], seen)
        return jnp.argmax(hidden[0, count - 1] @ params['embed'].T)

    prompts = [lm.text.prompt(ask('', text)) for text in ASKED]
    for prompt, found in zip(prompts, _sample(lm, params, prompts, temperature=0.0, max_tokens=20)):
        tokens = list(prompt)
        for token in found.tokens:
            expected = int(best(np.array([tokens + [0] * (length - len(tokens))], np.int32), len(tokens)))
            assert token == expected
            tokens.append(token)
        assert found.finish == 'stop' or len(found.tokens) == 20


# --- what a sample depends on -----------------------------------------------------------------------------------------


def _assert_same(found, expected):
    assert [(r.tokens, r.finish, r.text) for r in found] == [(r.tokens, r.finish, r.text) for r in expected]
    assert [r.logp for r in found] == pytest.approx([r.logp for r in expected], abs=1e-4)


@pytest.mark.parametrize('rows', [1, 5, 64])
def test_samples_do_not_depend_on_the_batch_size(twelve, rows):
    lm, params, prompts, expected = twelve
    _assert_same(_sample(lm, params, prompts, rows=rows), expected)


def test_samples_do_not_depend_on_the_order_of_requests_or_their_company(twelve):
    lm, params, prompts, expected = twelve
    order = np.random.default_rng(1).permutation(12)
    keys = _keys(12)
    _assert_same(_sample(lm, params, [prompts[i] for i in order], keys[order]), [expected[i] for i in order])
    _assert_same(_sample(lm, params, prompts[3:5], keys[3:5]), expected[3:5])


@pytest.mark.parametrize('mesh', [{'data': 8}, {'fsdp': 8}, {'tensor': 2, 'fsdp': 4}], ids=str)
def test_samples_do_not_depend_on_the_mesh(twelve, mesh):
    _, _, prompts, expected = twelve
    _assert_same(_sample(*toy(**mesh), prompts), expected)


def test_the_cache_lies_in_as_many_parts_as_there_are_devices():
    lm, params = toy(tensor=2, fsdp=4)
    tokens, length = lm.rows(np.full((8, 32), 5, np.int32)), lm.rows(np.full(8, 20, np.int32))
    prefill = jax.jit(engine.prefill, static_argnums=(0, 4))
    last, cache = prefill(lm.module, params, tokens, length, 16)
    after = jax.jit(engine.advance, static_argnums=(0, 5))(lm.module, params, length, length, 0, 16, cache)[1]
    for leaf in (*jax.tree.leaves(cache), *jax.tree.leaves(after)):
        assert leaf.addressable_shards[0].data.size * 8 == leaf.size
    assert last.shape == (8, 32) and cache['k'].shape == (2, 8, 2, 8, 48)


def test_every_sample_of_a_prompt_is_drawn_anew():
    lm, params = toy()
    (rollout,) = samplers.sample(lm, params, [numbers([5, 6])], KEY, n=8, max_tokens=12)
    assert len({r.tokens for r in rollout.responses}) == 8  # 8 draws among about 64^12


def test_other_keys_and_other_prompt_ids_give_other_samples():
    lm, params = toy()

    def draw(name, key):
        return samplers.sample(lm, params, [numbers([5, 6], name)], key, n=1, max_tokens=12)[0].responses

    assert draw('a', KEY) == draw('a', KEY)
    assert len({draw('a', KEY)[0].tokens, draw('b', KEY)[0].tokens, draw('a', jax.random.key(8))[0].tokens}) == 3


def test_more_samples_begin_with_the_fewer():
    lm, params = toy()
    draw = lambda n: samplers.sample(lm, params, [numbers([5, 6])], KEY, n=n, max_tokens=12)[0].responses  # noqa: E731
    assert [r.tokens for r in draw(5)][:2] == [r.tokens for r in draw(2)]


# --- where it ends ----------------------------------------------------------------------------------------------------


def test_a_response_ends_at_the_first_end_token_or_at_the_limit():
    lm, params = toy()
    # untied head: the likelier the end token, the more responses stop; this scale lets about half of 64 do so
    params = params | {'head': params['head'].at[:, EOS].multiply(3.0)}
    found = _sample(lm, params, _prompts(lm, 64), max_tokens=16)
    for r in found:
        assert r.tokens.count(EOS) == (r.finish == 'stop')
        assert (r.tokens[-1] == EOS) if r.finish == 'stop' else len(r.tokens) == 16
    assert {r.finish for r in found} == {'stop', 'length'}


def test_bad_options_and_too_long_prompts_are_refused():
    lm, params = toy()
    for wrong in ({'max_tokens': 0}, {'temperature': -0.1}, {'top_p': 0.0}, {'top_p': 1.1}, {'rows': 0}):
        (name, value), = wrong.items()
        with pytest.raises(ValueError, match=f'{name}={value}'):
            _sample(lm, params, [[BOS]], **wrong)
    fits = SMALL.max_length - 12
    with pytest.raises(ValueError, match=f'{fits + 1} tokens and max_tokens=12 exceed the context of 128'):
        _sample(lm, params, [[BOS] * (fits + 1)])
    assert len(_sample(lm, params, [[BOS] * fits])) == 1


def test_no_request_gives_no_response():
    assert _sample(*toy(), [], keys=_keys(1)) == []


def test_temperature_nucleus_and_seed_are_not_compiled_in(twelve):
    lm, params, prompts, _ = twelve
    _sample(lm, params, prompts, top_p=0.9)  # one program without a nucleus, one with
    before, compiled, keys = engine._decode._cache_size(), [], _keys(12, jax.random.key(3))
    watch = lambda event, *_, **__: compiled.append(event) if 'backend_compile' in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        for options in ({'temperature': 0.3}, {'temperature': 0.0}, {'top_p': 0.5}, {'temperature': 2.0, 'top_p': 0.1}):
            _sample(lm, params, prompts, keys, **options)
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)
    assert engine._decode._cache_size() == before
    assert not compiled


# --- how one token is picked ------------------------------------------------------------------------------------------

pick = jax.jit(engine._pick, static_argnums=4)


def _logits(rows, vocab, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab)).astype(np.float32)


@pytest.mark.parametrize(('temperature', 'top_p'), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (2.0, 0.3)])
def test_tokens_come_as_often_as_their_probability(temperature, top_p):
    """u = (i + ½)/n for n = 4000: a token's count is n·p, but for ±1 at each of its ends."""
    n, (logits,) = 4000, _logits(1, 16)
    u = (np.arange(n, dtype=np.float32) + 0.5) / n
    tokens, logp = pick(np.tile(logits, (n, 1)), u, temperature, top_p, top_p < 1)
    p = np.exp(logits.astype(np.float64) / temperature)
    p /= p.sum()
    order = np.argsort(-p)
    keep = np.cumsum(p[order]) - p[order] < top_p  # the smallest set that holds top_p
    p[order[~keep]] = 0
    assert np.abs(np.bincount(tokens, minlength=16) / n - p / p.sum()).max() <= 1.5 / n
    raw = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    np.testing.assert_allclose(logp, raw[tokens], atol=1e-5)  # at temperature 1 and of the whole vocabulary


@pytest.mark.parametrize('top_p', [0.1, 0.5, 0.9])
def test_no_token_comes_from_outside_the_nucleus(top_p):
    logits = _logits(256, 64, seed=1)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    likelier = (p[:, None, :] * (p[:, None, :] > p[:, :, None])).sum(-1)  # [R V], the mass of likelier tokens
    for u in (*np.random.default_rng(2).uniform(size=8), 0.0, 1 - 2.0**-23):
        tokens, _ = pick(logits, np.full(256, u, np.float32), 1.0, top_p, True)
        assert (likelier[np.arange(256), tokens] < top_p + 1e-6).all()


def test_no_rounding_lets_an_excluded_token_through():
    """Hard draws: those that fall on a rounded step of the CDF, at a vocabulary where its sums are taken in blocks."""
    logits = _logits(64, 500, seed=3)
    p = np.asarray(jax.nn.softmax(logits))
    order = np.argsort(-p, axis=-1, kind='stable')
    ranked = np.take_along_axis(p, order, -1)
    kept = np.zeros_like(p)
    np.put_along_axis(kept, order, np.where(np.cumsum(ranked, -1) - ranked < 0.7 + 1e-5, ranked, 0), -1)
    cdf = np.asarray(jnp.cumsum(jnp.asarray(kept), axis=-1))
    for column in range(0, 500, 5):
        u = np.clip(cdf[:, column] / cdf[:, -1], 0, 1 - 2.0**-23).astype(np.float32)
        tokens, _ = pick(logits, u, 1.0, 0.7, True)
        assert (kept[np.arange(64), tokens] > 0).all()


def test_temperature_zero_is_argmax_whatever_the_draw():
    logits = _logits(64, 32)
    for u in (0.0, 0.4, 1 - 2.0**-23):
        tokens, _ = pick(logits, np.full(64, u, np.float32), 0.0, 1.0, False)
        np.testing.assert_array_equal(tokens, logits.argmax(-1))


# --- the shelf --------------------------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_left_out():
    lm, params = toy()
    prompts = [numbers([5], 'short'), numbers([6] * 120, 'long'), numbers([7], 'other')]  # 1 BOS + 120 + 8 > 128
    plain = functools.partial(samplers.sample, max_tokens=8)
    for sampler in (plain, functools.partial(samplers.with_greedy, sampler=plain)):
        assert [r.prompt.id for r in sampler(lm, params, prompts, KEY)] == ['short', 'other']


def test_with_greedy_ends_with_the_greedy_response():
    lm, params = toy()
    prompts = [numbers([5, 6], 'a'), numbers([7], 'b')]
    plain = functools.partial(samplers.sample, n=2, max_tokens=8)
    drawn = plain(lm, params, prompts, KEY)
    greedy = samplers.sample(lm, params, prompts, jax.random.key(99), n=1, temperature=0.0, max_tokens=8)
    for both, d, g in zip(samplers.with_greedy(lm, params, prompts, KEY, sampler=plain), drawn, greedy, strict=True):
        assert both.responses == d.responses + g.responses


def test_no_sample_is_refused():
    with pytest.raises(ValueError, match='n=0'):
        samplers.sample(*toy(), [numbers([5])], KEY, n=0)


def test_given_wants_a_response_with_every_prompt():
    (rollout,) = samplers.given(None, None, [ask('a', 'Hi', responses=['Hello', 'Ho'])], KEY)
    assert [r.text for r in rollout.responses] == ['Hello', 'Ho'] and {r.finish for r in rollout.responses} == {'stop'}
    with pytest.raises(ValueError, match="'b' came without"):
        samplers.given(None, None, [ask('b', 'Hi')], KEY)


@pytest.mark.parametrize('name', parts.names('sampler', samplers))
def test_every_sampler_keeps_the_shelfs_contract(name):
    """(lm, params, prompts, key, *, …) -> a Rollout for each prompt, in order; the same key, the same."""
    function = getattr(samplers, name)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:4] == ['lm', 'params', 'prompts', 'key']
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[4:]) and function.__doc__
    small = {'n': 2, 'max_tokens': 6}
    nested = {'sampler': functools.partial(samplers.sample, **small)}
    sampler = functools.partial(function, **{k: v for k, v in (small | nested).items() if k in parameters})
    lm, params = toy()
    prompts = [ask(f'p{i}', f'5 {6 + i}', responses=['7', '8 9']) for i in range(3)]
    rollouts = sampler(lm, params, prompts, KEY)
    assert all(isinstance(r, Rollout) for r in rollouts) and [r.prompt for r in rollouts] == prompts
    assert all(r.responses and all(a.tokens or a.text for a in r.responses) for r in rollouts)
    assert rollouts == sampler(lm, params, prompts, KEY)
    assert sampler(lm, params, [], KEY) == []
