"""There are as many slots as the memory holds, by bytes counted by hand."""

import dataclasses
import functools

import jax
import pytest
from sampling_toys import sample
from toys import BOS, toy

from selfrew.engine import sampling_layout
from selfrew.engine.generate import memory_plan


def test_slots_are_as_many_as_the_memory_holds():
    lm, _ = toy()
    # A column has keys and values of 2 layers, 2 heads of 8, 4 bytes each.
    assert memory_plan.column_bytes(lm) == 2 * 2 * 2 * 8 * 4 == 256
    plan = functools.partial(memory_plan.plan, lm, [21] * 40, [12] * 40, 40, slots=32)
    # A prompt's 20 tokens are prefilled in one chunk of 32; with 12 sampled ones they fill a page.
    roomy = plan(memory=1e9)
    assert (roomy.slots, roomy.page_size, roomy.pages_per_slot) == (32, 32, 1)
    assert (roomy.prefill_columns, roomy.prefill_chunk, roomy.max_tokens) == (32, 32, 16)
    # two pools, and the page that belongs to no slot
    fixed = (2 * roomy.prefill_rows + 1) * 32 * 256
    assert roomy.bytes == fixed + 32 * 32 * 256
    assert plan(memory=fixed + 7.9 * 32 * 256).slots == 7
    too_small = r'a slot of 32 tokens takes 7.63e-06 GiB .* raise model.cache_gib'
    with pytest.raises(ValueError, match=too_small):
        plan(memory=fixed + 0.9 * 32 * 256)


def test_each_device_has_its_share_of_heads_and_rows():
    """One of the two heads, and a fourth of the rows: slots come in fours."""
    lm, _ = toy(tensor=2, fsdp=4)
    assert memory_plan.column_bytes(lm) == 128
    assert memory_plan.plan(lm, [21] * 40, [12] * 40, 40, slots=30, memory=1e9).slots == 32


def test_a_cache_that_does_not_fit_is_refused():
    lm, params = toy()
    with pytest.raises(ValueError, match='the cache may take 1e-06 GiB'):
        sample(dataclasses.replace(lm, cache_gib=1e-6), params, [[BOS, 5]])


def test_the_shared_prefix_is_without_last_tokens_and_in_steps_of_32():
    prefix = list(range(70))
    assert memory_plan.shared_prefix_length([[*prefix, 71], [*prefix, 72, 73]]) == 64
    assert memory_plan.shared_prefix_length([prefix[:64], prefix]) == 0  # 63 tokens, then 32 < 64
    assert memory_plan.shared_prefix_length([prefix[:65], prefix]) == 64


def test_slots_are_as_many_as_keep_a_devices_memory_busy(monkeypatch):
    """Until the cache of all samples takes three times as long to read as the weights."""
    lm, params = toy()
    monkeypatch.setattr(memory_plan, 'is_on_cpu', lambda lm: False)
    weights = sum(x.size for x in jax.tree.leaves(params)) * 4
    assert sampling_layout.weight_bytes(lm) == weights
    lengths, limits = [20] * 10**5, [12] * 10**5
    assert memory_plan.default_slots(lm, lengths, limits) == memory_plan.REPLICA_SLOTS
    assert memory_plan.default_slots(lm, lengths[:10], limits[:10]) == 16  # no more than requests
    monkeypatch.setattr(memory_plan, 'REPLICA_SLOTS', 1)
    balanced = 3 * weights / (26 * 256)  # half of its 12 tokens are there on average
    slots = memory_plan.default_slots(lm, lengths, limits)
    assert slots / 2 < balanced <= slots
    # Eight replicas, each with all weights and its own cache.
    replicas, _ = toy(data=8)
    assert memory_plan.default_slots(replicas, lengths, limits) == 8 * slots


def test_each_part_of_a_mesh_prefills_as_many_tokens():
    plans = [
        memory_plan.plan(toy(**mesh)[0], [100] * 512, [12] * 512, 512, slots=32, memory=1e9)
        for mesh in ({}, {'data': 8})
    ]
    assert [plan.prefill_rows * plan.prefill_chunk for plan in plans] == [1024, 8 * 1024]


def test_the_kernels_pages_hold_the_shared_prefix_in_whole_pages(monkeypatch):
    monkeypatch.setattr(memory_plan.paged_attention, 'kernel_of', lambda module, dtype: 'tpu')
    lm, _ = toy()
    plan = memory_plan.plan(lm, [400] * 8, [40] * 8, 8, slots=8, prefix_tokens=288, memory=1e9)
    assert (plan.page_size, plan.prefix_tokens, plan.prefix_pages) == (128, 256, 2)
    assert plan.tokens_beside_pages == 0
    assert plan.pages_per_slot == 2 + 2  # 399 - 256 + 40 tokens of its own
