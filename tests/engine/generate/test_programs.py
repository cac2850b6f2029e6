"""The device programs agree with the full forward pass, and keep their shardings and shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_toys import KEY, LOGP_REL, ragged_prompts, request_keys, sample
from toys import BOS, SMALL, assert_close, toy

from selfrew.engine import packing, reference
from selfrew.engine.generate import memory_plan, programs
from selfrew.engine.generate.page_table import PageTable
from selfrew.models import decoder
from selfrew.shelves import samplers
from selfrew.types import Example, user_prompt

PICK = 'Pick 2 fruits from this list: lime, bee, kiwi, saw, axe.'
QUESTIONS = ['Tom has 3 eggs. How many eggs does Tom have?', 'Hi', PICK, '?']


@pytest.mark.parametrize(
    'options',
    [{}, {'temperature': 0.5, 'top_p': 0.7}, {'top_k': 5, 'min_p': 0.1}, {'temperature': 0.0}],
    ids=str,
)
def test_decode_equals_teacher_forcing(tiny, options):
    """The log-prob is the raw distribution's, also where the sample was drawn from another one."""
    lm, params = tiny
    prompts = [user_prompt(f'p{i}', question) for i, question in enumerate(QUESTIONS)]
    rollouts = samplers.sample(lm, params, prompts, KEY, n=3, max_tokens=24, **options)
    assert len({len(lm.text.prompt_tokens(prompt)) for prompt in prompts}) == 4
    examples = [Example(rollout.prompt, rollout.responses) for rollout in rollouts]
    docs, dropped = packing.tokenise(lm.text, examples, row_length=256)
    batches = packing.batches(docs, batch=4, row_length=256)
    table = reference.reference_logp(lm, params, batches).column
    assert dropped == 0
    logp = [[response.logp for response in rollout.responses] for rollout in rollouts]
    assert_close(np.array(logp), table, LOGP_REL)


@pytest.mark.parametrize('length, page', [(75, 64), (110, 16)])
def test_a_prompt_lies_whole_in_its_pages(monkeypatch, length, page):
    """Two pages, and pages that are smaller than a chunk of the prefill."""
    monkeypatch.setattr(memory_plan, 'CPU_PAGE_SIZE', page)
    lm, params = toy()
    rngs = [np.random.default_rng(i) for i in range(3)]
    prompts = [
        [BOS, *rng.integers(3, SMALL.vocab, length - i - 1).tolist()] for i, rng in enumerate(rngs)
    ]
    responses = sample(lm, params, prompts)
    tokens = np.zeros((3, 128), np.int32)
    for row, prompt, response in zip(tokens, prompts, responses):
        row[: len(prompt) + len(response.tokens)] = prompt + list(response.tokens)
    position, mask = (
        jnp.broadcast_to(jnp.arange(128), (3, 128)),
        jnp.tril(jnp.ones((128, 128), bool)),
    )
    hidden, _ = lm.module.apply(
        {'params': params}, tokens, position, jnp.broadcast_to(mask, (3, 128, 128))
    )
    logp = np.asarray(jax.nn.log_softmax(decoder.logits(lm.module, params, hidden)))
    expected = []
    for row, prompt, response in zip(logp, prompts, responses):
        places = len(prompt) - 1 + np.arange(len(response.tokens))
        expected.append(row[places, response.tokens].sum())
    assert_close([response.logp for response in responses], expected, LOGP_REL)


def test_greedy_is_the_argmax_of_full_passes(tiny):
    lm, params = tiny
    length = 96

    @jax.jit
    def likeliest_token(tokens, count):
        mask = jnp.tril(jnp.ones((1, length, length), bool))
        hidden, _ = lm.module.apply({'params': params}, tokens, jnp.arange(length)[None], mask)
        return jnp.argmax(hidden[0, count - 1] @ params['embed'].T)

    prompts = [lm.text.prompt_tokens(user_prompt('', question)) for question in QUESTIONS]
    responses = sample(lm, params, prompts, temperature=0.0, max_tokens=20)
    for prompt, response in zip(prompts, responses):
        tokens = list(prompt)
        for token in response.tokens:
            padded = np.array([tokens + [0] * (length - len(tokens))], np.int32)
            assert token == int(likeliest_token(padded, len(tokens)))
            tokens.append(token)
        assert response.finish == 'stop' or len(response.tokens) == 20


