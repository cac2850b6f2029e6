"""What a round samples and trains on is read from its config, and its programs' times add up."""

import dataclasses
import functools

import pytest
import toys

from configs import (
    controlled_decoding,
    iterative_dpo,
    meta_rewarding,
    rloo,
    seed_data,
    self_rewarding,
    selm,
)
from selfrew.plan import chips, jobs, prediction, training
from selfrew.shelves import losses, pairs, samplers, scorers

CONTEXT = 4096
GREEDY = samplers.with_greedy


@pytest.fixture(scope='module')
def turn():
    return jobs.sampling_turn(self_rewarding.get_config('llama2_70b').to_dict())


@pytest.fixture(scope='module')
def planned(turn):
    lm = dataclasses.replace(toys.toy()[0], cache_gib=40.0)
    sampling = [
        dataclasses.replace(job, slots=256) for job in jobs.sampling_jobs(turn, 500, CONTEXT)
    ]
    return [(job, jobs.plan_memory(lm, job, chips.CHIPS['v5p'].hbm_gib)) for job in sampling]


def test_requests_are_read_from_the_config_without_its_data(turn):
    sample, judge = jobs.sampling_jobs(turn, 500, CONTEXT)
    assert sample.requests == 7000 * 4
    assert (sample.prompt_tokens, sample.max_tokens) == (512, 1024)  # the prompt: a multiple of 32
    assert (sample.distinct_prompts, sample.prefix_tokens, sample.slots) == (7000, 0, None)
    assert judge.requests == 7000 * 4 * 3 and judge.distinct_prompts == 7000 * 4
    assert judge.prompt_tokens > 500 + 1024


def test_a_pairwise_judge_compares_each_response_with_each_in_both_orders(turn):
    pairwise = functools.partial(scorers.compare, votes=2, template='pairwise', max_tokens=256)
    turn = dataclasses.replace(turn, scorer=pairwise)
    _, compare = jobs.sampling_jobs(turn, 500, CONTEXT)
    assert compare.requests == 7000 * 4 * 3 * 2 and compare.distinct_prompts == 7000 * 4 * 3
    assert 500 + 2 * 1024 < compare.prompt_tokens < 500 + 2 * 1024 + 400


def test_judges_share_the_responses_and_have_titles_of_their_own(turn):
    judge = turn.scorer
    both = functools.partial(scorers.composite, scorers=(judge, judge), weights=(0.5, 0.5))
    sample, *judges = jobs.sampling_jobs(dataclasses.replace(turn, scorer=both), 500, CONTEXT)
    (alone,) = jobs.sampling_jobs(turn, 500, CONTEXT)[1:]
    assert sample.title == 'sample' and [job.title for job in judges] == ['judge 1', 'judge 2']
    assert {dataclasses.replace(job, title='judge') for job in judges} == {alone}


def test_what_is_joined_is_planned_too():
    """Meta-Rewarding: 5,000 prompts, 7 answers each, 11 verdicts on each; of the 7 judge prompts of
    a prompt the most disputed is kept, and each two of its verdicts are compared in both orders.
    """
    turn = jobs.sampling_turn(meta_rewarding.get_config('llama3_8b').to_dict())
    sampling = {job.title: job for job in jobs.sampling_jobs(turn, 500, 8192)}
    assert {title: job.requests for title, job in sampling.items()} == {
        'sample': 5000 * 7,
        'judge': 5000 * 7 * 11,
        'verdicts answers': 5000 * 7,
        'verdicts sample': 5000 * 7 * 11,
        'verdicts judge': 5000 * 11 * 10,
    }
    shown = sampling['verdicts sample']
    assert shown.distinct_prompts == 5000 * 7 and shown.prompt_tokens > 500 + 1024
    assert sampling['verdicts judge'].prompt_tokens > shown.prompt_tokens + 2 * shown.max_tokens
    assert training.example_count(turn) == 5000 + 5000
    lengths = training.example_lengths(turn, list(sampling.values()), 500)
    assert lengths == (shown.prompt_tokens, max(1024, shown.max_tokens))


