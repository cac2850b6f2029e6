"""Responses of the model as it is, and those in the data."""

import math

import numpy as np

from selfrew.engine import generate
from selfrew.engine.generate import early_stop
from selfrew.tasks import verdicts
from selfrew.types import Response, Rollout


def sample(
    lm,
    params,
    prompts,
    key,
    *,
    n: int = 4,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop: tuple = (),
    max_tokens: int = 256,
    slots: int | None = None,
) -> list[Rollout]:
    """`n` samples of the model for each prompt.

    Args:
      temperature: 0 is greedy.
      top_k, top_p, min_p: which tokens can be drawn; 0, 1.0 and 0.0 keep all.
      stop: strings; the first that appears ends a response and is not part of its text.
      max_tokens: the longest response.
      slots: samples that are decoded at the same time, at most, see generate.generate. Another
        number changes speed and memory, and the samples up to rounding only.
    Raises ValueError for an option out of range.
    """
    return sample_with(
        lm,
        params,
        prompts,
        key,
        n=n,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=stop,
        max_tokens=max_tokens,
        slots=slots,
    )


def sample_with(lm, params, prompts, key, *, n: int, max_tokens: int, **options) -> list[Rollout]:
    """What `sample` does, with all options of generate.generate.

    Raises ValueError for an option out of range.
    """
    if n < 1:
        raise ValueError(f'sampler.n={n}: want at least 1')
    fitting = []
    for prompt in prompts:
        tokens = lm.text.prompt_tokens(prompt)
        if len(tokens) + max_tokens <= lm.config.max_length:
            fitting.append((prompt, tokens))
    ids = [prompt.id for prompt, _ in fitting for _ in range(n)]
    sample_indices = [i for _ in fitting for i in range(n)]
    responses = generate.generate(
        lm,
        params,
        [tokens for _, tokens in fitting for _ in range(n)],
        generate.request_keys(key, ids, sample_indices),
        max_tokens=max_tokens,
        checks=_unread_check(fitting, n),
        **options,
    )
    return [
        Rollout(prompt, tuple(responses[i * n : (i + 1) * n]))
        for i, (prompt, _) in enumerate(fitting)
    ]


def _unread_check(fitting: list, n: int) -> list:
    """A check of the first samples, `n` of each (prompt, tokens), as the turn reads them."""
    watch = early_stop.current()
    if watch is None:
        return []

    def reason(i: int, response: Response) -> str | None:
        return watch.reason(fitting[i // n][0], response)

    return early_stop.unread_check('responses', len(fitting) * n, reason)


def with_greedy(
    lm,
    params,
    prompts,
    key,
    *,
    sampler,
    max_tokens: int | None = None,
    stop: tuple | None = None,
    slots: int | None = None,
) -> list[Rollout]:
    """The rollouts of any sampler, with the model's greedy response added as the last one of each
    (SELM, arXiv 2405.19332, §4).

    With the sampler `given`, a prompt's responses in the data and the model's own can then be
    ranked together, by a scorer that scores any response. The greedy response has no grade in
    the data: where there are grades, the scorer `given` refuses it. A prompt whose greedy response
    does not fit into the context has no rollout.

    Args:
      sampler: an entry of this shelf.
      max_tokens, stop, slots: of the greedy responses, as in `sample`; None: as the sampler has
        them, or else the defaults of `sample`.
    """
    own = {'max_tokens': max_tokens, 'stop': stop, 'slots': slots}
    shared = {name: sampler.keywords[name] for name in own if name in sampler.keywords}
    shared |= {name: value for name, value in own.items() if value is not None}
    greedy = sample(lm, params, prompts, key, n=1, temperature=0.0, **shared)
    best_of = {rollout.prompt.id: rollout.responses for rollout in greedy}
    return [
        Rollout(drawn.prompt, drawn.responses + best_of[drawn.prompt.id])
        for drawn in sampler(lm, params, prompts, key)
        if drawn.prompt.id in best_of  # its greedy response fits into the context
    ]


def ends_greedy(sampler) -> bool:
    """Whether the last response of each rollout of a bound sampler is greedy."""
    return sampler.func is with_greedy


def disputed(lm, params, prompts, key, *, sampler) -> list[Rollout]:
    """For each original prompt, the judge prompt whose verdicts vary most (arXiv 2407.19594, §2.2).

    The prompts are those of prompts.judged, one for each response to an original prompt. The
    variance is of the scores of the valid verdicts. Of equal variances, the first is taken; a judge
    prompt without a valid verdict is taken only where no other has one.

    Args:
      sampler: writes the verdicts.
    Raises ValueError for prompts that prompts.judged did not make.
    """
    most_disputed = {}  # id of the original prompt -> (variance, rollout)
    for rollout in sampler(lm, params, prompts, key):
        scores = [s for s in verdicts.scores(rollout) if not math.isnan(s)]
        variance = float(np.var(scores)) if scores else -1.0
        original = rollout.prompt.meta['judged']
        if original not in most_disputed or variance > most_disputed[original][0]:
            most_disputed[original] = variance, rollout
    return [rollout for _, rollout in most_disputed.values()]


def given(lm, params, prompts, key) -> list[Rollout]:
    """The responses in the data (`meta['responses']`), with their tokens where the data have them
    (`meta['tokens']`, and `meta['finishes']`; see prompts.judgements).

    Raises ValueError for a prompt without responses.
    """
    del lm, params, key
    for prompt in prompts:
        if not prompt.meta.get('responses'):
            raise ValueError(
                f"prompt {prompt.id!r} came without a response in meta['responses']; "
                f'the sampler given wants at least one for each prompt'
            )
    return [Rollout(prompt, _given_responses(prompt.meta)) for prompt in prompts]


def _given_responses(meta: dict) -> tuple:
    texts = meta['responses']
    tokens = meta.get('tokens', [()] * len(texts))
    finishes = meta.get('finishes', ['stop'] * len(texts))
    return tuple(Response(*fields) for fields in zip(texts, map(tuple, tokens), finishes))
