"""Alignment at inference: the best of several samples, and sampling that prefix scorers steer
(controlled decoding, arXiv 2310.17022).

A prefix scorer is a model with a value head, see losses.cd_q and losses.cd_fudge. `values` names
them: 'own', the head of the model that samples, on its own hidden states; or the folder of a run,
or an exported folder, with the same tokenizer. Such a model reads the same tokens beside the one
that samples, with a cache of its own, so that its values hold whatever model samples (§4, Exp. 5).
`weights` are those of their sum (Exp. 4).
"""

import dataclasses
import functools
import json
import math

from selfrew.engine import saved_models
from selfrew.engine.generate import Control
from selfrew.mesh import keys
from selfrew.shelves.samplers.plain import sample_with
from selfrew.types import Rollout

OWN = 'own'


def check_values(values: tuple) -> None:
    """Raises ValueError or FileNotFoundError unless these name prefix scorers."""
    if not values:
        raise ValueError('no prefix scorer; want at least one of: own, a run, an exported folder')
    for name in values:
        if not isinstance(name, str):
            raise ValueError(f'{name!r}: want names of prefix scorers')
        if name != OWN:
            saved_models.check(name, value_head=True)


def values_of(sampler) -> tuple:
    """The prefix scorers that a bound sampler, or one nested in it, names; () without any."""
    nested = sampler.keywords.get('sampler')
    own = sampler.keywords.get('values', (OWN,)) if sampler.func in (tokenwise, blockwise) else ()
    return own + (values_of(nested) if nested is not None else ())


def _check_weights(values: tuple = (OWN,), weights: tuple = (1.0,), **_) -> None:
    if len(values) != len(weights):
        raise ValueError(
            f'{len(values)} values and {len(weights)} weights; want one weight for each'
        )
    for weight in weights:
        is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight):
            raise ValueError(f'weights={weights}: want finite numbers')


def control_of(lm, params, values: tuple, weights: tuple) -> Control:
    """The control of these prefix scorers, see the module.

    Raises ValueError where the model has no head of its own that is asked for, where a scorer has
    none, or where it has another tokenizer or a shorter context.
    """
    _check_weights(values, weights)
    head, scorers = None, []
    for name, weight in zip(values, weights):
        if name != OWN:
            scorer, its_params = _load(name, lm)
            scorers.append((scorer, its_params | {'value': weight * its_params['value']}))
        elif 'value' not in params:
            raise ValueError("values='own': the model has no value head; set model.value_head")
        else:
            part = weight * params['value']
            head = part if head is None else head + part
    return Control(head, tuple(scorers), json.dumps([values, weights]))


@functools.lru_cache(maxsize=4)
def _load(name: str, lm) -> tuple:
    """(lm, params) of a prefix scorer, kept for later calls."""
    scorer, params = saved_models.load(name, lm, value_head=True)
    if scorer.text.tokenizer.get_vocab() != lm.text.tokenizer.get_vocab():
        raise ValueError(f'{name}: a prefix scorer wants the tokenizer of the model that samples')
    if scorer.config.vocab != lm.config.vocab:
        raise ValueError(
            f'{name} has {scorer.config.vocab} embeddings, the model that samples {lm.config.vocab}'
        )
    if scorer.config.max_length < lm.config.max_length:
        raise ValueError(
            f'{name} has a context of {scorer.config.max_length}, the model that samples one of '
            f'{lm.config.max_length}: lower model.max_length'
        )
    return scorer, params


def _checked(sampler):
    sampler.check_options = _check_weights
    return sampler


@_checked
def tokenwise(
    lm,
    params,
    prompts,
    key,
    *,
    strength: float,
    values: tuple = (OWN,),
    weights: tuple = (1.0,),
    n: int = 4,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop: tuple = (),
    max_tokens: int = 256,
    slots: int | None = None,
) -> list[Rollout]:
    """`n` samples of each prompt from the law π(z|x, y) · exp(λ V(x, y z)) of each token z (§3.1).

    The values are added to the logits before temperature and truncation. A response's `logp` is
    still the model's own, `sampled_logp` that of this law; the mean of their difference estimates
    the KL of the two.

    Args:
      strength: λ; 0 samples the model as it is.
      values, weights: see the module. The others: see `sample`.
    Raises ValueError as `sample` and `control_of` do.
    """
    return sample_with(
        lm,
        params,
        prompts,
        key,
        n=n,
        control=control_of(lm, params, values, weights),
        strength=strength,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=stop,
        max_tokens=max_tokens,
        slots=slots,
    )


@_checked
def blockwise(
    lm,
    params,
    prompts,
    key,
    *,
    candidates: int,
    block: int,
    values: tuple = (OWN,),
    weights: tuple = (1.0,),
    n: int = 4,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    max_tokens: int = 256,
    slots: int | None = None,
) -> list[Rollout]:
    """`n` samples of each prompt, each a block of tokens at a time: of K candidates for the next
    block the one of the highest value goes on, until it has ended (§3.2).

    A candidate that ends within a block has its value there. A response has no `sampled_logp`: its
    law has no closed form; its KL from the model is at most ⌈L / M⌉ (log K − (K − 1) / K), L its
    length.

    Args:
      candidates, block: K, and M in tokens. values, weights: see the module. The others: see
        `sample`.
    Raises ValueError as `sample` and `control_of` do.
    """
    return sample_with(
        lm,
        params,
        prompts,
        key,
        n=n,
        control=control_of(lm, params, values, weights),
        candidates=candidates,
        block=block,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        max_tokens=max_tokens,
        slots=slots,
    )


def best_of_n(lm, params, prompts, key, *, sampler, scorer, n: int = 1) -> list[Rollout]:
    """The best of the responses that another sampler makes, by any scorer; `n` times.

    The sampler's responses to a prompt are split into `n` equal shares in their order, and the best
    of each share is kept: N is its number of responses over `n`. Of equal scores the first counts.
    A response without a verdict is never the best; a prompt with a share of which none has one has
    no rollout. What is kept has no `sampled_logp`: the law of the best is not that of each.

    Args:
      sampler: an entry of this shelf. scorer: an entry of the shelf scorers.
    Raises ValueError where the responses cannot be split so.
    """
    rollouts = sampler(lm, params, prompts, key)
    kept = []
    for judgement in scorer(lm, params, rollouts, keys.fold_name(key, 'best_of_n')):
        prompt, responses = judgement.rollout.prompt, judgement.rollout.responses
        if len(responses) % n or not responses:
            raise ValueError(
                f'best_of_n.n={n}: the sampler made {len(responses)} responses to prompt '
                f'{prompt.id!r}; want a multiple'
            )
        size, best = len(responses) // n, []
        for start in range(0, len(responses), size):
            scores = judgement.scores[start : start + size]
            known = [i for i, score in enumerate(scores) if not math.isnan(score)]
            if known:
                index = max(known, key=scores.__getitem__)
                best.append(dataclasses.replace(responses[start + index], sampled_logp=None))
        if len(best) == n:
            kept.append(Rollout(prompt, tuple(best)))
    return kept