def test_given_responses_are_judged_too():
    """100 prompts with 3 ranked responses each, and 3 verdicts on each response. An example is a
    judge prompt with one verdict.
    """
    config = seed_data.get_config().to_dict()
    config['round']['prompts']['n'] = 100
    turn = jobs.sampling_turn(config)
    assert turn.sampler.func is samplers.given and turn.pairs.func is pairs.agreeing
    (judge,) = jobs.sampling_jobs(turn, 40, 512)
    assert (judge.title, judge.distinct_prompts, judge.requests) == ('judge', 300, 900)
    verdict = jobs.argument(turn.scorer, 'max_tokens')
    # A response may fill the rest of a row; the template comes on top, and the verdict must fit.
    row_length = jobs.argument(turn.train, 'row_length')
    assert min(row_length, 512 - verdict) <= judge.prompt_tokens <= 512 - verdict
    assert training.example_lengths(turn, [judge], 40) == (judge.prompt_tokens, verdict)
    assert training.batch_shape(turn, judge.prompt_tokens, verdict, 1).n == 1
    assert training.example_count(turn) == 300  # one ranking a prompt
    assert not training.trains_on_samples(turn)


@pytest.mark.parametrize(
    ('scorer', 'judged'),
    [
        # Each of 50 · 2 comparisons shows two responses alone, or one first and the other first.
        ({'name': 'judge', 'votes': 3, 'max_tokens': 256}, {'wins: judge': 50 * 2 * 2 * 3}),
        ({'name': 'compare', 'votes': 3, 'max_tokens': 256}, {'wins: judge': 50 * 2 * 2 * 3}),
        ({'name': 'length'}, {}),
    ],
    ids=['judge', 'compare', 'length'],
)
def test_the_requests_of_a_win_rate_are_those_of_both_models_and_the_judge(turn, scorer, judged):
    entry = {
        'name': 'win_rate',
        'prompts': {'name': 'records', 'source': 'no/such/file.jsonl', 'n': 50},
        'sampler': {'name': 'sample', 'n': 2, 'max_tokens': 512},
        'scorer': scorer,
        'opponent': 'no/such/model/here',
    }
    measured = jobs.evaluation_jobs({'evals': {'wins': entry}}, turn, 500, CONTEXT)
    requests = {job.title: job.requests for job in measured}
    assert requests == {'wins: sample': 100, 'wins: opponent': 100} | judged
    assert {job.max_tokens for job in measured} == ({512, 256} if judged else {512})


def test_other_evaluations_sample_as_a_turn_does_and_uncounted_ones_are_left_out(turn):
    prompts = {'name': 'records', 'source': 'no/such/file.jsonl'}
    judge = {'name': 'judge', 'votes': 3}
    entry = {'name': 'mean_score', 'sampler': {'name': 'sample', 'n': 2}, 'scorer': judge}
    evaluations = {
        'score': entry | {'prompts': prompts | {'n': 50}},
        'uncounted': entry | {'prompts': prompts},
    }
    measured = jobs.evaluation_jobs({'evals': evaluations}, turn, 500, CONTEXT)
    requests = {job.title: job.requests for job in measured}
    assert requests == {'score: sample': 100, 'score: judge': 300}
    assert jobs.evaluation_jobs({'evals': None}, turn, 500, CONTEXT) == []


def test_a_greedy_response_beside_those_of_the_data_is_sampled():
    """SELM: of 20,378 prompts with two responses each, one is sampled; three are ranked."""
    turn = jobs.sampling_turn(selm.get_config('llama3_8b').to_dict())
    (sample,) = jobs.sampling_jobs(turn, 500, CONTEXT)
    assert (sample.requests, sample.distinct_prompts) == (20_378, 20_378)
    assert (sample.max_tokens, sample.slots) == (1024, None)
    assert training.example_count(turn) == 20_378 and not training.trains_on_samples(turn)
    assert training.batch_shape(turn, 512, 1024, 64).n == 3
    judge = functools.partial(scorers.judge, template='additive', votes=2, max_tokens=256)
    _, verdicts = jobs.sampling_jobs(dataclasses.replace(turn, scorer=judge), 500, CONTEXT)
    assert verdicts.requests == 20_378 * 3 * 2


