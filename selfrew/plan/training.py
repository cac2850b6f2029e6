"""What a round trains on, read from a config without its data."""

import dataclasses
import math

from selfrew.engine import loss_contract
from selfrew.mesh.buckets import bucket
from selfrew.plan.jobs import Job, argument, prompt_count, sampling_of, source_count
from selfrew.running.turns import Turn
from selfrew.shelves import pairs, prompts, samplers


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The packed rows of an update."""

    examples: int
    n: int  # responses of an example
    micros: int  # micro-batches
    rows: int  # of a micro-batch
    length: int  # tokens of a row
    selected: int  # selected tokens of a part of the rows


def example_count(turn: Turn) -> int:
    """How many examples a turn trains on where every prompt gives as many as its pair rule keeps,
    with those of what is joined to it, and with those of earlier rounds that it keeps.
    """
    return sum(map(_pipeline_examples, turn.pipelines))


def _pipeline_examples(turn: Turn) -> int:
    """The examples of a turn without what is joined to it."""
    before = turn.round - turn.first_round
    earlier = before if turn.earlier < 0 else min(turn.earlier, before)
    return (1 + earlier) * _new_examples(turn)


def _new_examples(turn: Turn) -> int:
    """Those that it makes in its round."""
    kept, count = argument(turn.pairs, 'count') or 1, prompt_count(turn)
    if turn.pairs.func is pairs.agreeing:  # rankings, of which each has a verdict a response
        kept *= sampling_of(turn)[2]
    if turn.sampler.func is samplers.disputed:
        count = source_count(turn.prompts.keywords['prompts'])
    return min(count * kept, turn.max_examples or math.inf)


def trains_on_samples(turn: Turn) -> bool:
    """Whether a turn trains on sampled responses alone, neither on given ones nor on a judge's
    verdicts, which it takes as texts.
    """
    _, sampled, samples = sampling_of(turn)
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
            sampling_of(pipeline)[1] and pipeline.pairs.func is not pairs.agreeing
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
        return (sample.prompt_tokens if is_judged else prompt_tokens), sample.mean_tokens
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
    N = _responses_an_example(turn.pairs, sampling_of(turn)[2])
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
