"""How responses are made. Layer 5. The shelf's contract: (lm, params, prompts, key, *, …) ->
[Rollout].

A prompt that does not fit into the context is left out of the rollouts; the loop counts what is
missing.
"""

import math

import numpy as np

from selfrew.engine import generate
from selfrew.tasks import answers
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
      temperature: 0 is greedy. top_k, top_p, min_p: which tokens may be drawn; 0, 1.0 and 0.0 keep
        all.
      stop: strings of which the first that appears ends a response, which does not show it.
        max_tokens: of a response.
      slots: samples made at the same time, at most, see generate.generate; changes the speed and
        the memory, not the samples.
    Raises ValueError for an option out of range.
    """
    if n < 1:
        raise ValueError(f'sampler.n={n}: want at least 1')
    fitting = [
        (p, tokens)
        for p in prompts
        if len(tokens := lm.text.prompt_tokens(p)) + max_tokens <= lm.config.max_length
    ]
    ids, index = (
        [p.id for p, _ in fitting for _ in range(n)],
        [i for _ in fitting for i in range(n)],
    )
    responses = generate.generate(
        lm,
        params,
        [tokens for _, tokens in fitting for _ in range(n)],
        generate.request_keys(key, ids, index),
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=stop,
        slots=slots,
    )
    return [Rollout(p, tuple(responses[i * n : (i + 1) * n])) for i, (p, _) in enumerate(fitting)]


def with_greedy(lm, params, prompts, key, *, sampler) -> list[Rollout]:
    """The rollouts of `sample`, each with the model's greedy response behind its samples (SELM,
    arXiv 2405.19332, §4).

    Raises ValueError for another sampler inside.
    """
    if sampler.func is not sample:
        raise ValueError(f'with_greedy wants the sampler named sample, got {sampler.func.__name__}')
    same = {
        name: sampler.keywords[name]
        for name in ('max_tokens', 'stop', 'slots')
        if name in sampler.keywords
    }
    greedy = sample(lm, params, prompts, key, n=1, temperature=0.0, **same)
    drawn = sampler(lm, params, prompts, key)  # leaves out the same prompts: the limit is the same
    return [
        Rollout(d.prompt, d.responses + g.responses) for d, g in zip(drawn, greedy, strict=True)
    ]


def disputed(lm, params, prompts, key, *, sampler) -> list[Rollout]:
    """Of the judge prompts over the responses to one prompt, that whose verdicts' scores vary most
    (2407.19594, §2.2).

    sampler: writes the verdicts. A verdict that cannot be read says nothing; of prompts that are
    disputed as much, the first is taken. Raises ValueError where the prompts are not such as
    prompts.judged makes.
    """
    widest = {}
    for rollout in sampler(lm, params, prompts, key):
        said = [s for s in answers.scores(rollout) if not math.isnan(s)]
        spread = float(np.var(said)) if said else -1.0
        if spread > widest.get(rollout.prompt.meta['judged'], (-2.0,))[0]:
            widest[rollout.prompt.meta['judged']] = spread, rollout
    return [rollout for _, rollout in widest.values()]


def given(lm, params, prompts, key) -> list[Rollout]:
    """The responses that came with the prompts (`meta['responses']`). ValueError where one has
    none.
    """
    del lm, params, key
    for p in prompts:
        if not p.meta.get('responses'):
            raise ValueError(
                f'prompt {p.id!r} came without a response; the sampler given takes only such as have one'
            )
    return [Rollout(p, tuple(Response(text) for text in p.meta['responses'])) for p in prompts]