def test_a_greedy_response_beside_samples_is_one_more(turn):
    both = dataclasses.replace(turn, sampler=functools.partial(GREEDY, sampler=turn.sampler))
    sample, judge = jobs.sampling_jobs(both, 500, CONTEXT)
    assert sample.requests == 7000 * 5 and judge.requests == 7000 * 5 * 3
    assert training.trains_on_samples(both)


def test_a_reward_model_need_not_be_there_and_what_is_joined_counts():
    """20,000 prompts with 4 samples each; pairs of them, of the two rounds before, and 10,000 of
    people.
    """
    turn = jobs.sampling_turn(iterative_dpo.get_config('llama2_7b').to_dict())
    (sample,) = jobs.sampling_jobs(turn, 192, 512)
    assert (sample.requests, sample.max_tokens) == (80_000, 300)
    assert training.example_count(turn) == 3 * 20_000 + 10_000


def test_responses_that_nobody_judges_need_no_sampling(turn):
    given = functools.partial(samplers.given), functools.partial(scorers.given)
    turn = dataclasses.replace(turn, sampler=given[0], scorer=given[1])
    assert jobs.sampling_jobs(turn, 500, CONTEXT) == []
    assert training.example_lengths(turn, [], 500) == (500, 4096)


def test_a_job_gets_the_engines_memory_plan(planned):
    sizes = {(memory.slots, memory.prefill_rows, memory.prefill_chunk) for _, memory in planned}
    assert sizes == {(256, 4, 256)}


def test_an_update_has_the_shape_of_full_length_responses(turn):
    # 512 + 2 · 1,024 tokens: one example a row
    assert training.batch_shape(turn, 512, 1024, 16) == training.BatchShape(
        examples=16, n=2, micros=1, rows=16, length=4096, selected=2048
    )


@pytest.mark.parametrize(
    ('rule', 'options', 'responses'),
    [
        ('singles', {}, 1),
        ('agreeing', {'template': 'check'}, 1),
        ('extremes', {}, 2),
        ('extremes', {'keep_last': True}, 3),
        ('right_vs_wrong', {}, 2),
    ],
    ids=str,
)
def test_an_update_has_as_many_responses_an_example_as_the_pair_rule_makes(
    turn, rule, options, responses
):
    bound = functools.partial(getattr(pairs, rule), **options)
    turn = dataclasses.replace(turn, pairs=bound)
    assert training.batch_shape(turn, 512, 1024, 16).n == responses


def test_limits_of_words_leave_the_number_of_responses_as_it_is(turn):
    for rule, responses in ((pairs.singles, 1), (pairs.extremes, 2)):
        limited = functools.partial(pairs.length_limited, pairs=functools.partial(rule), gap=9)
        assert (
            training.batch_shape(dataclasses.replace(turn, pairs=limited), 512, 1024, 16).n
            == responses
        )


def test_a_mismatched_response_is_one_more_of_an_example(turn):
    turn = dataclasses.replace(turn, loss=functools.partial(losses.kto))
    assert training.batch_shape(turn, 512, 1024, 16).n == 3
    turn = dataclasses.replace(turn, pairs=functools.partial(pairs.singles))
    assert training.batch_shape(turn, 512, 1024, 16).n == 2
    both = (functools.partial(losses.sft), functools.partial(losses.kto))
    summed = functools.partial(losses.sum, losses=both, weights=(1.0, 1.0))
    turn = dataclasses.replace(turn, loss=summed)
    assert training.batch_shape(turn, 512, 1024, 16).n == 2


