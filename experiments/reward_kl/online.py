"""Training that takes no folder of a run: prefix scorers, and policies that learn from samples as
they come.
"""

import functools
from collections.abc import Iterator

import jax

from selfrew.engine import trainer
from selfrew.mesh import keys
from selfrew.shelves import losses, optimizers, pairs, samplers
from selfrew.types import State

OPTIMIZER = functools.partial(optimizers.adamw, weight_decay=0.0, clip=1.0)


def _copied(params) -> dict:
    """An update takes the arrays of its state."""
    return jax.tree.map(jax.numpy.copy, params)


def _ignore(step: int, metrics: dict) -> None:
    """Reports nothing."""


def learn_values(base, scorer_model, prompts, scorer, seed: int, *, loss: str, n: int, **options):
    """The parameters of a prefix scorer that a loss makes of the base's samples.

    Args:
      base: (lm, params) that samples.
      scorer_model: (lm, params) that begins as the base, with adapters and a value head.
      n, max_tokens: samples of each prompt. options: of trainer.train.
    """
    key = keys.fold_name(jax.random.key(seed), 'values')
    k_sample, k_train = jax.random.split(key)
    max_tokens = options.pop('max_tokens')
    rollouts = samplers.sample(*base, prompts, k_sample, n=n, max_tokens=max_tokens)
    examples = []
    for judgement in scorer(*base, rollouts, key):
        examples += pairs.group(judgement, None, all_ties=True)
    lm, params = scorer_model
    state, _ = trainer.train(
        lm,
        State(_copied(params), None, 0, 0),
        examples,
        k_train,
        functools.partial(getattr(losses, loss)),
        _ignore,
        **{'optimizer': OPTIMIZER, 'row_length': 512, 'schedule': 'cosine'} | options,
    )
    return state.params


def train_online(
    base,
    prompts_of,
    scorer,
    seed: int,
    *,
    loss,
    rule,
    n: int,
    samples: int,
    rounds: int,
    marks: tuple,
    **options,
) -> Iterator[tuple[int, dict]]:
    """Yields (round, parameters) of a policy after each of the rounds in `marks`. It begins as the
    base, and the base stays its reference.

    Args:
      prompts_of: (round, number of prompts) -> its prompts. n, max_tokens: samples of each.
      samples: of a round.
      rule: of the shelf pairs. loss: bound, of the shelf losses. options: of trainer.train.
    """
    lm, params = base
    key, max_tokens = jax.random.key(seed), options.pop('max_tokens')
    state = State(_copied(params), None, 0, 0)
    fields = {'row_length': 512, 'reference': 'base', 'optimizer': OPTIMIZER} | options
    for number in range(1, rounds + 1):
        k_round = jax.random.fold_in(key, number)
        asked = prompts_of(number, samples // n)
        rollouts = samplers.sample(lm, state.params, asked, k_round, n=n, max_tokens=max_tokens)
        examples = []
        for judgement in scorer(lm, state.params, rollouts, k_round):
            rng = keys.named_rng(k_round, judgement.rollout.prompt.id)
            examples += rule(judgement, rng)
        if examples:
            update = keys.fold_name(k_round, 'update')
            state, _ = trainer.train(lm, state, examples, update, loss, _ignore, **fields)
        if number in marks:
            yield number, _copied(state.params)
