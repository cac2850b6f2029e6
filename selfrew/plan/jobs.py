"""What a round samples and trains on, read from a config without its data."""

import dataclasses
import functools
import inspect
import math
from typing import Any

from selfrew.engine import loss_contract
from selfrew.engine.generate import memory_plan
from selfrew.mesh.buckets import bucket, round_up
from selfrew.running import binding
from selfrew.running.turns import Turn, bind_turns
from selfrew.shelves import evals, pairs, prompts, samplers, scorers
from selfrew.tasks import templates

GiB = 2**30
CHARACTERS_A_TOKEN = 4  # assumed for a judge's template
# What a scorer's template shows besides the prompt: one field for each response.
RESPONSE_FIELDS = {scorers.judge: ('response',), scorers.compare: ('first', 'second')}


@dataclasses.dataclass(frozen=True)
class Job:
    """The requests of one part of a turn that samples: of its sampler, or of a judge."""

    # 'sample', 'judge', 'opponent'; of several judges 'judge 1', 'judge 2', …
    title: str
    requests: int
    distinct_prompts: int
    prefix_tokens: int  # with which all prompts begin
    slots: int | None  # None: the engine's default
    prompt_tokens: int  # of one prompt
    max_tokens: int  # of a response
    group: int = 1  # slots that are sampled together, see samplers.blockwise
    is_steered: bool = False  # by the model's own value head


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The packed rows of an update."""

    examples: int
    n: int  # responses of an example
    micros: int  # micro-batches
    rows: int  # of a micro-batch
    length: int  # tokens of a row
    selected: int  # selected tokens of a part of the rows


# A job with the sizes of its arrays, see plan_memory.
PlannedJob = tuple[Job, memory_plan.MemoryPlan]


def argument(bound, name: str) -> Any:
    """The value of an argument of a bound part: what the config set, or its default."""
    return bound.keywords.get(name, (bound.func.__kwdefaults__ or {}).get(name))


def sampling_turn(config: dict) -> Turn:
    """The last turn of a config that samples and is no rehearsal, or else its last turn; of these
    the one to which most is joined.

    Data files need not exist. Raises ValueError where the config has no rounds.
    """
    fields = {
        name: _without_files(config[name])
        for name in ('rounds', 'round', 'start', 'by_round')
        if config.get(name) is not None
    }
    turns = binding.bind_arguments(bind_turns, fields, 'config')()
    if not turns:
        raise ValueError('the config has no rounds: there is nothing to plan')
    sampling = [
        turn
        for turn in turns
        if turn.sampler.func is not samplers.given and 'rehearsal' not in turn.name
    ]
    return max(reversed(sampling or turns), key=lambda turn: len(turn.joined))


def _without_files(entry) -> Any:
    """A config entry that names no files: binding would look for them. A reward model, which makes
    no requests, becomes a rule.
    """
    if isinstance(entry, (list, tuple)):
        return [_without_files(element) for element in entry]
    if not isinstance(entry, dict):
        return entry
    if entry.get('name') == scorers.reward_model.__name__:
        return {'name': scorers.length.__name__}
    fields = {k: v for k, v in entry.items() if k not in ('shots', 'generator', 'opponent')}
    if 'values' in fields:  # scorers with models of their own are left out, as a reward model is
        fields['values'] = [samplers.OWN for _ in fields['values']]
    return {k: 'tfds:not/read' if k == 'source' else _without_files(v) for k, v in fields.items()}


def _sources(turn: Turn) -> tuple:
    """The sources that a turn's prompts are mixed from, or the one they come from."""
    mixed = turn.prompts.keywords.get('prompts')
    return mixed if isinstance(mixed, tuple) else (turn.prompts,)


def prompt_count(turn: Turn) -> int:
    """The number of prompts of a turn. Raises ValueError where the config does not say."""
    count = sum(map(_source_count, _sources(turn)))
    if not count:
        raise ValueError('a plan needs to know how many prompts there are: set n of the prompts')
    return count


def _source_count(source) -> int:
    """The number of prompts of a source; of judge prompts, one for each sampled response."""
    if source.func is not prompts.judged:
        return argument(source, 'n') or 0
    return _source_count(source.keywords['prompts']) * argument(source.keywords['sampler'], 'n')