@pytest.mark.parametrize(
    'loss, rule, is_made_of_given',
    [
        (losses.dpo, pairs.extremes, True),
        (losses.kto, pairs.singles, True),
        (losses.simpo, pairs.extremes, False),
        (losses.sft, pairs.singles, False),
    ],
)
def test_a_reference_pass_is_made_for_the_loss_or_to_compare_samples(
    turn, loss, rule, is_made_of_given
):
    turn = dataclasses.replace(turn, loss=functools.partial(loss), pairs=functools.partial(rule))
    given = functools.partial(samplers.given)
    of_given = dataclasses.replace(turn, sampler=given)
    greedy = functools.partial(GREEDY, sampler=given)
    assert training.reference_passes(turn)
    assert bool(training.reference_passes(of_given)) == is_made_of_given
    assert training.reference_passes(dataclasses.replace(turn, sampler=greedy))
    assert training.reference_passes(dataclasses.replace(of_given, joined=(turn,)))
    # a judge's verdicts are texts
    verdicts = dataclasses.replace(turn, pairs=functools.partial(pairs.agreeing))
    assert bool(training.reference_passes(verdicts)) == is_made_of_given


def test_a_rounds_time_is_that_of_its_programs_times_how_often_they_run(turn, planned):
    results = {
        'sample: prefill': {'seconds': 1.0},
        'sample: decode': {'seconds': 0.5},
        'judge: prefill': {'seconds': 2.0},
        'judge: decode': {'seconds': 0.25},
        'reference': {'seconds': 3.0},
        'update': {'seconds': 9.0},
    }
    shape = training.batch_shape(turn, 512, 1024, 16)
    # 28,000 and 84,000 requests in 256 slots: 110 and 329 to each; 7,000 and 28,000 prompts read by
    # fours, 256 tokens at a time, a judge's rubric once; 16 steps at a time; 7,000 pairs in batches
    # of 16: 438
    judge = planned[1][0]
    chunks = -(-(judge.prompt_tokens - 1 - judge.prefix_tokens) // 256)
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
    shape = training.batch_shape(turn, 512, 1024, 16)
    seconds = prediction.round_seconds(turn, planned[:1], shape, results)
    assert seconds['update'] is None and seconds['round'] is None
    assert seconds['sample'] == 1750 * 2 * 1.0 + 110 * 64 * 0.5


def _controlled(**sampler):
    config = controlled_decoding.get_config().to_dict()
    config['round']['sampler'] = {'name': 'blockwise', 'n': 2, 'max_tokens': 64} | sampler
    return jobs.sampling_turn(config)


def test_block_wise_candidates_are_requests_and_share_their_slots():
    """2,000 prompts, 2 answers of 6 candidates each; a CPU's 128 slots hold 21 groups of 6."""
    turn = _controlled(candidates=6, block=32, values=('own', 'runs/not/there'), weights=(1.0, 1.0))
    (job,) = jobs.sampling_jobs(turn, 100, CONTEXT)
    assert job.requests == 2000 * 2 * 6 and job.distinct_prompts == 2000
    assert job.is_steered and job.group == 6
    assert jobs.plan_memory(toys.toy()[0], job, 64.0).slots == 126
    shape = training.batch_shape(turn, 100, 64, 1)
    assert shape.n == 2  # a group of all responses


def test_the_best_of_n_are_sampled_and_judged_and_one_in_n_is_kept(turn):
    best = functools.partial(samplers.best_of_n, n=2, sampler=turn.sampler, scorer=turn.scorer)
    sampling = jobs.sampling_jobs(dataclasses.replace(turn, sampler=best), 500, CONTEXT)
    assert [(job.title, job.requests) for job in sampling] == [
        ('sample', 7000 * 4),
        ('best of n: judge', 7000 * 4 * 3),
        ('judge', 7000 * 2 * 3),
    ]
    assert training.trains_on_samples(dataclasses.replace(turn, sampler=best))


def test_the_policys_own_log_probs_take_a_pass_unless_it_is_the_reference():
    turn = jobs.sampling_turn(rloo.get_config().to_dict())
    assert training.reference_passes(turn) == 2
    fields = turn.train.keywords | {'reference': 'exact'}
    exact = functools.partial(turn.train.func, **fields)
    assert training.reference_passes(dataclasses.replace(turn, train=exact)) == 1
    assert training.batch_shape(turn, 40, 24, 1).n == 8


def test_instructions_that_the_model_makes_up_are_sampled_a_batch_at_a_time(turn):
    """7,000 of them, four kept of a request, which shows eight of 500 tokens. Those of a fixed
    generator are not counted.
    """
    own = jobs.sampling_turn(self_rewarding.get_config('llama3_8b+lora').to_dict())
    made = jobs.sampling_jobs(own, 500, CONTEXT)[0]
    assert made.title == 'instructions' and made.requests == made.distinct_prompts == 1750
    assert made.slots == 512 and made.prompt_tokens == CONTEXT - made.max_tokens
    assert jobs.sampling_jobs(turn, 500, CONTEXT)[0].title == 'sample'


def test_responses_of_an_assumed_length_make_shorter_steps_and_rows(turn):
    lengths = jobs.Lengths(mean=300, longest=2000)
    sample, judge = jobs.sampling_jobs(turn, 500, CONTEXT, lengths)
    assert (sample.max_tokens, sample.mean_tokens, sample.longest) == (1024, 300, 1024)
    full = jobs.sampling_jobs(turn, 500, CONTEXT)[1]
    assert (judge.mean_tokens, judge.longest) == (256, 256)  # a verdict's own
    assert full.prompt_tokens - judge.prompt_tokens == pytest.approx(1024 - 300, abs=32)
    assert training.example_lengths(turn, [sample, judge], 500) == (500, 300)
    memory = jobs.plan_memory(toys.toy()[0], dataclasses.replace(sample, slots=256), 64.0)
    results = {'sample: prefill': {'seconds': 0.0}, 'sample: decode': {'seconds': 1.0}}
    # 28,000 in 256 slots: 110 times 300 steps, and 724 more until the longest ends; 16 in a burst
    seconds = prediction.sampling_seconds([(sample, memory)], results)['sample']
    assert seconds == pytest.approx((110 * 300 + 724) / 16)


def test_examples_of_earlier_rounds_are_trained_on_again(turn):
    third = dataclasses.replace(turn, round=4, first_round=2, earlier=-1)
    assert training.example_count(third) == 3 * training.example_count(turn)
    second = dataclasses.replace(third, round=3, earlier=5)
    assert training.example_count(second) == 2 * training.example_count(turn)


def test_a_round_has_its_rehearsal_and_its_evaluations(turn, planned):
    config = self_rewarding.get_config().to_dict()  # with a rehearsal of 1,000 verdicts
    small = jobs.sampling_turn(config)
    rehearsal = jobs.rehearsal_of(config, small)
    assert rehearsal is not None and rehearsal.name == f'{small.round:02d}-rehearsal'
    assert jobs.rehearsal_of(self_rewarding.get_config('llama3_8b').to_dict(), turn) is None
    titles = [f'{title}: {step}' for title in ('sample', 'judge') for step in ('prefill', 'decode')]
    results = {title: {'seconds': 1.0} for title in (*titles, 'reference', 'update', 'rehearsal')}
    shape = training.batch_shape(turn, 512, 1024, 16)
    plain = prediction.round_seconds(turn, planned, shape, results)
    assert 'rehearsal' not in plain and 'evaluations' not in plain
    opponent = dataclasses.replace(planned[0][0], title='opponent'), planned[0][1]
    seconds = prediction.round_seconds(
        turn, planned, shape, results, evaluated=[planned[1], opponent], rehearsal=rehearsal
    )
    assert seconds['evaluations'] == plain['judge']
    batches = -(-training.example_count(rehearsal) // rehearsal.train.keywords['batch'])
    assert seconds['rehearsal'] == batches > 1