def _request_of_ones(count):
    shapes = programs.SlotRequest((2,), *[()] * 7, (1,), ())
    fields = zip(programs.REQUEST_DTYPES, shapes)
    return programs.SlotRequest(*(np.ones((count, *shape), dtype) for dtype, shape in fields))


def test_the_cache_is_split_over_all_devices():
    """Four parts, each with two slots and three pages, of which page 0 belongs to no slot."""
    lm, params = toy(tensor=2, fsdp=4)
    state = programs.empty_slots(
        lm.module, lm.cache_dtype, rows=8, pages=12, page_size=16, max_tokens=4, ends=1, words=2
    )
    pool = programs.empty_cache(lm.module, lm.cache_dtype, 8, 32)
    table = PageTable(8, 2, 16, 3, 4)
    table.allocate(1, 1)
    table.allocate(6, 2)
    tokens = lm.place_rows(np.full((8, 32), 5, np.int32))
    pool = programs.prefill(lm.module, params, tokens, np.int32(0), None, pool)
    pages = np.array([table.global_pages(1, 2), table.global_pages(6, 2)], np.int32)
    assert pages.tolist() == [[1, 0], [10, 11]]
    slot, row = np.array([1, 6], np.int32), np.array([0, 7], np.int32)
    inserted = programs.insert(lm.module, state, pool, slot, row, pages, _request_of_ones(2))
    busy, steps = np.ones(8, bool), np.int32(2)
    decoded = programs.decode(
        lm.module, params, None, inserted, table.device_arrays(), busy, np.int32(0), steps
    )
    source = table.repack(np.arange(8), 5)
    moved = decoded._replace(
        cache=tuple(programs.move_pages(lm.module, part, source) for part in decoded.cache)
    )
    assert table.global_pages(6, 2).tolist() == [16, 17]
    assert table.allocated.tolist() == [0, 1, 0, 0, 0, 0, 2, 0]
    for name in 'kv':
        old, new = np.asarray(decoded.cache[0][name]), np.asarray(moved.cache[0][name])
        assert (new[:, [1, 16, 17]] == old[:, [1, 10, 11]]).all()
    for leaf in jax.tree.leaves([pool, moved.cache]):
        assert leaf.addressable_shards[0].data.size * 8 == leaf.size
    assert moved.cache[0]['k'].shape == (2, 20, 2, 8, 16)
    assert np.asarray(moved.token_count).tolist() == [0, 1, 0, 0, 0, 0, 1, 0]


def test_no_option_of_a_request_is_compiled_in():
    lm, params = toy()
    prompts, keys = ragged_prompts(), request_keys(12, jax.random.key(3))
    sample(lm, params, prompts)
    before, compiled = programs.decode._cache_size(), []

    def watch(event, *_, **__):
        if 'backend_compile' in event:
            compiled.append(event)

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
            sample(lm, params, prompts, keys, **options)
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)
    assert programs.decode._cache_size() == before
    assert not compiled


def test_a_bfloat16_cache_changes_the_logp_a_little():
    lm, params = toy()
    prompts, options = ragged_prompts(), {'temperature': 0.0, 'max_tokens': 3}
    exact = sample(lm, params, prompts, **options)
    narrow = sample(dataclasses.replace(lm, cache='bfloat16'), params, prompts, **options)
    pairs = [(a.logp, b.logp) for a, b in zip(exact, narrow) if a.tokens == b.tokens]
    assert len(pairs) > 6
    exact_logp, narrow_logp = np.array(pairs).T
    error = np.abs(exact_logp - narrow_logp).max() / np.abs(exact_logp).max()
    assert 1e-4 < error < 1e-2  # 8 bits of mantissa round by up to 2^-9 = 2e-3; float32 by 6e-8
