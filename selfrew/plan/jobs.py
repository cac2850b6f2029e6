"""What a round samples and trains on, read from a config without its data."""

import dataclasses
import math
from typing import Any

from selfrew.engine.generate import memory_plan
from selfrew.mesh.buckets import bucket, round_up
from selfrew.plan import chips
from selfrew.run import binding
from selfrew.run.turns import Turn, bind_turns
from selfrew.shelves import samplers, scorers
from selfrew.tasks import templates

GiB = 2**30
CHARACTERS_A_TOKEN = 4  # assumed for a judge's template
# What a scorer's template shows besides the prompt: one field for each response.
RESPONSE_FIELDS = {scorers.judge: ('response',), scorers.compare: ('first', 'second')}


@dataclasses.dataclass(frozen=True)
class Job:
    """The requests of one part of a turn that samples: of its sampler, or of a judge."""

    title: str
    requests: int
    distinct: int  # prompts
    shared: int  # tokens with which all prompts begin
    slots: int | None  # None: the engine's default
    prompt: int  # tokens of one
    room: int  # tokens of a response, at most


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
    """The last turn of a config that samples and is no rehearsal, or else its last turn.

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
    return (sampling or turns)[-1]


def _without_files(entry):
    """A config entry that names no files: binding would look for them."""
    if isinstance(entry, (list, tuple)):
        return [_without_files(element) for element in entry]
    if not isinstance(entry, dict):
        return entry
    fields = {k: v for k, v in entry.items() if k not in ('shots', 'generator')}
    return {k: 'tfds:not/read' if k == 'source' else _without_files(v) for k, v in fields.items()}


def prompt_count(turn: Turn) -> int:
    """The number of prompts of a turn. Raises ValueError where the config does not say."""
    mixed = turn.prompts.keywords.get('prompts')
    sources = mixed if isinstance(mixed, tuple) else (turn.prompts,)
    count = sum(argument(source, 'n') or 0 for source in sources)
    if not count:
        raise ValueError('a plan needs to know how many prompts there are: set n of the prompts')
    return count


def sampling_jobs(turn: Turn, prompt_tokens: int, limit: int) -> list[Job]:
    """What a turn samples: its responses, then the verdicts of each judge. Empty: nothing.

    prompt_tokens: the length of a prompt. limit: the model's context length.
    Raises ValueError where responses leave no room for a prompt.
    """
    sampler, extra = turn.sampler, 0
    while 'sampler' in sampler.keywords:
        extra += sampler.func is samplers.with_greedy
        sampler = sampler.keywords['sampler']
    if sampler.func is samplers.given:
        return []
    prompts, samples = prompt_count(turn), argument(sampler, 'n') + extra
    jobs = [_job('sample', sampler, prompts * samples, prompts, prompt_tokens, '', limit)]
    response_tokens = argument(sampler, 'max_tokens')
    for scorer in turn.scorer.keywords.get('scorers', (turn.scorer,)):
        if scorer.func not in RESPONSE_FIELDS:
            continue
        fields = RESPONSE_FIELDS[scorer.func]
        before, _, after = templates.render(
            argument(scorer, 'template'), prompt='\0', **dict.fromkeys(fields, '')
        ).partition('\0')
        template_tokens = (len(before) + len(after)) // CHARACTERS_A_TOKEN
        length = template_tokens + prompt_tokens + len(fields) * response_tokens
        opponents = samples - 1 if scorer.func is scorers.compare else 1
        distinct = prompts * samples * opponents
        requests = distinct * argument(scorer, 'votes')
        jobs.append(_job('judge', scorer, requests, distinct, length, before, limit))
    return jobs


def _job(
    title: str, part, requests: int, distinct: int, length: int, beginning: str, limit: int
) -> Job:
    """A job. length: tokens of a prompt. beginning: text with which all prompts begin."""
    room = argument(part, 'max_tokens')
    if room >= limit:
        raise ValueError(
            f'{title}: max_tokens={room} leaves no room for a prompt in a context of {limit}'
        )
    shared = len(beginning) // CHARACTERS_A_TOKEN // 32 * 32
    return Job(
        title=title,
        requests=requests,
        distinct=distinct,
        shared=shared if shared >= memory_plan.MIN_SHARED_PREFIX else 0,
        slots=argument(part, 'slots'),
        prompt=min(round_up(length, 32), limit - room),
        room=room,
    )


def plan_memory(lm, job: Job, chip: chips.Chip) -> memory_plan.MemoryPlan:
    """The engine's memory plan for a job. Raises ValueError where not even one slot fits."""
    cache_gib = lm.cache_gib
    if cache_gib is None:
        cache_gib = memory_plan.CACHE_SHARE * chip.hbm
    return memory_plan.plan(
        lm,
        [job.prompt] * job.requests,
        [job.room] * job.requests,
        job.distinct,
        slots=job.slots or memory_plan.SLOTS,
        shared=job.shared,
        memory=cache_gib * GiB,
    )


def batch_shape(turn: Turn, prompt: int, response: int, row_shards: int) -> BatchShape:
    """The shape of an update as `packing` makes it where every response has its full length.

    prompt, response: tokens of one. row_shards: into how many parts the mesh splits the rows.
    """
    N = 1 if turn.pairs.func.__name__ == 'singles' else 2
    length, examples = argument(turn.train, 'row_length'), argument(turn.train, 'batch')
    micros = argument(turn.train, 'accumulate')
    examples_a_row = max(length // (prompt + N * response), 1)
    parts = row_shards * micros
    rows = bucket(math.ceil(examples / examples_a_row), parts)
    # The responses of the fullest part.
    selected = min(rows // parts * examples_a_row, examples) * N * response
    return BatchShape(
        examples=examples,
        n=N,
        micros=micros,
        rows=rows // micros,
        length=length,
        selected=min(bucket(selected), rows // parts * length),
    )