def _sampler(turn: Turn) -> tuple[Any, int, int]:
    """(What a turn samples with, without what wraps it; how many responses of a prompt it samples;
    how many there are in all, with those in the data, or of the best of several without the
    others). What it samples with is `given` where it samples nothing.
    """
    sampler, greedy, best = turn.sampler, None, None
    while 'sampler' in sampler.keywords:
        greedy = sampler if sampler.func is samplers.with_greedy else greedy
        best = sampler if sampler.func is samplers.best_of_n else best
        sampler = sampler.keywords['sampler']
    extra = int(greedy is not None)
    if sampler.func is not samplers.given:
        sampled = argument(sampler, 'n') + extra
        kept = argument(best, 'n') + extra if best is not None else sampled
        return sampler, sampled, kept
    in_data = max(map(_given_count, _sources(turn)))
    if greedy is None:
        return sampler, 0, in_data
    shared = inspect.signature(samplers.sample).parameters.keys() & greedy.keywords.keys()
    options = {name: greedy.keywords[name] for name in sorted(shared)}
    options = {name: value for name, value in options.items() if value is not None}
    return functools.partial(samplers.sample, **options), extra, in_data + extra


def _given_count(source) -> int:
    """How many responses come with each prompt of a source: 1 where it does not say."""
    return 2 if source.func is prompts.preferences else argument(source, 'responses') or 1


def sampling_jobs(turn: Turn, prompt_tokens: int, context: int) -> list[Job]:
    """What a turn samples, and what is joined to it: responses, unless they are given with the
    prompts, then the verdicts of each judge. Before them, the answers that judge prompts show.
    Empty: nothing.

    Where the prompts do not say how many responses they come with, it is 1 each. A given response
    is taken to fill the rest of a row. Of a reward model neither memory nor time is counted.

    Args:
      prompt_tokens: the length of a prompt.
      context: the model's, in tokens.
    Raises ValueError where responses leave no room for a prompt, or the config does not say how
    many prompts there are.
    """
    jobs = []
    for pipeline in turn.pipelines:
        for job in pipeline_jobs(pipeline, prompt_tokens, context):
            jobs.append(dataclasses.replace(job, title=f'{pipeline.title} {job.title}'.strip()))
    return jobs


def evaluation_jobs(config: dict, turn: Turn, prompt_tokens: int, context: int) -> list[Job]:
    """What the evaluations of a config sample after each round, titled 'NAME: sample' and so on.

    A job 'NAME: opponent' of a win rate is sampled once in a process, not in each round. Left out
    are evaluations of which the config does not say how many prompts they have.

    Args:
      turn: any turn of the config, for the length of given responses.
      prompt_tokens, context: as in `sampling_jobs`.
    Raises ValueError where responses leave no room for a prompt.
    """
    jobs = []
    for name, entry in (config.get('evals') or {}).items():
        bound = binding.bind('evals', _without_files(entry), f'evals.{name}', evals)
        parts = {part: bound.keywords[part] for part in ('prompts', 'sampler', 'scorer')}
        asked = dataclasses.replace(turn, joined=(), **parts)
        if not sum(map(_source_count, _sources(asked))):
            continue
        has_opponent = bound.func is evals.win_rate
        for job in pipeline_jobs(asked, prompt_tokens, context, has_opponent=has_opponent):
            jobs.append(dataclasses.replace(job, title=f'{name}: {job.title}'))
    return jobs


def pipeline_jobs(
    turn: Turn, prompt_tokens: int, context: int, *, has_opponent: bool = False
) -> list[Job]:
    """What a turn samples without what is joined to it, see `sampling_jobs`.

    has_opponent: whether each response is judged beside one of another model, which is sampled too.
    """
    sampler, sampled, samples = _sampler(turn)
    is_given = sampled == 0
    judges = _judges_of(turn.scorer)
    if is_given and not judges:
        return []
    count, beginning, jobs = prompt_count(turn), '', []
    if turn.prompts.func is prompts.judged:
        jobs, prompt_tokens, beginning = _answers_shown(turn, prompt_tokens, context)
    if sampled < samples:  # some come with the prompts
        response_tokens = max(argument(turn.train, 'row_length') - prompt_tokens, 1)
    else:
        response_tokens = argument(sampler, 'max_tokens')
    if not is_given:
        requests = count * sampled * _candidates(sampler)
        for title in ('sample', 'opponent')[: 1 + has_opponent]:
            jobs.append(_job(title, sampler, requests, count, prompt_tokens, beginning, context))
    if turn.sampler.func is samplers.disputed:  # leaves one judge prompt of each original
        count = _source_count(turn.prompts.keywords['prompts'])
    best = _best_of_n(turn.sampler)
    for judge in _judges_of(best.keywords['scorer']) if best is not None else ():
        opponents = sampled - 1 if judge.func is scorers.compare else 1
        shown = count * sampled * opponents
        jobs.append(
            _judge_job('best of n: judge', judge, shown, prompt_tokens, response_tokens, context)
        )
    rollouts, responses = (count * samples, 2) if has_opponent else (count, samples)
    for number, judge in enumerate(judges, 1):
        title = 'judge' if len(judges) == 1 else f'judge {number}'
        opponents = responses - 1 if judge.func is scorers.compare else 1
        shown = rollouts * responses * opponents
        if shown:
            jobs.append(_judge_job(title, judge, shown, prompt_tokens, response_tokens, context))
    return jobs


