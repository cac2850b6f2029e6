"""What is sampled depends on the prompt, the key and the parameters alone, and its log-probability
is the trainer's.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import BOS, EOS, SMALL, Numbers, prompt as numbers, toy

from selfrew.engine import generate, packing, reference
from selfrew.engine.generate import journal, memory_plan, programs, scheduler, token_sampling
from selfrew.engine.generate.page_table import PageTable
from selfrew.models import decoder
from selfrew.run import binding
from selfrew.shelves import samplers
from selfrew.types import Example, Rollout, ask

PICK = 'Pick 2 fruits from this list: lime, bee, kiwi, saw, axe.'
ASKED = ['Tom has 3 eggs. How many eggs does Tom have?', 'Hi', PICK, '?']
KEY = jax.random.key(7)


def _prompts(lm, count=12, seed=0):
    """Ragged prompts of 1 to 40 tokens."""
    rng = np.random.default_rng(seed)
    return [
        [BOS, *rng.integers(3, SMALL.vocab, rng.integers(0, 40)).tolist()] for _ in range(count)
    ]


def _keys(count, key=KEY):
    return generate.request_keys(key, [f'p{i}' for i in range(count)], [0] * count)


def _sample(lm, params, prompts, keys=None, **options):
    keys = _keys(len(prompts)) if keys is None else keys
    return generate.generate(lm, params, prompts, keys, **({'max_tokens': 12} | options))


class Endless(Numbers):
    ends = (-5,)


@pytest.fixture(scope='module')
def twelve():
    lm, params = toy()
    prompts = _prompts(lm)
    return lm, params, prompts, _sample(lm, params, prompts)


# --- against the full forward pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'options',
    [{}, {'temperature': 0.5, 'top_p': 0.7}, {'top_k': 5, 'min_p': 0.1}, {'temperature': 0.0}],
    ids=str,
)
def test_decode_equals_teacher_forcing(tiny, options):
    """The log-probability is the raw distribution's, also where the sample was drawn from another
    one.
    """
    lm, params = tiny
    prompts = [ask(f'p{i}', text) for i, text in enumerate(ASKED)]
    rollouts = samplers.sample(lm, params, prompts, KEY, n=3, max_tokens=24, **options)
    assert len({len(lm.text.prompt_tokens(p)) for p in prompts}) == 4
    examples = [Example(r.prompt, r.responses) for r in rollouts]
    docs, dropped = packing.tokenise(lm.text, examples, row_length=256)
    table = reference.reference_logp(lm, params, packing.batches(docs, batch=4, row_length=256))
    assert dropped == 0
    np.testing.assert_allclose([[a.logp for a in r.responses] for r in rollouts], table, atol=1e-4)


@pytest.mark.parametrize('length, page', [(75, 64), (110, 16)])
def test_a_prompt_lies_whole_in_its_pages(monkeypatch, length, page):
    """Also in one page that is smaller than what it was read in, two of them."""
    monkeypatch.setattr(memory_plan, 'PAGE_OF_A_CPU', page)
    lm, params = toy()
    prompts = [
        [BOS, *np.random.default_rng(i).integers(3, SMALL.vocab, length - i - 1).tolist()]
        for i in range(3)
    ]
    tokens = np.zeros((3, 128), np.int32)
    for row, prompt, found in zip(tokens, prompts, responses := _sample(lm, params, prompts)):
        row[: len(prompt) + len(found.tokens)] = prompt + list(found.tokens)
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((128, 128), bool)), (3, 128, 128))
    hidden, _ = lm.module.apply(
        {'params': params}, tokens, jnp.broadcast_to(jnp.arange(128), (3, 128)), seen
    )
    logp = np.asarray(jax.nn.log_softmax(decoder.logits(lm.module, params, hidden)))
    for row, prompt, found in zip(logp, prompts, responses):
        at = len(prompt) - 1 + np.arange(len(found.tokens))
        assert found.logp == pytest.approx(row[at, found.tokens].sum(), abs=1e-4)


def test_greedy_is_the_argmax_of_full_passes(tiny):
    lm, params = tiny
    length = 96

    @jax.jit
    def best(tokens, count):
        seen = jnp.tril(jnp.ones((1, length, length), bool))
        hidden, _ = lm.module.apply({'params': params}, tokens, jnp.arange(length)[None], seen)
        return jnp.argmax(hidden[0, count - 1] @ params['embed'].T)

    prompts = [lm.text.prompt_tokens(ask('', text)) for text in ASKED]
    for prompt, found in zip(prompts, _sample(lm, params, prompts, temperature=0.0, max_tokens=20)):
        tokens = list(prompt)
        for token in found.tokens:
            expected = int(
                best(np.array([tokens + [0] * (length - len(tokens))], np.int32), len(tokens))
            )
            assert token == expected
            tokens.append(token)
        assert found.finish == 'stop' or len(found.tokens) == 20


# --- what a sample depends on -----------------------------------------------------------------------------------------


def _assert_same(found, expected):
    assert [(r.tokens, r.finish, r.text) for r in found] == [
        (r.tokens, r.finish, r.text) for r in expected
    ]
    assert [r.logp for r in found] == pytest.approx([r.logp for r in expected], abs=1e-4)


@pytest.mark.parametrize('slots', [1, 5, 64])
def test_samples_do_not_depend_on_the_number_of_slots(twelve, slots):
    lm, params, prompts, expected = twelve
    _assert_same(_sample(lm, params, prompts, slots=slots), expected)


def test_samples_do_not_depend_on_the_order_of_requests_or_their_company(twelve):
    lm, params, prompts, expected = twelve
    order = np.random.default_rng(1).permutation(12)
    keys = _keys(12)
    _assert_same(
        _sample(lm, params, [prompts[i] for i in order], keys[order]), [expected[i] for i in order]
    )
    _assert_same(_sample(lm, params, prompts[3:5], keys[3:5]), expected[3:5])


@pytest.mark.parametrize('mesh', [{'data': 8}, {'fsdp': 8}, {'tensor': 2, 'fsdp': 4}], ids=str)
def test_samples_do_not_depend_on_the_mesh(twelve, mesh):
    _, _, prompts, expected = twelve
    _assert_same(_sample(*toy(**mesh), prompts), expected)


@pytest.mark.parametrize('mesh', [{}, {'fsdp': 8}], ids=str)
def test_not_a_bit_depends_on_what_else_is_in_the_slots(mesh):
    """What a killed run has finished is not asked again: the rest stands in other slots, next to
    others.
    """
    lm, params = toy(**mesh)
    prompts, keys = [p for p in _prompts(lm, 20) for _ in range(2)], _keys(40)
    expected = _sample(lm, params, prompts, keys, slots=8)
    layout = memory_plan.plan
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the sizes of arrays are those of all requests, as in a journal
        patch.setattr(memory_plan, 'plan', lambda *a, **k: whole)
        for some in ([3, 38, 20, 7, 11, 0], [39, *range(0, 40, 3)]):
            whole = layout(lm, list(map(len, prompts)), [12] * 40, 20, slots=8, memory=1e9)
            found = _sample(lm, params, [prompts[i] for i in some], keys[np.array(some)])
            assert found == [expected[i] for i in some]


def test_the_cache_lies_in_as_many_parts_as_there_are_devices():
    lm, params = toy(tensor=2, fsdp=4)
    state = programs.empty_slots(
        lm.module, lm.cache_dtype, rows=8, pages=12, page=16, limit=4, ends=1, words=2
    )
    pool = programs.empty_cache(lm.module, lm.cache_dtype, 8, 32)
    book = PageTable(
        8, 2, 16, 3, 4
    )  # in four parts, each with two slots and three pages, of which one is nobody's
    book.allocate(1, 1), book.allocate(6, 2)
    pool = programs.prefill(
        lm.module, params, lm.place_rows(np.full((8, 32), 5, np.int32)), np.int32(0), None, pool
    )
    one = lambda kind, *shape: np.ones((2, *shape), kind)
    i32, f32 = np.int32, np.float32
    ask = programs.SlotRequest(
        one(np.uint32, 2), *map(one, (i32, i32, i32, f32, i32, f32, f32)), one(i32, 1)
    )
    where = np.array([book.global_pages(1, 2), book.global_pages(6, 2)], np.int32)
    assert where.tolist() == [[1, 0], [10, 11]]
    after = programs.insert(
        lm.module, state, pool, np.array([1, 6], np.int32), np.array([0, 7], np.int32), where, ask
    )
    whole = programs.decode(
        lm.module, params, None, after, book.device_arrays(), np.ones(8, bool), np.int32(0), np.int32(2)
    )
    content = book.repack(np.arange(8), 5)
    after = whole._replace(
        cache=tuple(programs.move_pages(lm.module, part, content) for part in whole.cache)
    )
    assert book.global_pages(6, 2).tolist() == [16, 17] and book.allocated.tolist() == [0, 1, 0, 0, 0, 0, 2, 0]
    for name in 'kv':
        old, new = np.asarray(whole.cache[0][name]), np.asarray(after.cache[0][name])
        assert (new[:, [1, 16, 17]] == old[:, [1, 10, 11]]).all()
    for leaf in jax.tree.leaves([pool, after.cache]):
        assert leaf.addressable_shards[0].data.size * 8 == leaf.size
    assert after.cache[0]['k'].shape == (2, 20, 2, 8, 16)
    assert np.asarray(after.produced).tolist() == [0, 1, 0, 0, 0, 0, 1, 0]


def test_every_sample_of_a_prompt_is_drawn_anew():
    lm, params = toy()
    (rollout,) = samplers.sample(lm, params, [numbers([5, 6])], KEY, n=8, max_tokens=12)
    assert len({r.tokens for r in rollout.responses}) == 8  # 8 draws among about 64^12


def test_other_keys_and_other_prompt_ids_give_other_samples():
    lm, params = toy()

    def draw(name, key):
        return samplers.sample(lm, params, [numbers([5, 6], name)], key, n=1, max_tokens=12)[
            0
        ].responses

    assert draw('a', KEY) == draw('a', KEY)
    assert (
        len(
            {
                draw('a', KEY)[0].tokens,
                draw('b', KEY)[0].tokens,
                draw('a', jax.random.key(8))[0].tokens,
            }
        )
        == 3
    )


def test_more_samples_begin_with_the_fewer():
    lm, params = toy()
    draw = lambda n: (
        samplers.sample(lm, params, [numbers([5, 6])], KEY, n=n, max_tokens=12)[0].responses
    )
    assert [r.tokens for r in draw(5)][:2] == [r.tokens for r in draw(2)]


# --- where it ends ----------------------------------------------------------------------------------------------------


def test_a_response_ends_at_the_first_end_token_or_at_the_limit():
    lm, params = toy()
    # untied head: the likelier the end token, the more responses stop; this scale lets about half
    # of 64 do so
    params = params | {'head': params['head'].at[:, EOS].multiply(3.0)}
    found = _sample(lm, params, _prompts(lm, 64), max_tokens=16)
    for r in found:
        assert r.tokens.count(EOS) == (r.finish == 'stop')
        assert (r.tokens[-1] == EOS) if r.finish == 'stop' else len(r.tokens) == 16
    assert {r.finish for r in found} == {'stop', 'length'}


def test_bad_options_and_too_long_prompts_are_refused():
    lm, params = toy()
    for wrong in (
        {'max_tokens': 0},
        {'temperature': -0.1},
        {'top_p': 0.0},
        {'top_p': 1.1},
        {'slots': 0},
        {'top_k': -1},
        {'min_p': 1.5},
        {'temperature': float('nan')},
    ):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f'{name}={value}'):
            _sample(lm, params, [[BOS]], **wrong)
    fits = SMALL.max_length - 12
    with pytest.raises(
        ValueError, match=f'{fits + 1} tokens and max_tokens=12 exceed the context of 128'
    ):
        _sample(lm, params, [[BOS] * (fits + 1)])
    assert len(_sample(lm, params, [[BOS] * fits])) == 1
    with pytest.raises(ValueError, match=r"stop=\('',\)"):
        _sample(lm, params, [[BOS]], stop=('',))
    with pytest.raises(ValueError, match='2 values of top_k for 1 requests'):
        _sample(lm, params, [[BOS]], top_k=[1, 2])


def test_no_request_gives_no_response():
    assert _sample(*toy(), [], keys=_keys(1)) == []


def test_no_option_of_a_request_is_compiled_in(twelve):
    lm, params, prompts, _ = twelve
    _sample(lm, params, prompts)
    before, compiled, keys = programs.decode._cache_size(), [], _keys(12, jax.random.key(3))
    watch = lambda event, *_, **__: compiled.append(event) if 'backend_compile' in event else None
    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        for options in (
            {'temperature': 0.3},
            {'top_p': 0.5},
            {'temperature': 2.0, 'top_k': 3, 'min_p': 0.1},
            {'stop': ('5',)},
            {'max_tokens': [9] * 11 + [12]},
            {'temperature': [0.0, 1.0] * 6},
        ):
            _sample(lm, params, prompts, keys, **options)
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)
    assert programs.decode._cache_size() == before
    assert not compiled


def test_each_request_has_its_own_options(twelve):
    lm, params, prompts, plain = twelve
    options = {
        'temperature': [1.0, 0.0, 0.5] * 4,
        'top_k': [0, 3, 0, 5] * 3,
        'top_p': [1.0] * 6 + [0.7] * 6,
        'min_p': [0.0, 0.2] * 6,
        'max_tokens': list(range(1, 13)),
        'stop': [('7',), ()] * 6,
        'ends': [(EOS,), (EOS, 5, 6), (7, 8)] * 4,
    }
    found = _sample(lm, params, prompts, **options)
    for i in range(12):
        alone = _sample(
            lm,
            params,
            prompts[i : i + 1],
            _keys(12)[i : i + 1],
            **{k: v[i] for k, v in options.items()},
        )
        _assert_same([found[i]], alone)
    _assert_same(_sample(lm, params, prompts, max_tokens=[12] * 12), plain)


# --- slots and prompts ------------------------------------------------------------------------------------------------


class _Watch:
    """Counts what a call has the device do: steps, tokens of prompts read."""

    def __init__(self, patch):
        self.steps = self.read = 0
        advance, read = programs.decode, programs.prefill

        def counted(module, params, shared, state, *rest):
            before = np.array(state.produced)
            after = advance(module, params, shared, state, *rest)
            self.steps += int((np.asarray(after.produced) - before).max())
            return after

        def counting(module, params, tokens, *rest):
            self.read += tokens.size
            return read(module, params, tokens, *rest)

        patch.setattr(programs, 'decode', counted)
        patch.setattr(programs, 'prefill', counting)


@pytest.fixture
def watch(monkeypatch):
    return _Watch(monkeypatch)


def test_slots_are_filled_again_while_the_longest_sample_goes_on(watch):
    """Without end tokens, in 2 slots: one sample of 60 tokens, and next to it 25 of 2; in batches
    it were 60 + 24.
    """
    lm, params = toy()
    lm = dataclasses.replace(lm, text=Endless())
    found = _sample(lm, params, [[BOS, 5]] * 26, _keys(26), max_tokens=[60] + [2] * 25, slots=2)
    assert [len(r.tokens) for r in found] == [60] + [2] * 25 and {r.finish for r in found} == {
        'length'
    }
    assert watch.steps == 60


def test_samples_of_a_prompt_read_it_once(watch):
    lm, params = toy()
    prompts = [[BOS, *range(3, 3 + n)] for n in (30, 40)]
    twice = _sample(lm, params, [p for p in prompts for _ in range(10)], _keys(20), slots=4)
    read = watch.read
    _sample(lm, params, prompts, _keys(2), slots=4)
    assert (
        read == watch.read - read == 2 * 48
    )  # 2 rows of 41 tokens, of which the last is not read, in steps of 16
    assert len({r.tokens for r in twice}) >= 18  # an end token at once may come twice


@pytest.mark.parametrize('mesh', [{}, {'tensor': 2, 'fsdp': 4}], ids=str)
def test_what_all_prompts_begin_with_is_read_once(monkeypatch, mesh):
    lm, params = toy(**mesh)
    rubric = _prompts(lm, 1, seed=5)[0][:1] + np.random.default_rng(3).integers(3, 64, 69).tolist()
    prompts = [rubric + p[1:] for p in _prompts(lm, 12)]
    monkeypatch.setattr(memory_plan, 'MIN_SHARED_PREFIX', 1000)
    apart = _sample(lm, params, prompts, slots=4)
    monkeypatch.undo()
    watch = _Watch(monkeypatch)
    _assert_same(_sample(lm, params, prompts, slots=4), apart)
    left = (
        max(map(len, prompts)) - 64 - 1
    )  # 64 of the 70 tokens once; then what is left but for the last one
    assert watch.read == 64 + 16 * -(-left // 16) * 16  # 12 rows, filled up to 16


def test_a_long_prompt_does_not_stall_the_slots(monkeypatch):
    """Two slots: while a sample of 100 tokens goes on in one, a prompt as long is read in sixteens
    for the other.
    """
    lm, params = toy()
    lm, layout, did = dataclasses.replace(lm, text=Endless()), memory_plan.plan, []
    small = {'chunk': 16, 'prompts': 1, 'pool': 128}
    monkeypatch.setattr(
        memory_plan, 'plan', lambda *a, **k: dataclasses.replace(layout(*a, **k), **small)
    )
    monkeypatch.setattr(
        scheduler, 'sorted', lambda groups, key: groups, raising=False
    )  # the long one comes last
    for name in ('prefill', 'decode'):
        real = getattr(programs, name)
        monkeypatch.setattr(
            programs, name, lambda *a, name=name, real=real: (did.append(name), real(*a))[1]
        )
    _sample(
        lm,
        params,
        [[BOS, 3], [BOS, 4], [BOS] + [5] * 100],
        _keys(3),
        slots=2,
        max_tokens=[100, 2, 12],
    )
    reads = [i for i, name in enumerate(did) if name == 'prefill'][-7:]  # 100 = 6 · 16 + 4
    assert [did[i + 1] for i in reads] == ['decode'] * 7


def test_slots_are_as_many_as_the_memory_holds():
    lm, _ = toy()
    # a column: keys and values, 2 layers, 2 heads of 8, 4 bytes
    assert memory_plan.column_bytes(lm) == 2 * 2 * 2 * 8 * 4 == 256
    ask = functools.partial(memory_plan.plan, lm, [21] * 40, [12] * 40, 40, slots=32)
    # a prompt's 20 tokens are read in one chunk of 32; with 12 samples' they take a page of 32
    layout = ask(memory=1e9)
    assert (layout.slots, layout.page, layout.blocks) == (32, 32, 1)
    assert (layout.pool, layout.chunk, layout.limit) == (32, 32, 16)
    fixed = (2 * layout.prompts + 1) * 32 * 256  # and the page that is nobody's
    assert layout.bytes == fixed + 32 * 32 * 256
    assert ask(memory=fixed + 7.9 * 32 * 256).slots == 7
    with pytest.raises(
        ValueError, match=r'a slot of 32 tokens takes 7.63e-06 GiB .* raise model.cache_gib'
    ):
        ask(memory=fixed + 0.9 * 32 * 256)
    lm, _ = toy(tensor=2, fsdp=4)
    assert (
        memory_plan.column_bytes(lm) == 128
    )  # a device has one of the two heads, and a fourth of the rows
    assert memory_plan.plan(lm, [21] * 40, [12] * 40, 40, slots=30, memory=1e9).slots == 32
    params = toy()[1]
    with pytest.raises(ValueError, match='the cache may take 1e-06 GiB'):
        _sample(dataclasses.replace(toy()[0], cache_gib=1e-6), params, [[BOS, 5]], _keys(1))


def test_a_narrow_cache_changes_the_logp_a_little():
    lm, params = toy()
    prompts = _prompts(lm)
    exact = _sample(lm, params, prompts, temperature=0.0, max_tokens=3)
    narrow = _sample(
        dataclasses.replace(lm, cache='bfloat16'), params, prompts, temperature=0.0, max_tokens=3
    )
    apart = [abs(a.logp - b.logp) for a, b in zip(exact, narrow) if a.tokens == b.tokens]
    assert len(apart) > 6 and 1e-5 < max(apart) < 0.05  # 8 bits of mantissa


def test_a_stop_string_ends_a_response_before_itself():
    lm, params = toy()
    prompts = _prompts(lm, 16)
    whole, stop = _sample(lm, params, prompts, max_tokens=16), ('7', '1 2')
    for before, found in zip(whole, _sample(lm, params, prompts, max_tokens=16, stop=stop)):
        at = [before.text.index(s) for s in stop if s in before.text]
        assert found.text == before.text[: min(at, default=None)]
        assert found.tokens == before.tokens[: len(found.tokens)]
        if at:
            said = [lm.text.decode(found.tokens[:n]) for n in (-1, len(found.tokens))]
            assert found.finish == 'stop' and [any(s in text for s in stop) for text in said] == [
                False,
                True,
            ]
            assert found.logp != before.logp or found.tokens == before.tokens
        else:
            assert found == before
    assert 4 < sum('7' in r.text or '1 2' in r.text for r in whole) < 16


# --- a killed call ----------------------------------------------------------------------------------------------------


def test_what_was_finished_is_not_made_again_and_not_a_bit_changes(tmp_path, monkeypatch):
    lm, params = toy()
    prompts, path = (
        [p for p in _prompts(lm, 10) for _ in range(3)],
        str(tmp_path / 'x.partial.jsonl'),
    )
    ask = functools.partial(_sample, lm, params, prompts, _keys(30), slots=4)
    expected, real, calls = ask(), programs.decode, iter(range(1000))

    def dying(*args):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(programs, 'decode', dying)
    with pytest.raises(KeyboardInterrupt), journal.recording(path):
        ask()
    monkeypatch.undo()
    with open(path) as file:
        text = file.read()
    kept = text.count('\n')
    assert 4 < kept < 25
    with open(path, 'w') as file:
        file.write(text + '["half of a li')
    made = []
    monkeypatch.setattr(
        scheduler, 'Response', lambda *a, real=scheduler.Response: (made.append(a), real(*a))[1]
    )
    with journal.recording(path):
        found = ask()
    assert found == expected and [r.logp for r in found] == [r.logp for r in expected]
    assert len(made) == 30 - kept
    with open(path) as file:
        lines = file.read().splitlines()
    assert len(lines) == 30 and lines[:kept] == text.splitlines()
    with journal.recording(path):  # other requests are other names
        assert ask(temperature=0.5) != expected
    assert journal.current() is None


@pytest.fixture
def telling(monkeypatch):
    """Every token's log-probability says how many slots there were when it was drawn, as its last
    bits may.
    """
    real = token_sampling.sample_tokens

    def draw(logits, *args):
        token, logp = real(logits, *args)
        return token, logp + len(logits)

    monkeypatch.setattr(token_sampling, 'sample_tokens', draw)
    advance = programs.decode
    advance.clear_cache()
    yield
    advance.clear_cache()


@pytest.mark.parametrize('options', [{}, {'stop': ('63',)}], ids=str)
def test_fewer_slots_at_the_end_and_not_a_bit_changes_where_a_run_was_killed(
    options, telling, tmp_path, monkeypatch
):
    lm, params = toy()
    lm = dataclasses.replace(lm, text=Endless())
    limits = np.random.default_rng(4).integers(1, 80, 36).tolist()
    prompts = [p for p in _prompts(lm, 12) for _ in range(3)]
    ask = functools.partial(
        _sample, lm, params, prompts, _keys(36), max_tokens=limits, slots=24, **options
    )
    fixed, calls, real, made, die = ask(), [], programs.decode, [], None
    monkeypatch.setattr(scheduler, 'SPARED', 1)
    monkeypatch.setattr(scheduler, 'SMALL', 1)  # the cache grows as its samples do
    monkeypatch.setattr(memory_plan, 'PAGE_OF_A_CPU', 16)

    def watched(*args):
        calls.append((len(args[3].active), args[3].cache[0]['k'].shape[1]))
        if len(calls) == die:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(programs, 'decode', watched)
    monkeypatch.setattr(
        scheduler, 'Response', lambda *a, real=scheduler.Response: (made.append(a), real(*a))[1]
    )
    expected = ask()
    assert [r.tokens for r in expected] == [r.tokens for r in fixed] and len(made) == 36
    logp = lambda found: np.array([r.logp for r in found])
    assert (logp(fixed) - logp(expected) > 0.5).sum() > 5  # made in fewer slots
    slots, pages = zip(*calls)
    assert slots[0] == 24 and set(slots) == {24, 16, 8} and len(set(pages)) > 1
    for at in (len(slots) // 2, len(slots) * 3 // 4):
        path = str(tmp_path / f'{at}.jsonl')
        calls.clear(), made.clear()
        die = at
        with pytest.raises(KeyboardInterrupt), journal.recording(path):
            ask()
        assert 3 < len(made) < 36
        die = None
        with journal.recording(path):
            assert ask() == expected
        with open(path) as file:
            assert len(file.read().splitlines()) == 36


# --- how one token is picked ------------------------------------------------------------------------------------------

_draw = jax.jit(token_sampling.sample_tokens)


def _picked(logits, u, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    each = lambda value, kind=np.float32: np.full(len(logits), value, kind)
    return _draw(logits, u, each(temperature), each(top_k, np.int32), each(top_p), each(min_p))


def _logits(rows, vocab, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab)).astype(np.float32)


@pytest.mark.parametrize('vocab', [16, 300])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'temperature': 0.5},
        {'top_p': 0.7},
        {'temperature': 2.0, 'top_p': 0.3},
        {'top_k': 3},
        {'min_p': 0.2},
        {'top_k': 5, 'top_p': 0.8},
        {'temperature': 2.0, 'top_k': 7, 'top_p': 0.9, 'min_p': 0.05},
    ],
    ids=str,
)
def test_tokens_come_as_often_as_their_probability(options, vocab):
    """u = (i + ½)/n for n = 4000: a token's count is n·p, but for ±1 at each of its ends."""
    n, (logits,) = 4000, _logits(1, vocab)
    u = (np.arange(n, dtype=np.float32) + 0.5) / n
    tokens, logp = _picked(np.tile(logits, (n, 1)), u, **options)
    p = np.exp(logits.astype(np.float64) / options.get('temperature', 1.0))
    best, order = p.max(), np.argsort(-p)
    p[order[options.get('top_k') or vocab :]] = 0
    p /= p.sum()
    keep = np.cumsum(p[order]) - p[order] < options.get(
        'top_p', 1.0
    )  # the smallest set that holds top_p
    p[order[~keep]] = 0
    p[np.exp(logits / options.get('temperature', 1.0)) < options.get('min_p', 0.0) * best] = 0
    assert np.abs(np.bincount(tokens, minlength=vocab) / n - p / p.sum()).max() <= 1.5 / n
    raw = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    np.testing.assert_allclose(
        logp, raw[tokens], atol=1e-5
    )  # at temperature 1 and of the whole vocabulary


