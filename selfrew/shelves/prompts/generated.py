"""Prompts that the model makes: judge prompts over its own responses, and new instructions."""

import collections
import dataclasses
import hashlib
import logging
import re

import jax
import numpy as np

from selfrew.engine import generate
from selfrew.mesh import keys
from selfrew.models import language_model
from selfrew.tasks import novelty, templates
from selfrew.types import Prompt, ask

# --- the model's own responses, and ideas -----------------------------------------------------------------------------


def judged(lm, params, key, *, prompts, sampler, template: str = 'additive') -> list[Prompt]:
    """Judge prompts over the model's own responses: what a turn that learns to judge is asked
    (arXiv 2407.19594, §2.2).

    Args:
      prompts, sampler: entries of those shelves; of responses with the same text, one is judged.
      template: a judge's, see scorers.judge.
    `meta` has 'judged', the prompt's id, and 'points', the range of a score.
    """
    k_prompts, k_sampler = jax.random.split(key)
    points, out = templates.score_range(template), []
    for r in sampler(lm, params, prompts(lm, params, k_prompts), k_sampler):
        found = [a.text for a in r.responses]
        for i in sorted(map(found.index, set(found))):
            asked = templates.render(template, prompt=r.prompt.text, response=found[i])
            out.append(
                ask(f'judge/{r.prompt.id}/{i}', asked, judged=r.prompt.id, points=list(points))
            )
    return out


def crossed(lm, params, key, *, prompts, sampler) -> list[Prompt]:
    """Prompts with the model's own responses, of grade 1, and one that it gave to another of them,
    of grade 0.

    What a judge should tell apart, though nobody knows which response is right: to learn judging
    from without truth (see pairs.agreeing). Self-Taught Evaluators (arXiv 2408.02666, §3.2) have
    the worse response answer an instruction that the model has changed; here it answers another
    one.

    Args:
      prompts, sampler: entries of those shelves: what is asked, and how it is answered.
    Raises ValueError for fewer than two prompts.
    """
    k_prompts, k_sampler, k_cross = jax.random.split(key, 3)
    found = sampler(lm, params, prompts(lm, params, k_prompts), k_sampler)
    if len(found) < 2:
        raise ValueError(
            f'{len(found)} prompts to answer: want at least two, to cross their responses'
        )
    order, out = keys.numpy_rng(k_cross).permutation(len(found)), []
    other = {
        here: found[there] for here, there in zip(order, np.roll(order, 1))
    }  # never a prompt's own
    for i, r in enumerate(found):
        given = [a.text for a in r.responses] + [other[i].responses[0].text]
        meta = r.prompt.meta | {'responses': given, 'grades': [1.0] * len(r.responses) + [0.0]}
        out.append(dataclasses.replace(r.prompt, meta=meta))
    return out


NUMBERED = re.compile(r'(?:^|\n)\s*\d+\s*[.)]\s*')


def self_instruct(
    lm,
    params,
    key,
    *,
    prompts,
    n: int,
    template: str = 'instruct',
    generator: str | None = None,
    dtype: str = 'float32',
    stored: str = 'float32',
    max_length: int | None = None,
    seeds: int = 6,
    own: int = 2,
    similarity: float = 0.7,
    temperature: float = 0.6,
    top_k: int = 0,
    top_p: float = 0.9,
    min_p: float = 0.0,
    max_tokens: int = 1024,
    batch: int = 64,
    tries: int = 100,
    slots: int | None = None,
) -> list[Prompt]:
    """`n` new instructions in the manner of given ones (Self-Instruct, arXiv 2212.10560;
    2401.10020, §2.3).

    Each request shows a few instructions in random order, and the model goes on with the list. What
    it adds is kept if it passes the filters (see novelty) and is not too like any that is there.

    Args:
      prompts: an entry of this shelf, the seeds.
      template: a jinja file with {{ tasks }}, a list of texts, or one that ships.
      generator: the folder or hub name of a fixed model that is asked, read anew each time and not
        kept; None: the model that is trained. dtype, stored, max_length: of that model, see
        language_model.load.
      seeds, own: how many of either are shown; seeds stand in for its own while there are too few.
      similarity: ROUGE-L (F1, of words) above which an instruction is too like another one.
      temperature, top_k, top_p, min_p, max_tokens, slots: see samplers.sample.
      batch: requests between two looks at what came of them. tries: batches after which it is given
        up.
    Raises ValueError where there are fewer seeds than are shown, or so many tries do not give n
    instructions.
    """
    known = [p.text for p in prompts(lm, params, jax.random.fold_in(key, 0))]
    if len(known) < seeds + own:
        raise ValueError(
            f'{len(known)} seed instructions: want at least {seeds + own} to show in a request'
        )
    if generator is not None:
        lm, params = language_model.load(
            folder=generator, **lm.mesh.shape, dtype=dtype, params=stored, max_length=max_length
        )
    rng, first = keys.numpy_rng(key), len(known)
    heard, dropped = [novelty.words(text) for text in known], collections.Counter()
    for attempt in range(tries):
        if len(known) - first >= n:
            break
        shown = [_shown(known, first, seeds, own, rng) for _ in range(batch)]
        asked = [lm.text.prompt_tokens(ask('', templates.render(template, tasks=some))) for some in shown]
        fitting = [
            i for i, tokens in enumerate(asked) if len(tokens) + max_tokens <= lm.config.max_length
        ]
        dropped['too_long'] += batch - len(fitting)
        sample_keys = generate.request_keys(
            key, [f'self_instruct/{attempt}'] * len(fitting), fitting
        )
        for response in generate.generate(
            lm,
            params,
            [asked[i] for i in fitting],
            sample_keys,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            slots=slots,
            title='self-instruct',
        ):
            for instruction in _listed(response):
                new = novelty.words(instruction)
                wrong = (
                    novelty.fault(instruction)
                    or (novelty.is_similar(new, heard, similarity) and 'similar')
                    or None
                )
                dropped[wrong or 'kept'] += 1
                if wrong is None:
                    known.append(instruction)
                    heard.append(new)
    logging.info('self-instruct: %s', dict(dropped))
    if len(known) - first < n:
        raise ValueError(
            f'{tries} batches of {batch} requests gave {len(known) - first} instructions of {n}: {dict(dropped)}'
        )
    name = lambda said: hashlib.sha1(said.encode()).hexdigest()[:12]
    return [ask(f'self_instruct/{name(said)}', said) for said in known[first : first + n]]


def _shown(known: list[str], first: int, seeds: int, own: int, rng) -> list[str]:
    """What one request shows: of the first ones, the seeds, and of what was made up since."""
    mine = min(own, len(known) - first)
    some = list(rng.choice(first, seeds + own - mine, replace=False))
    some += list(first + rng.choice(len(known) - first, mine, replace=False)) if mine else []
    return [' '.join(known[i].split()) for i in rng.permutation(some)]


def _listed(response) -> list[str]:
    """The instructions of a list that goes on; a last one that was cut is not one, nor is what
    leads over to a list.
    """
    found = NUMBERED.split(response.text)
    if response.finish == 'length':
        found = found[:-1]
    return [
        ' '.join(one.split()) for one in found if one.strip() and not one.rstrip().endswith(':')
    ]
