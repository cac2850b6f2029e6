"""Prompts that the model makes: judge prompts over its own responses, and new instructions."""

import collections
import dataclasses
import logging
import re

import jax
import numpy as np

from selfrew.engine import generate
from selfrew.mesh import keys
from selfrew.models import language_model
from selfrew.shelves.prompts import novelty
from selfrew.tasks import templates
from selfrew.tasks.hashing import short_id
from selfrew.types import Prompt, Response, user_prompt


@templates.shows('response', prompt='p', response='r')
def judged(lm, params, key, *, prompts, sampler, template: str = 'additive') -> list[Prompt]:
    """Judge prompts over the model's own responses, for turns that train the judge (arXiv
    2407.19594, §2.2).

    `meta` has 'judged', the prompt's id, and 'points', the range of a score.

    Args:
      prompts, sampler: entries of those shelves; each distinct response to a prompt is judged once.
      template: of the judge prompt, see scorers.judge.
    """
    k_prompts, k_sampler = jax.random.split(key)
    points, judge_prompts = list(templates.score_range(template)), []
    for rollout in sampler(lm, params, prompts(lm, params, k_prompts), k_sampler):
        prompt = rollout.prompt
        texts = [response.text for response in rollout.responses]
        for i, response in enumerate(texts):
            if response in texts[:i]:
                continue
            text = templates.render(template, prompt=prompt.text, response=response)
            name = f'judge/{prompt.id}/{i}'
            judge_prompts.append(user_prompt(name, text, judged=prompt.id, points=list(points)))
    return judge_prompts


def crossed(lm, params, key, *, prompts, sampler) -> list[Prompt]:
    """Prompts with the model's own responses, of grade 1, and its response to another prompt, of
    grade 0.

    A judge should tell these apart, though nobody knows which responses are right: data to learn
    judging without truth (see pairs.agreeing). Deviates from Self-Taught Evaluators (arXiv
    2408.02666, §3.2), where the worse response answers a modified instruction.

    Args:
      prompts, sampler: entries of those shelves: what is asked, and how it is answered.
    Raises ValueError for fewer than two prompts.
    """
    k_prompts, k_sampler, k_cross = jax.random.split(key, 3)
    rollouts = sampler(lm, params, prompts(lm, params, k_prompts), k_sampler)
    if len(rollouts) < 2:
        raise ValueError(
            f'{len(rollouts)} prompts to answer: want at least two, to cross their responses'
        )
    order = keys.numpy_rng(k_cross).permutation(len(rollouts))
    other_index = dict(zip(order, np.roll(order, 1)))  # a cycle: never a prompt's own index
    crossed_prompts = []
    for i, rollout in enumerate(rollouts):
        texts = [response.text for response in rollout.responses]
        texts.append(rollouts[other_index[i]].responses[0].text)
        grades = [1.0] * len(rollout.responses) + [0.0]
        meta = rollout.prompt.meta | {'responses': texts, 'grades': grades}
        crossed_prompts.append(dataclasses.replace(rollout.prompt, meta=meta))
    return crossed_prompts


