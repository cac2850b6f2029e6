"""What the scorers' tests share: a reward model made of the tiny base."""

import dataclasses
from typing import Any, NamedTuple

import jax
import pytest

from selfrew.models import decoder, hf, language_model


class RewardModel(NamedTuple):
    folder: str
    module: decoder.Decoder
    params: Any


@pytest.fixture(scope='session')
def reward_base(tmp_path_factory, tiny) -> RewardModel:
    """The tiny base as a ...ForSequenceClassification with a random head, written to a folder."""
    (lm, params), folder = tiny, str(tmp_path_factory.mktemp('reward'))
    lm.text.tokenizer.save_pretrained(folder)
    fields = hf.read_fields(language_model.TINY) | {
        'architectures': ['LlamaForSequenceClassification'],
        'id2label': {'0': 'good'},
    }
    config = dataclasses.replace(lm.config, scalar_head=True)
    params = params | {'scalar': jax.random.normal(jax.random.key(2), (lm.config.width, 1))}
    hf.write(folder, fields, config, params)
    return RewardModel(folder, decoder.make_module(config), params)
