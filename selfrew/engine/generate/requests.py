"""Requests in, responses out: what the rest of the house sees of sampling."""

import dataclasses
import hashlib
import math

import jax
import numpy as np
from tqdm import tqdm

from selfrew.engine.generate import journal, memory_plan
from selfrew.engine.generate.scheduler import Scheduler
from selfrew.mesh import processes
from selfrew.types import Response


@jax.jit
def _fold(key, number_M, index_M):
    return jax.vmap(lambda a, b: jax.random.fold_in(jax.random.fold_in(key, a), b))(
        number_M, index_M
    )


def request_keys(key, ids, indices):
    """A key for each request: `key` (seed, round and purpose) folded with its prompt's id and its
    sample index.

    Args: ids, a string for each request; indices, an int for each. Returns [M] keys.
    """
    numbers = [int.from_bytes(hashlib.sha1(i.encode()).digest()[:4], 'little') for i in ids]
    return _fold(key, np.array(numbers, np.uint32), np.array(indices, np.uint32))


@dataclasses.dataclass(frozen=True)
class Options:
    """A request's own."""

    limit: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    stop: tuple
    ends: tuple


@dataclasses.dataclass(frozen=True)
class Request:
    prompt: tuple  # of tokens
    words: np.ndarray  # the data of its key
    asked: Options

    def name(self) -> str:
        """In a journal: what the response depends on, beside the parameters."""
        return hashlib.sha256(
            repr((self.prompt, self.words.tolist(), self.asked)).encode()
        ).hexdigest()[:32]


def _options(count: int, **given) -> list[Options]:
    """Each request's, from values for all or lists with one for each. ValueError for one that is
    out of range.
    """
    several = {name: v if isinstance(v, list) else [v] * count for name, v in given.items()}
    for name, found in several.items():
        if len(found) != count:
            raise ValueError(f'{len(found)} values of {name} for {count} requests')
    out = [Options(*row) for row in zip(*several.values())]
    for o in set(out):
        fine = o.limit >= 1 and 0 <= o.temperature < math.inf and o.top_k >= 0
        fine = fine and 0 < o.top_p <= 1 and 0 <= o.min_p <= 1
        if not fine:
            raise ValueError(
                f'want max_tokens >= 1, temperature >= 0, top_k >= 0 (0: all), 0 < top_p <= 1, 0 <= min_p <= 1; got '
                f'max_tokens={o.limit}, temperature={o.temperature}, top_k={o.top_k}, top_p={o.top_p}, min_p={o.min_p}'
            )
        if not all(isinstance(s, str) and s for s in o.stop):
            raise ValueError(f'stop={o.stop!r}: want strings that are not empty')
    return out


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
    slots: int | None = None,
    title: str = 'sample',
) -> list[Response]:
    """One response for each request, in the order of the requests.

    Args:
      prompts: a list of tokens for each request, not empty; equal ones are read once, and what all
        begin with too.
      keys: [M] keys, see `request_keys`.
      max_tokens: a response is cut there (finish 'length', no end token).
      temperature: 0 is greedy. top_k, top_p, min_p: see token_sampling.sample_tokens.
      stop: strings of which the first that appears ends a response; its text ends before it, its
        tokens with it.
      ends: tokens that end a response; None: those of the tokenizer.
      slots: samples made at the same time, at most; None: see memory_plan.default_slots. They
        change the speed and the memory, not the tokens; with so many, what else stands in them, or
        when they are filled, changes not a bit.
      title: of the progress bar.
    All but slots and title may be lists, with a value for each request (of tuples for stop and
    ends). Inside of `journal.recording`, responses are written down as they come, and those found
    there are not made again.
    Raises ValueError where a prompt and max_tokens exceed the model's context, an option is out of
    range, or the cache does not fit.
    """
    if slots is not None and slots < 1:
        raise ValueError(f'want slots >= 1; got {slots=}')
    M, prompts = len(prompts), [tuple(p) for p in prompts]
    asked = _options(
        M,
        limit=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=stop,
        ends=tuple(lm.text.ends) if ends is None else ends,
    )
    for prompt, o in zip(prompts, asked):
        if len(prompt) + o.limit > lm.config.max_length:
            raise ValueError(
                f'a prompt of {len(prompt)} tokens and max_tokens={o.limit} exceed the context of '
                f'{lm.config.max_length}'
            )
    if not M:
        return []
    plan = memory_plan.plan(
        lm,
        list(map(len, prompts)),
        [o.limit for o in asked],
        len(set(prompts)),
        slots=slots or memory_plan.default_slots(lm, M),
        shared=memory_plan.shared_prefix_length(prompts),
        memory=memory_plan.cache_budget(lm),
    )
    words = np.asarray(jax.random.key_data(keys))
    requests = [Request(*one) for one in zip(prompts, words, asked)]
    out, book = [None] * M, journal.current()
    names = [request.name() for request in requests] if book else []
    for i, name in enumerate(names):
        if name in book.entries:
            out[i] = Response(*[tuple(v) if isinstance(v, list) else v for v in book.entries[name]])
    missing = out.count(None)
    if not missing:
        return out
    shown = {
        'desc': title,
        'unit': 'sample',
        'mininterval': 1.0,
        'disable': not processes.is_main(),
    }
    with tqdm(total=M, initial=M - missing, **shown) as bar:
        work, count = Scheduler(lm, params, plan, requests, out.copy()), 0
        for some in work.results():
            for i, response in some:
                out[i] = response
                count += len(response.tokens)
                if book:
                    book.put(
                        names[i], [response.text, response.tokens, response.finish, response.logp]
                    )
            if book:
                book.flush()
            bar.update(len(some))
            bar.set_postfix_str(f'{count / max(bar.format_dict["elapsed"], 1e-9):,.0f} tokens/s')
    return out
