"""Requests in, responses out: the entry points of sampling."""

import hashlib
from typing import cast

import jax
import numpy as np

from selfrew.engine import progress
from selfrew.engine.generate import early_stop, journal, memory_plan
from selfrew.engine.generate.blocks import BlockScheduler
from selfrew.engine.generate.control import Control
from selfrew.engine.generate.options import Request, options_per_request
from selfrew.engine.generate.scheduler import Scheduler
from selfrew.mesh import stopping
from selfrew.types import Response

# Fields of a Response, as a journal has them.
RECORDED = 'text', 'tokens', 'finish', 'logp', 'sampled_logp'


@jax.jit
def _fold(key, number_M, index_M):
    return jax.vmap(lambda a, b: jax.random.fold_in(jax.random.fold_in(key, a), b))(
        number_M, index_M
    )


def request_keys(key, ids, indices):
    """[M] A key for each request: `key` folded with its prompt's id and its sample index.

    Args:
      key: of the seed, round and purpose.
      ids: a string for each request.
      indices: an int for each request.
    """
    numbers = [int.from_bytes(hashlib.sha1(i.encode()).digest()[:4], 'little') for i in ids]
    return _fold(key, np.array(numbers, np.uint32), np.array(indices, np.uint32))


def generate(
    lm,
    params,
    prompts,
    keys,
    *,
    max_tokens,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    stop=(),
    ends=None,
    control: Control | None = None,
    strength=0.0,
    candidates: int = 1,
    block: int = 0,
    slots: int | None = None,
    title: str = 'sample',
    checks=(),
) -> list[Response]:
    """One response for each request, in the order of the requests.

    Args:
      prompts: a non-empty list of tokens for each request. Equal prompts are prefilled once, and so
        is a prefix that all share.
      keys: [M] keys, see `request_keys`.
      max_tokens: a longer response is cut here (finish 'length', no end token).
      temperature: 0 is greedy. top_k, top_p, min_p: see token_sampling.sample_tokens.
      stop: strings. The first to appear ends a response: its text before it, its tokens with it.
      ends: tokens that end a response; None: the tokenizer's.
      control: values tokens, for the next three.
      strength: λ of token-wise control: λ times the value of each token is added to its logit.
      candidates, block: K and M of block-wise control, see blocks.BlockScheduler; of a single
        candidate there is nothing to choose. 0: no blocks. Not lists.
      slots: samples made at the same time, at most; None: see memory_plan.default_slots. Another
        number changes speed and memory, and results up to rounding only, see the package.
      title: of the progress bar.
      checks: of the first responses, see early_stop.
    All from max_tokens to ends, and strength, may be lists, with a value for each request (for stop
    and ends: a tuple). Inside `journal.recording`, responses are recorded as they come and not made
    again.
    Raises ValueError where a prompt and max_tokens exceed the model's context, an option is out of
    range, or the cache does not fit; StopEarly if a check finds a problem.
    """
    if slots is not None and slots < 1:
        raise ValueError(f'slots={slots}: want at least 1')
    prompts = [tuple(prompt) for prompt in prompts]
    options = options_per_request(
        len(prompts),
        limit=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=stop,
        ends=tuple(lm.text.stop_tokens) if ends is None else ends,
        strength=strength,
        candidates=candidates,
        block=block,
        control='' if control is None else control.name,
    )
    if not prompts:
        return []
    key_words = np.asarray(jax.random.key_data(keys))
    requests = [Request(*fields) for fields in zip(prompts, key_words, options)]
    _check_context(lm, requests)
    return _make_responses(lm, params, requests, slots, title, checks, control)


def _check_context(lm, requests) -> None:
    for request in requests:
        length, limit = len(request.prompt), request.options.limit
        if length + limit > lm.config.max_length:
            raise ValueError(
                f'a prompt of {length} tokens and max_tokens={limit} exceed the context of '
                f'{lm.config.max_length}'
            )


def _make_responses(
    lm, params, requests, slots: int | None, title: str, checks, control: Control | None
) -> list[Response]:
    """A response for each request: from the current journal where it has it, else sampled."""
    plan, record = _memory_plan(lm, requests, slots, control), journal.current()
    names = [request.name() for request in requests] if record else []
    responses: list[Response | None] = [None] * len(requests)
    if record:
        responses = _recorded_responses(record, names)
    missing, pending = responses.count(None), _run_checks(checks, responses)
    if not missing:
        return cast(list[Response], responses)
    first = [check.count for check in checks]
    kind = BlockScheduler if requests[0].options.block else Scheduler
    scheduler = kind(lm, params, plan, requests, responses.copy(), first, control)
    title = f'{title}, {plan.slots} slots'
    with progress.SamplingBar(len(requests), len(requests) - missing, title) as bar:
        scheduler.on_read = bar.reading
        for finished, sampled_tokens in scheduler.results():
            for i, response in finished:
                responses[i] = response
                if record:
                    record.put(names[i], [getattr(response, name) for name in RECORDED])
            if record:
                record.flush()
            pending = _run_checks(pending, responses)
            bar.sampling(sampled_tokens, len(finished), scheduler.most_left())
            stopping.check()
    return cast(list[Response], responses)


def _run_checks(checks, responses) -> list:
    """Runs the checks whose first responses are there; returns the others."""
    pending = []
    for check in checks:
        first = responses[: check.count]
        if None in first:
            pending.append(check)
        elif (problem := check.problem(first)) is not None:
            raise early_stop.StopEarly(problem)
    return pending


def _memory_plan(
    lm, requests, slots: int | None, control: Control | None
) -> memory_plan.MemoryPlan:
    prompts, options = [request.prompt for request in requests], requests[0].options
    candidates = options.candidates if options.block else 1
    return memory_plan.plan(
        lm,
        [len(prompt) for prompt in prompts] * candidates,
        [request.options.limit for request in requests] * candidates,
        len(set(prompts)),
        slots=slots,
        prefix_tokens=memory_plan.shared_prefix_length(prompts),
        memory=memory_plan.cache_budget(lm),
        scorers=[scorer for scorer, _ in control.scorers] if control else (),
        group=candidates,
    )


def _recorded_responses(record: journal.Journal, names) -> list[Response | None]:
    """The response that the journal has under each name, or None."""
    responses = []
    for name in names:
        response = None
        if name in record.entries:
            text, tokens, *fields = record.entries[name]  # older journals end with logp
            response = Response(text, tuple(tokens), *fields)
        responses.append(response)
    return responses
