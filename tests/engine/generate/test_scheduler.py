"""A sample does not depend on slots, order, company or mesh, and slots are refilled as they end."""

import dataclasses

import numpy as np
import pytest
from sampling_toys import (
    CallCounter,
    Endless,
    assert_same_responses,
    ragged_prompts,
    request_keys,
    sample,
)
from toys import BOS, toy

from selfrew.engine.generate import memory_plan, prefill, programs


@pytest.fixture(scope='module')
def expected():
    """The responses to ragged_prompts() with the default slots on one device."""
    return sample(*toy(), ragged_prompts())


@pytest.mark.parametrize('slots', [1, 5, 64])
def test_samples_do_not_depend_on_the_number_of_slots(expected, slots):
    assert_same_responses(sample(*toy(), ragged_prompts(), slots=slots), expected)


def test_samples_do_not_depend_on_the_order_of_requests_or_their_company(expected):
    lm, params = toy()
    prompts, keys = ragged_prompts(), request_keys(12)
    order = np.random.default_rng(1).permutation(12)
    reordered = sample(lm, params, [prompts[i] for i in order], keys[order])
    assert_same_responses(reordered, [expected[i] for i in order])
    assert_same_responses(sample(lm, params, prompts[3:5], keys[3:5]), expected[3:5])


@pytest.mark.parametrize('mesh', [{'data': 8}, {'fsdp': 8}, {'tensor': 2, 'fsdp': 4}], ids=str)
def test_samples_do_not_depend_on_the_mesh(expected, mesh):
    assert_same_responses(sample(*toy(**mesh), ragged_prompts()), expected)


@pytest.mark.parametrize('mesh', [{}, {'fsdp': 8}], ids=str)
def test_not_a_bit_depends_on_what_else_is_in_the_slots(monkeypatch, mesh):
    """A resumed call asks for some of the requests only: they are in other slots, beside others.

    The sizes of its arrays are those of all requests, as a journal keeps them.
    """
    lm, params = toy(**mesh)
    prompts, keys = [prompt for prompt in ragged_prompts(20) for _ in range(2)], request_keys(40)
    expected = sample(lm, params, prompts, keys, slots=8)
    lengths = [len(prompt) for prompt in prompts]
    plan = memory_plan.plan(lm, lengths, [12] * 40, 20, slots=8, memory=1e9)
    monkeypatch.setattr(memory_plan, 'plan', lambda *args, **kwargs: plan)
    for subset in ([3, 38, 20, 7, 11, 0], [39, *range(0, 40, 3)]):
        responses = sample(lm, params, [prompts[i] for i in subset], keys[np.array(subset)])
        assert responses == [expected[i] for i in subset]


def test_slots_are_refilled_while_the_longest_sample_goes_on(monkeypatch):
    """2 slots, no end tokens: beside one sample of 60 tokens, 25 of 2. Batches would take 60 + 24
    steps.
    """
    calls, (lm, params) = CallCounter(monkeypatch), toy()
    lm, limits = dataclasses.replace(lm, text=Endless()), [60] + [2] * 25
    responses = sample(lm, params, [[BOS, 5]] * 26, max_tokens=limits, slots=2)
    assert [len(response.tokens) for response in responses] == limits
    assert {response.finish for response in responses} == {'length'}
    assert calls.steps == 60


def test_a_long_prompt_does_not_stall_the_slots(monkeypatch):
    """While a sample of 100 tokens goes on in one of two slots, a prompt of 101 tokens is prefilled
    for the other, in chunks of 16.
    """
    lm, params = toy()
    lm, names = dataclasses.replace(lm, text=Endless()), []
    plan, group_by_prompt = memory_plan.plan, prefill.group_by_prompt

    def small_plan(*args, **kwargs):
        sizes = {'prefill_chunk': 16, 'prefill_rows': 1, 'prefill_columns': 128}
        return dataclasses.replace(plan(*args, **kwargs), **sizes)

    def shortest_first(requests, first):
        return group_by_prompt(requests, first)[::-1]

    def record_calls(name, program):
        def recorded(*args):
            names.append(name)
            return program(*args)

        monkeypatch.setattr(programs, name, recorded)

    monkeypatch.setattr(memory_plan, 'plan', small_plan)
    monkeypatch.setattr(prefill, 'group_by_prompt', shortest_first)
    record_calls('prefill', programs.prefill)
    record_calls('decode', programs.decode)
    prompts = [[BOS, 3], [BOS, 4], [BOS] + [5] * 100]
    sample(lm, params, prompts, slots=2, max_tokens=[2, 100, 12])
    reads = [i for i, name in enumerate(names) if name == 'prefill'][-7:]  # 100 = 6 · 16 + 4
    assert [names[i + 1] for i in reads] == ['decode'] * 7