def _judges_of(scorer) -> list:
    """The judges of a bound scorer, alone or in a composite."""
    scored = scorer.keywords.get('scorers', (scorer,))
    return [part for part in scored if part.func in RESPONSE_FIELDS]


def _best_of_n(sampler):
    """The best_of_n in a bound sampler, or None."""
    while sampler is not None and sampler.func is not samplers.best_of_n:
        sampler = sampler.keywords.get('sampler')
    return sampler


def _candidates(sampler) -> int:
    """How many samples a bound sampler makes for each that it keeps, a block at a time."""
    return argument(sampler, 'candidates') if sampler.func is samplers.blockwise else 1


def _answers_shown(turn: Turn, prompt_tokens: int, context: int) -> tuple[list[Job], int, str]:
    """(The answers that prompts.judged samples, tokens of a judge prompt, its beginning)."""
    source = turn.prompts.keywords
    sampler, count = source['sampler'], _source_count(source['prompts'])
    requests = count * argument(sampler, 'n')
    answers = _job('answers', sampler, requests, count, prompt_tokens, '', context)
    template_tokens, beginning = _template_tokens(argument(turn.prompts, 'template'), ('response',))
    return [answers], template_tokens + prompt_tokens + answers.max_tokens, beginning


def _judge_job(
    title: str, judge, distinct_prompts: int, prompt_tokens: int, response_tokens: int, context: int
) -> Job:
    """The verdicts of a judge. prompt_tokens, response_tokens: of what it is shown."""
    fields = RESPONSE_FIELDS[judge.func]
    template_tokens, before = _template_tokens(argument(judge, 'template'), fields)
    length = template_tokens + prompt_tokens + len(fields) * response_tokens
    requests = distinct_prompts * argument(judge, 'votes')
    return _job(title, judge, requests, distinct_prompts, length, before, context)


def _template_tokens(template: str, fields: tuple) -> tuple[int, str]:
    """(Tokens of a judge's template without what it shows, its text before that)."""
    before, _, after = templates.render(
        template, prompt='\0', **dict.fromkeys(fields, '')
    ).partition('\0')
    return (len(before) + len(after)) // CHARACTERS_A_TOKEN, before


def _job(
    title: str,
    part,
    requests: int,
    distinct_prompts: int,
    length: int,
    beginning: str,
    context: int,
) -> Job:
    """A job. length: tokens of a prompt. beginning: text with which all prompts begin."""
    max_tokens = argument(part, 'max_tokens')
    if max_tokens >= context:
        raise ValueError(
            f'{title}: max_tokens={max_tokens} leaves no room for a prompt in a context of '
            f'{context}'
        )
    prefix = len(beginning) // CHARACTERS_A_TOKEN // 32 * 32
    return Job(
        title=title,
        requests=requests,
        distinct_prompts=distinct_prompts,
        prefix_tokens=prefix if prefix >= memory_plan.MIN_SHARED_PREFIX else 0,
        slots=argument(part, 'slots'),
        prompt_tokens=min(round_up(length, 32), context - max_tokens),
        max_tokens=max_tokens,
        group=_candidates(part),
        is_steered=bool(samplers.values_of(part)),
    )


def plan_memory(lm, job: Job, device_gib: float) -> memory_plan.MemoryPlan:
    """The engine's memory plan for a job on devices with this memory.

    Raises ValueError where not even one slot fits.
    """
    cache_gib = lm.cache_gib
    if cache_gib is None:
        cache_gib = memory_plan.CACHE_SHARE * device_gib
    return memory_plan.plan(
        lm,
        [job.prompt_tokens] * job.requests,
        [job.max_tokens] * job.requests,
        job.distinct_prompts,
        slots=job.slots or max(memory_plan.SLOTS, job.group),
        prefix_tokens=job.prefix_tokens,
        memory=cache_gib * GiB,
        group=job.group,
    )


