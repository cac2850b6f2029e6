"""What a round samples, read from a config without its data."""

import dataclasses
import functools
import inspect
from typing import Any, NamedTuple

from selfrew.engine.generate import memory_plan
from selfrew.mesh.buckets import round_up
from selfrew.running import binding
from selfrew.running.turns import Turn, bind_turns
from selfrew.shelves import evals, prompts, samplers, scorers
from selfrew.tasks import templates

GiB = 2**30
CHARACTERS_A_TOKEN = 4  # assumed for a judge's template
KEPT_INSTRUCTIONS = 4  # of a request of self_instruct: an assumption
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
    max_tokens: int  # of a response, at most
    mean_tokens: int  # of a response, and the longest that comes: as assumed, or else max_tokens
    longest: int
    group: int = 1  # slots that are sampled together, see samplers.blockwise
    is_steered: bool = False  # by the model's own value head


class Lengths(NamedTuple):
    """The assumed tokens of responses."""

    mean: int
    longest: int


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
    turns = _turns(config)
    if not turns:
        raise ValueError('the config has no rounds: there is nothing to plan')
    sampling = [
        turn
        for turn in turns
        if turn.sampler.func is not samplers.given and not _is_rehearsal(turn)
    ]
    return max(reversed(sampling or turns), key=lambda turn: len(turn.joined))


def rehearsal_of(config: dict, turn: Turn) -> Turn | None:
    """The rehearsal that follows a turn of the config in its round, or None."""
    following = [t for t in _turns(config) if _is_rehearsal(t) and t.round == turn.round]
    return following[0] if following and not _is_rehearsal(turn) else None


def _is_rehearsal(turn: Turn) -> bool:
    return 'rehearsal' in turn.name


def _turns(config: dict) -> list[Turn]:
    fields = {
        name: _without_files(config[name])
        for name in ('rounds', 'round', 'start', 'by_round')
        if config.get(name) is not None
    }
    return binding.bind_arguments(bind_turns, fields, 'config')()


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
    fields = {k: v for k, v in entry.items() if k not in ('shots', 'opponent')}
    if fields.get('generator') is not None:
        fields['generator'] = 'tiny'  # any model that is there: a fixed one, which is not counted
    if 'values' in fields:  # scorers with models of their own are left out, as a reward model is
        fields['values'] = [samplers.OWN for _ in fields['values']]
    return {k: 'tfds:not/read' if k == 'source' else _without_files(v) for k, v in fields.items()}


def _sources(turn: Turn) -> tuple:
    """The sources that a turn's prompts are mixed from, or the one they come from."""
    mixed = turn.prompts.keywords.get('prompts')
    return mixed if isinstance(mixed, tuple) else (turn.prompts,)


def prompt_count(turn: Turn) -> int:
    """The number of prompts of a turn. Raises ValueError where the config does not say."""
    count = sum(map(source_count, _sources(turn)))
    if not count:
        raise ValueError('a plan needs to know how many prompts there are: set n of the prompts')
    return count


def source_count(source) -> int:
    """The number of prompts of a source; of judge prompts, one for each sampled response."""
    if source.func is not prompts.judged:
        return argument(source, 'n') or 0
    return source_count(source.keywords['prompts']) * argument(source.keywords['sampler'], 'n')


def sampling_of(turn: Turn) -> tuple[Any, int, int]:
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


def sampling_jobs(
    turn: Turn, prompt_tokens: int, context: int, response: Lengths | None = None
) -> list[Job]:
    """What a turn samples, and what is joined to it: responses, unless they are given with the
    prompts, then the verdicts of each judge. Before them, the answers that judge prompts show.
    Empty: nothing.

    Where the prompts do not say how many responses they come with, it is 1 each. A given response
    is taken to fill the rest of a row. Of a reward model neither memory nor time is counted.

    Args:
      prompt_tokens: the length of a prompt.
      context: the model's, in tokens.
      response: None: every response has its full length, as every verdict has.
    Raises ValueError where responses leave no room for a prompt, or the config does not say how
    many prompts there are.
    """
    jobs = []
    for pipeline in turn.pipelines:
        for job in pipeline_jobs(pipeline, prompt_tokens, context, response):
            jobs.append(dataclasses.replace(job, title=f'{pipeline.title} {job.title}'.strip()))
    return jobs


