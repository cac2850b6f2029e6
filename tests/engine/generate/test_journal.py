"""A killed call goes on where it was: recorded responses are not sampled again, and the results are
bit-identical.
"""

import dataclasses
import functools

import numpy as np
import pytest
from sampling_toys import Endless, ragged_prompts, request_keys, sample
from toys import toy

from selfrew.engine.generate import (
    device_slots,
    journal,
    memory_plan,
    programs,
    scheduler,
    token_sampling,
)


def _read(path):
    with open(path) as file:
        return file.read()


class DecodeWatch:
    """Records each decode call's (slots, pages) and raises KeyboardInterrupt at call `die_at`."""

    def __init__(self, monkeypatch):
        self.sizes, self.die_at = [], None
        decode = programs.decode

        def watched(module, params, prefix, slots, *rest):
            self.sizes.append((len(slots.active), slots.cache[0]['k'].shape[1]))
            if len(self.sizes) == self.die_at:
                raise KeyboardInterrupt
            return decode(module, params, prefix, slots, *rest)

        monkeypatch.setattr(programs, 'decode', watched)


@pytest.fixture
def decodes(monkeypatch):
    return DecodeWatch(monkeypatch)


@pytest.fixture
def made(monkeypatch):
    """The responses that the scheduler makes."""
    responses, make_response = [], scheduler.Response

    def recorded(*fields):
        responses.append(make_response(*fields))
        return responses[-1]

    monkeypatch.setattr(scheduler, 'Response', recorded)
    return responses


def test_recorded_responses_are_not_made_again_and_not_a_bit_changes(tmp_path, decodes, made):
    lm, params = toy()
    prompts = [prompt for prompt in ragged_prompts(10) for _ in range(3)]
    path = str(tmp_path / 'x.partial.jsonl')
    call = functools.partial(sample, lm, params, prompts, slots=4)
    expected = call()
    decodes.sizes.clear()
    decodes.die_at = 8
    with pytest.raises(KeyboardInterrupt), journal.recording(path):
        call()
    decodes.die_at = None
    text = _read(path)
    kept = text.count('\n')
    assert 4 < kept < 25
    with open(path, 'a') as file:
        file.write('["half of a li')
    made.clear()
    with journal.recording(path):
        responses = call()
    assert responses == expected
    assert [response.logp for response in responses] == [other.logp for other in expected]
    assert len(made) == 30 - kept
    lines = _read(path).splitlines()
    assert len(lines) == 30 and lines[:kept] == text.splitlines()
    with journal.recording(path):  # other options have other names
        assert call(temperature=0.5) != expected
    assert journal.current() is None


@pytest.fixture
def logp_counts_slots(monkeypatch):
    """Adds the number of slots to each token's log-prob: as if its last bits depended on it."""
    sample_tokens = token_sampling.sample_tokens

    def marked(logits, *args):
        token, logp, sampled_logp = sample_tokens(logits, *args)
        return token, logp + len(logits), sampled_logp

    monkeypatch.setattr(token_sampling, 'sample_tokens', marked)
    decode = programs.decode
    decode.clear_cache()
    yield
    decode.clear_cache()


@pytest.mark.slow
@pytest.mark.usefixtures('logp_counts_slots')
@pytest.mark.parametrize('options', [{}, {'stop': ('63',)}], ids=str)
def test_slots_shrink_at_the_end_and_not_a_bit_changes_where_a_call_was_killed(
    options, tmp_path, monkeypatch, decodes, made
):
    lm, params = toy()
    lm = dataclasses.replace(lm, text=Endless())
    limits = np.random.default_rng(4).integers(1, 80, 36).tolist()
    prompts = [prompt for prompt in ragged_prompts() for _ in range(3)]
    options |= {'max_tokens': limits, 'slots': 24}
    call = functools.partial(sample, lm, params, prompts, request_keys(36), **options)
    fixed = call()  # with 24 slots to the end
    decodes.sizes.clear()
    made.clear()
    monkeypatch.setattr(scheduler, 'MIN_FLOPS_SAVED', 1)
    monkeypatch.setattr(device_slots, 'SMALL_CACHE_BYTES', 1)  # the cache grows with its samples
    monkeypatch.setattr(memory_plan, 'CPU_PAGE_SIZE', 16)
    expected = call()
    assert [other.tokens for other in expected] == [response.tokens for response in fixed]
    assert len(made) == 36
    saved = [response.logp - other.logp for response, other in zip(fixed, expected)]
    assert sum(slots > 0.5 for slots in saved) > 5  # tokens that were sampled with fewer slots
    slots = [slot_count for slot_count, _ in decodes.sizes]
    assert slots[0] == 24 and set(slots) == {24, 16, 8}
    assert len({page_count for _, page_count in decodes.sizes}) > 1
    for die_at in (len(slots) // 2, len(slots) * 3 // 4):
        path = str(tmp_path / f'{die_at}.jsonl')
        decodes.sizes.clear()
        made.clear()
        decodes.die_at = die_at
        with pytest.raises(KeyboardInterrupt), journal.recording(path):
            call()
        assert 3 < len(made) < 36
        decodes.die_at = None
        with journal.recording(path):
            assert call() == expected
        assert len(_read(path).splitlines()) == 36