@pytest.mark.parametrize('top_p', [0.1, 0.5, 0.9])
def test_no_token_comes_from_outside_the_nucleus(top_p):
    logits = _logits(256, 64, seed=1)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    likelier = (p[:, None, :] * (p[:, None, :] > p[:, :, None])).sum(
        -1
    )  # [R V], the mass of likelier tokens
    for u in (*np.random.default_rng(2).uniform(size=8), 0.0, 1 - 2.0**-23):
        tokens, _ = _picked(logits, np.full(256, u, np.float32), top_p=top_p)
        assert (likelier[np.arange(256), tokens] < top_p + 1e-6).all()


def test_no_rounding_lets_an_excluded_token_through():
    """Hard draws: those that fall on a rounded step of the CDF, at a vocabulary where its sums are
    taken in blocks.
    """
    logits = _logits(64, 500, seed=3)
    p = np.asarray(jax.nn.softmax(logits))
    order = np.argsort(-p, axis=-1, kind='stable')
    ranked = np.take_along_axis(p, order, -1)
    kept = np.zeros_like(p)
    np.put_along_axis(
        kept, order, np.where(np.cumsum(ranked, -1) - ranked < 0.7 + 1e-5, ranked, 0), -1
    )
    cdf = np.asarray(jnp.cumsum(jnp.asarray(kept), axis=-1))
    for column in range(0, 500, 5):
        u = np.clip(cdf[:, column] / cdf[:, -1], 0, 1 - 2.0**-23).astype(np.float32)
        tokens, _ = _picked(logits, u, top_p=0.7)
        assert (kept[np.arange(64), tokens] > 0).all()