def evaluation_jobs(
    config: dict, turn: Turn, prompt_tokens: int, context: int, response: Lengths | None = None
) -> list[Job]:
    """What the evaluations of a config sample after each round, titled 'NAME: sample' and so on.

    A job 'NAME: opponent' of a win rate is sampled once in a process, not in each round. Left out
    are evaluations of which the config does not say how many prompts they have.

    Args:
      turn: any turn of the config, for the length of given responses.
      prompt_tokens, context, response: as in `sampling_jobs`.
    Raises ValueError where responses leave no room for a prompt.
    """
    jobs = []
    for name, entry in (config.get('evals') or {}).items():
        bound = binding.bind('evals', _without_files(entry), f'evals.{name}', evals)
        parts = {part: bound.keywords[part] for part in ('prompts', 'sampler', 'scorer')}
        asked = dataclasses.replace(turn, joined=(), **parts)
        if not sum(map(source_count, _sources(asked))):
            continue
        has_opponent = bound.func is evals.win_rate
        for job in pipeline_jobs(
            asked, prompt_tokens, context, response, has_opponent=has_opponent
        ):
            jobs.append(dataclasses.replace(job, title=f'{name}: {job.title}'))
    return jobs


def pipeline_jobs(
    turn: Turn,
    prompt_tokens: int,
    context: int,
    response: Lengths | None = None,
    *,
    has_opponent: bool = False,
) -> list[Job]:
    """What a turn samples without what is joined to it, see `sampling_jobs`.

    has_opponent: whether each response is judged beside one of another model, which is sampled too.
    """
    sampler, sampled, samples = sampling_of(turn)
    is_given = sampled == 0
    judges = _judges_of(turn.scorer)
    if is_given and not judges:
        return []
    count, beginning, jobs = (
        prompt_count(turn),
        '',
        _instructions_made(turn, prompt_tokens, context),
    )
    if turn.prompts.func is prompts.judged:
        jobs, prompt_tokens, beginning = _answers_shown(turn, prompt_tokens, context, response)
        response = None  # what is sampled then are verdicts
    if sampled < samples:  # some come with the prompts
        response_tokens = max(argument(turn.train, 'row_length') - prompt_tokens, 1)
    else:
        response_tokens = _within(response, argument(sampler, 'max_tokens')).mean
    if not is_given:
        requests = count * sampled * _candidates(sampler)
        for title in ('sample', 'opponent')[: 1 + has_opponent]:
            jobs.append(
                _job(title, sampler, requests, count, prompt_tokens, beginning, context, response)
            )
    if turn.sampler.func is samplers.disputed:  # leaves one judge prompt of each original
        count = source_count(turn.prompts.keywords['prompts'])
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


def _within(response: Lengths | None, max_tokens: int) -> Lengths:
    """The lengths of responses that are cut after max_tokens; None: all have that length."""
    if response is None:
        return Lengths(max_tokens, max_tokens)
    return Lengths(min(response.mean, max_tokens), min(response.longest, max_tokens))


def _instructions_made(turn: Turn, prompt_tokens: int, context: int) -> list[Job]:
    """What prompts.self_instruct samples to make its prompts, where the model in training does it.
    Of a fixed generator neither memory nor time is counted.
    """
    made = []
    for source in _sources(turn):
        if source.func is prompts.self_instruct and not source.keywords.get('generator'):
            requests = -(-argument(source, 'n') // KEPT_INSTRUCTIONS)
            shown = argument(source, 'seeds') + argument(source, 'own')
            length = min(shown * prompt_tokens, context - argument(source, 'max_tokens'))
            job = _job('instructions', source, requests, requests, length, '', context)
            # So many are sampled together, and then the next.
            together = min(argument(source, 'batch'), job.slots or argument(source, 'batch'))
            made.append(dataclasses.replace(job, slots=together))
    return made


def _answers_shown(
    turn: Turn, prompt_tokens: int, context: int, response: Lengths | None
) -> tuple[list[Job], int, str]:
    """(The answers that prompts.judged samples, tokens of a judge prompt, its beginning)."""
    source = turn.prompts.keywords
    sampler, count = source['sampler'], source_count(source['prompts'])
    requests = count * argument(sampler, 'n')
    answers = _job('answers', sampler, requests, count, prompt_tokens, '', context, response)
    template_tokens, beginning = _template_tokens(argument(turn.prompts, 'template'), ('response',))
    return [answers], template_tokens + prompt_tokens + answers.mean_tokens, beginning


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
    response: Lengths | None = None,
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
        mean_tokens=_within(response, max_tokens).mean,
        longest=_within(response, max_tokens).longest,
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
        slots=job.slots,
        prefix_tokens=job.prefix_tokens,
        memory=cache_gib * GiB,
        group=job.group,
    )
