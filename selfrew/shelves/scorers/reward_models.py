"""Scores of a reward model: another checkpoint with a scalar head."""

import functools
import math

from selfrew.engine import scalar_values
from selfrew.models import hf, language_model
from selfrew.types import Judgement


def check_checkpoint(checkpoint: str) -> None:
    """Raises FileNotFoundError without that folder or hub repository, ValueError where it has no
    scalar head.
    """
    folder = language_model.resolve_folder(checkpoint)
    if not hf.read_config(folder).scalar_head:
        architecture = hf.read_fields(folder)['architectures'][0]
        raise ValueError(
            f'{checkpoint} has no scalar head: it is {architecture}; '
            f'want a ...ForSequenceClassification with 1 label'
        )


@functools.lru_cache(maxsize=2)
def _load(mesh, checkpoint, dtype, stored, max_length):
    """(lm, params) of the reward model, kept on the mesh for later rounds."""
    return language_model.load(
        folder=checkpoint, **mesh.shape, dtype=dtype, params=stored, max_length=max_length
    )


def reward_model(
    lm,
    params,
    rollouts,
    key,
    *,
    checkpoint: str,
    dtype: str = 'float32',
    stored: str = 'float32',
    max_length: int | None = None,
    rows: int = 64,
) -> list[Judgement]:
    """The reward of another model: its scalar head at the last token of the whole conversation.

    A conversation longer than the reward model's context scores nan.

    Args:
      checkpoint: folder or hub name of a ...ForSequenceClassification with one label. Its own
        tokenizer and chat template format the conversation. It is placed on the mesh of `lm` and
        stays there between rounds.
      dtype, stored, max_length: its compute dtype, parameter dtype and longest context, see
        language_model.describe.
      rows: conversations in a batch.
    Raises ValueError if its chat template refuses a conversation, or if a reward is not finite.
    """
    del params, key
    scorer, weights = _load(lm.mesh, checkpoint, dtype, stored, max_length)
    text, conversations = scorer.text.at(lm.text.now), []
    for rollout in rollouts:
        for response in rollout.responses:
            conversations.append(text.conversation_tokens(rollout.prompt, response.text))
    longest = scorer.config.max_length
    fitting = [i for i, tokens in enumerate(conversations) if len(tokens) <= longest]
    rewards = scalar_values.last_values(
        scorer, weights, [conversations[i] for i in fitting], rows=rows
    )
    if not all(map(math.isfinite, rewards)):
        raise ValueError(
            f'{checkpoint}: a reward is not finite; its parameters are damaged, or '
            f'overflow in dtype={dtype!r}'
        )
    reward_of = dict(zip(fitting, rewards))
    scores = iter([reward_of.get(i, math.nan) for i in range(len(conversations))])
    return [Judgement(r, tuple(next(scores) for _ in r.responses)) for r in rollouts]