def test_rows_do_not_share_their_options():
    """Each row's options alone, and all in one call: the same tokens."""
    logits, u = _logits(6, 200, seed=5), np.linspace(0.05, 0.9, 6, dtype=np.float32)
    options = [
        (1.0, 0, 1.0, 0.0),
        (0.0, 0, 1.0, 0.0),
        (0.7, 4, 1.0, 0.0),
        (1.0, 0, 0.5, 0.0),
        (2.0, 9, 0.8, 0.1),
        (1.0, 0, 1.0, 0.3),
    ]
    columns = [np.array(c, np.int32 if i == 1 else np.float32) for i, c in enumerate(zip(*options))]
    tokens, logp = _draw(logits, u, *columns)
    for i, one in enumerate(options):
        alone = _picked(logits[i : i + 1], u[i : i + 1], *one)
        assert (int(alone[0][0]), float(alone[1][0])) == (int(tokens[i]), float(logp[i]))


def test_temperature_zero_is_argmax_whatever_the_draw():
    logits = _logits(64, 32)
    for u in (0.0, 0.4, 1 - 2.0**-23):
        tokens, _ = _picked(logits, np.full(64, u, np.float32), temperature=0.0)
        np.testing.assert_array_equal(tokens, logits.argmax(-1))


# --- the shelf --------------------------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_left_out():
    lm, params = toy()
    prompts = [
        numbers([5], 'short'),
        numbers([6] * 120, 'long'),
        numbers([7], 'other'),
    ]  # 1 BOS + 120 + 8 > 128
    plain = functools.partial(samplers.sample, max_tokens=8)
    for sampler in (plain, functools.partial(samplers.with_greedy, sampler=plain)):
        assert [r.prompt.id for r in sampler(lm, params, prompts, KEY)] == ['short', 'other']