@templates.shows('tasks', tasks=['t'])
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
    """`n` new instructions that continue given ones (Self-Instruct, arXiv 2212.10560; 2401.10020,
    §2.3). The model continues lists of known instructions; what passes the filters is kept.

    Args:
      prompts: an entry of this shelf, the seed instructions.
      template: a jinja file with {{ tasks }}, a list of texts, or one that ships.
      generator: folder or hub name of a fixed model to sample from, loaded at each call; None: the
        model in training. dtype, stored, max_length: of that model, see language_model.describe.
      seeds, own: how many seed and new instructions a request shows; seeds stand in for missing new
        ones.
      similarity: ROUGE-L (F1 of words) with a known instruction above which a new one is dropped.
      temperature, top_k, top_p, min_p, max_tokens, slots: see samplers.sample.
      batch: requests sampled together. tries: batches sampled before giving up.
    Raises ValueError for fewer than `seeds` + `own` seed instructions, or if all tries give too few
    instructions.
    """
    seed_prompts = prompts(lm, params, jax.random.fold_in(key, 0))
    pool = _InstructionPool([prompt.text for prompt in seed_prompts], seeds, own, similarity)
    if generator is not None:
        options = {'dtype': dtype, 'params': stored, 'max_length': max_length}
        now = lm.text.now
        lm, params = language_model.load(folder=generator, **lm.mesh.shape, **options)
        lm = dataclasses.replace(lm, text=lm.text.at(now))
    sampling = {'temperature': temperature, 'top_k': top_k, 'top_p': top_p, 'min_p': min_p}
    limits = {'max_tokens': max_tokens, 'slots': slots}
    rng = keys.numpy_rng(key)
    for attempt in range(tries):
        if len(pool.new_texts()) >= n:
            break
        requests = [templates.render(template, tasks=pool.sample_texts(rng)) for _ in range(batch)]
        name = f'self_instruct/{attempt}'
        responses = _continuations(lm, params, key, name, requests, **sampling, **limits)
        pool.outcomes['too_long'] += batch - len(responses)
        for response in responses:
            pool.add(_listed_instructions(response))
    outcomes = dict(pool.outcomes)
    logging.info('self-instruct: %s', outcomes)
    if len(pool.new_texts()) < n:
        made = f'{len(pool.new_texts())} instructions of {n}: {outcomes}'
        raise ValueError(f'{tries} batches of {batch} requests gave {made}')
    return [user_prompt(f'self_instruct/{short_id(text)}', text) for text in pool.new_texts()[:n]]


class _InstructionPool:
    """The known instructions: seeds, then the new ones that passed the filters."""

    def __init__(self, seed_texts: list[str], seeds: int, new: int, similarity: float):
        if len(seed_texts) < seeds + new:
            raise ValueError(
                f'{len(seed_texts)} seed instructions: want at least {seeds + new} '
                'to show in a request'
            )
        self.texts = list(seed_texts)
        self.words = [novelty.words(text) for text in seed_texts]
        self.seed_count = len(seed_texts)
        self.seeds, self.new, self.similarity = seeds, new, similarity
        self.outcomes = collections.Counter()  # 'kept', or why an instruction was dropped

    def new_texts(self) -> list[str]:
        return self.texts[self.seed_count :]

    def sample_texts(self, rng) -> list[str]:
        """The instructions that one request shows, in random order."""
        new_count = len(self.texts) - self.seed_count
        new = min(self.new, new_count)
        indices = list(rng.choice(self.seed_count, self.seeds + self.new - new, replace=False))
        if new:
            indices += list(self.seed_count + rng.choice(new_count, new, replace=False))
        return [' '.join(self.texts[i].split()) for i in rng.permutation(indices)]

    def add(self, instructions: list[str]) -> None:
        """Adds those that pass the filters of `novelty` and resemble no known instruction."""
        for instruction in instructions:
            words = novelty.words(instruction)
            outcome = novelty.rejection_reason(instruction)
            if outcome is None:
                is_known = novelty.is_similar(words, self.words, self.similarity)
                outcome = 'similar' if is_known else 'kept'
            self.outcomes[outcome] += 1
            if outcome == 'kept':
                self.texts.append(instruction)
                self.words.append(words)


def _continuations(
    lm, params, key, name: str, requests: list[str], *, max_tokens: int, **sampling
) -> list[Response]:
    """Responses to the requests that fit into the context; longer requests are dropped."""
    tokens = [lm.text.prompt_tokens(user_prompt('', request)) for request in requests]
    limit = lm.config.max_length - max_tokens
    fitting = [i for i, request in enumerate(tokens) if len(request) <= limit]
    return generate.generate(
        lm,
        params,
        [tokens[i] for i in fitting],
        generate.request_keys(key, [name] * len(fitting), fitting),
        max_tokens=max_tokens,
        title='self-instruct',
        **sampling,
    )


LIST_NUMBER = re.compile(r'(?:^|\n)\s*\d+\s*[.)]\s*')


def _listed_instructions(response: Response) -> list[str]:
    """The instructions of a continued list, without a last one that was cut by the length limit and
    without lines that introduce a list.
    """
    parts = LIST_NUMBER.split(response.text)
    if response.finish == 'length':
        parts = parts[:-1]
    parts = [' '.join(part.split()) for part in parts]
    return [part for part in parts if part and not part.endswith(':')]