def example_count(turn: Turn) -> int:
    """How many examples a turn trains on where every prompt gives as many as its pair rule keeps,
    with those of what is joined to it. Examples of earlier rounds are not counted.
    """
    return sum(map(_pipeline_examples, turn.pipelines))


def _pipeline_examples(turn: Turn) -> int:
    """The examples of a turn without what is joined to it."""
    kept, count = argument(turn.pairs, 'count') or 1, prompt_count(turn)
    if turn.pairs.func is pairs.agreeing:  # rankings, of which each has a verdict a response
        kept *= _sampler(turn)[2]
    if turn.sampler.func is samplers.disputed:
        count = _source_count(turn.prompts.keywords['prompts'])
    return min(count * kept, turn.max_examples or math.inf)


def trains_on_samples(turn: Turn) -> bool:
    """Whether a turn trains on sampled responses alone, neither on given ones nor on a judge's
    verdicts, which it takes as texts.
    """
    _, sampled, samples = _sampler(turn)
    return sampled >= samples and turn.pairs.func is not pairs.agreeing


def reference_passes(turn: Turn) -> int:
    """How often a turn passes over its examples before its updates: because its loss reads the
    reference, or to compare the log-probs of responses with those that they were sampled with; once
    more where the loss reads the policy's own, and the reference is another.
    """
    reads_reference = not loss_contract.is_reference_free(turn.loss)
    if reads_reference and loss_contract.reads_old_logp(turn.loss):
        return 2 if argument(turn.train, 'reference') == 'base' else 1
    return int(
        reads_reference
        or any(
            _sampler(pipeline)[1] and pipeline.pairs.func is not pairs.agreeing
            for pipeline in turn.pipelines
        )
    )


def example_lengths(turn: Turn, jobs: list[Job], prompt_tokens: int) -> tuple[int, int]:
    """Tokens of an example's prompt and of each of its responses, of full length: the most of the
    turn and what is joined to it.

    jobs: see `sampling_jobs`. A given response is taken to be as long as a row.
    """
    lengths = []
    for pipeline in turn.pipelines:
        prefix = f'{pipeline.title} ' if pipeline.title else ''
        own = [job for job in jobs if job.title.startswith(prefix)]
        lengths.append(_pipeline_lengths(pipeline, own, prompt_tokens))
    return max(prompt for prompt, _ in lengths), max(response for _, response in lengths)


def _pipeline_lengths(turn: Turn, jobs: list[Job], prompt_tokens: int) -> tuple[int, int]:
    if turn.pairs.func is pairs.agreeing:  # judge prompts, and a verdict on each
        for job in jobs:
            if job.title.startswith('judge'):
                return job.prompt_tokens, job.max_tokens
    if trains_on_samples(turn):
        sample = next(job for job in jobs if job.title.endswith('sample'))
        is_judged = turn.prompts.func is prompts.judged
        return (sample.prompt_tokens if is_judged else prompt_tokens), sample.max_tokens
    return prompt_tokens, argument(turn.train, 'row_length')


def _responses_an_example(part, responses: int) -> int:
    """How many responses the examples of a bound pair rule have, of so many to a prompt."""
    if part.func is pairs.length_limited:
        return _responses_an_example(part.keywords['pairs'], responses)
    if part.func is pairs.group:
        return responses
    if part.func in (pairs.singles, pairs.agreeing):
        return 1
    return 3 if argument(part, 'keep_last') else 2


def batch_shape(
    turn: Turn, prompt: int, response: int, row_shards: int, micros: int | None = None
) -> BatchShape:
    """The shape of an update as `packing` makes it where every response has its full length.

    prompt, response: tokens of one. row_shards: into how many parts the mesh splits the rows.
    micros: micro-batches; None: as the turn says, or else 1.
    """
    # A mismatched response is one more.
    N = _responses_an_example(turn.pairs, _sampler(turn)[2])
    N += loss_contract.takes_mismatched(turn.loss)
    length, examples = argument(turn.train, 'row_length'), argument(turn.train, 'batch')
    count: int = micros or argument(turn.train, 'accumulate') or 1
    examples_a_row = max(length // (prompt + N * response), 1)
    parts = row_shards * count
    rows = bucket(math.ceil(examples / examples_a_row), parts)
    # The responses of the fullest part.
    selected = min(rows // parts * examples_a_row, examples) * N * response
    return BatchShape(
        examples=examples,
        n=N,
        micros=count,
        rows=rows // count,
        length=length,
        selected=min(bucket(selected), rows // parts * length),
    )