def test_with_greedy_ends_with_the_greedy_response():
    lm, params = toy()
    prompts = [numbers([5, 6], 'a'), numbers([7], 'b')]
    plain = functools.partial(samplers.sample, n=2, max_tokens=8)
    drawn = plain(lm, params, prompts, KEY)
    greedy = samplers.sample(
        lm, params, prompts, jax.random.key(99), n=1, temperature=0.0, max_tokens=8
    )
    for both, d, g in zip(
        samplers.with_greedy(lm, params, prompts, KEY, sampler=plain), drawn, greedy, strict=True
    ):
        assert both.responses == d.responses + g.responses


def test_no_sample_is_refused():
    with pytest.raises(ValueError, match='n=0'):
        samplers.sample(*toy(), [numbers([5])], KEY, n=0)


def test_given_wants_a_response_with_every_prompt():
    (rollout,) = samplers.given(None, None, [ask('a', 'Hi', responses=['Hello', 'Ho'])], KEY)
    assert [r.text for r in rollout.responses] == ['Hello', 'Ho'] and {
        r.finish for r in rollout.responses
    } == {'stop'}
    with pytest.raises(ValueError, match="'b' came without"):
        samplers.given(None, None, [ask('b', 'Hi')], KEY)


@pytest.mark.parametrize('name', binding.part_names('sampler', samplers))
def test_every_sampler_keeps_the_shelfs_contract(name):
    """(lm, params, prompts, key, *, …) -> a Rollout for each prompt, in order; the same key, the
    same.
    """
    function = getattr(samplers, name)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:4] == ['lm', 'params', 'prompts', 'key']
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[4:]) and function.__doc__
    small = {'n': 2, 'max_tokens': 6}
    nested = {'sampler': functools.partial(samplers.sample, **small)}
    sampler = functools.partial(
        function, **{k: v for k, v in (small | nested).items() if k in parameters}
    )
    lm, params = toy()
    judge = {
        'judged': None,
        'points': [0, 5],
    }  # which disputed asks for; one prompt for each that is judged
    prompts = [
        ask(f'p{i}', f'5 {6 + i}', responses=['7', '8 9'], **judge | {'judged': i})
        for i in range(3)
    ]
    rollouts = sampler(lm, params, prompts, KEY)
    assert all(isinstance(r, Rollout) for r in rollouts) and [r.prompt for r in rollouts] == prompts
    assert all(r.responses and all(a.tokens or a.text for a in r.responses) for r in rollouts)
    assert rollouts == sampler(lm, params, prompts, KEY)
    assert sampler(lm, params, [], KEY) == []
