"""What a round samples and trains on is read from its config, and its programs' times add up."""

import dataclasses
import functools

import pytest
import toys

from configs import self_rewarding
from selfrew.plan import chips, jobs, prediction
from selfrew.shelves import scorers

CONTEXT = 4096


@pytest.fixture(scope='module')
def turn():
    return jobs.sampling_turn(self_rewarding.get_config('llama2_70b').to_dict())


@pytest.fixture(scope='module')
def planned(turn):
    lm = dataclasses.replace(toys.toy()[0], cache_gib=40.0)
    sampling = jobs.sampling_jobs(turn, 500, CONTEXT)
    return [(job, jobs.plan_memory(lm, job, chips.CHIPS['v5p'])) for job in sampling]


def test_requests_are_read_from_the_config_without_its_data(turn):
    sample, judge = jobs.sampling_jobs(turn, 500, CONTEXT)
    assert sample.requests == 7000 * 4
    assert (sample.prompt, sample.room) == (512, 1024)  # the prompt: a multiple of 32
    assert (sample.distinct, sample.shared, sample.slots) == (7000, 0, 256)
    assert judge.requests == 7000 * 4 * 3 and judge.distinct == 7000 * 4
    assert judge.prompt > 500 + 1024


def test_a_pairwise_judge_compares_each_response_with_each_in_both_orders(turn):
    pairwise = functools.partial(scorers.compare, votes=2, template='pairwise', max_tokens=256)
    turn = dataclasses.replace(turn, scorer=pairwise)
    _, compare = jobs.sampling_jobs(turn, 500, CONTEXT)
    assert compare.requests == 7000 * 4 * 3 * 2 and compare.distinct == 7000 * 4 * 3
    assert 500 + 2 * 1024 < compare.prompt < 500 + 2 * 1024 + 400


def test_a_job_gets_the_engines_memory_plan(planned):
    sizes = {(memory.slots, memory.prompts, memory.chunk) for _, memory in planned}
    assert sizes == {(256, 4, 256)}


def test_an_update_has_the_shape_of_full_length_responses(turn):
    # 512 + 2 · 1,024 tokens: one example a row
    assert jobs.batch_shape(turn, 512, 1024, 16) == jobs.BatchShape(
        examples=16, n=2, micros=1, rows=16, length=4096, selected=2048
    )


def test_a_rounds_time_is_that_of_its_programs_times_how_often_they_run(turn, planned):
    results = {
        'sample: prefill': {'seconds': 1.0},
        'sample: decode': {'seconds': 0.5},
        'judge: prefill': {'seconds': 2.0},
        'judge: decode': {'seconds': 0.25},
        'reference': {'seconds': 3.0},
        'update': {'seconds': 9.0},
    }
    shape = jobs.batch_shape(turn, 512, 1024, 16)
    # 28,000 and 84,000 requests in 256 slots: 110 and 329 to each; 7,000 and 28,000 prompts read by
    # fours, 256 tokens at a time, a judge's rubric once; 16 steps at a time; 7,000 pairs in batches
    # of 16: 438
    judge = planned[1][0]
    chunks = -(-(judge.prompt - 1 - judge.shared) // 256)
    expected = {
        'sample': 1750 * 2 * 1.0 + 110 * 64 * 0.5,
        'judge': (7000 * chunks + 1) * 2.0 + 329 * 16 * 0.25,
        'reference': 438 * 3.0,
        'update': 438 * 9.0,
    }
    seconds = prediction.round_seconds(turn, planned, shape, results)
    assert seconds == expected | {'round': sum(expected.values())}


def test_a_rounds_time_is_unknown_where_a_programs_is(turn, planned):
    results = {'sample: prefill': {'seconds': 1.0}, 'sample: decode': {'seconds': 0.5}}
    shape = jobs.batch_shape(turn, 512, 1024, 16)
    seconds = prediction.round_seconds(turn, planned[:1], shape, results)
    assert seconds['update'] is None and seconds['round'] is None
    assert seconds['sample'] == 1750 * 2 * 1.0 + 110 * 64 * 0.5
