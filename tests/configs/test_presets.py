"""A model preset binds and has the published number of parameters; an unknown one is refused."""

import jax
import pytest

from configs import models, self_rewarding
from selfrew.models import decoder, hf, language_model
from selfrew.running import binding

# Parameters of the checkpoints on the hub.
PUBLISHED = {
    'llama2_7b': 6738415616,
    'llama2_13b': 13015864320,
    'llama2_70b': 68976648192,
    'llama3_8b': 8030261248,
    'llama3_1_8b': 8030261248,
    'llama3_70b': 70553706496,
    'llama3_1_70b': 70553706496,
    'qwen2_5_0_5b': 494032768,
    'qwen2_5_1_5b': 1543714304,
    'qwen2_5_3b': 3085938688,
    'qwen2_5_7b': 7615616512,
    'qwen2_5_14b': 14770033664,
    'qwen2_5_32b': 32763876352,
    'qwen2_5_72b': 72706203648,
    'mistral_7b': 7248023552,
    'zephyr_7b_sft': 7241732096,
    'gemma2_9b': 9241705984,
    'phi3_mini_4k': 3821079552,
    'llama2_7b_chat': 6738415616,
    'llama2_70b_chat': 68976648192,
}


@pytest.mark.parametrize('name', models.PRESETS)
def test_a_preset_has_as_many_parameters_as_the_published_checkpoint(name):
    config = hf.config_of(models.get(name)['shape'], name)
    leaves = jax.tree.leaves(decoder.abstract_params(decoder.make_module(config))[0])
    assert sum(x.size for x in leaves) == PUBLISHED[name]


@pytest.mark.parametrize('name', models.PRESETS)
def test_a_preset_binds_as_the_model_of_a_run(name):
    bound = binding.bind_arguments(language_model.describe, models.get(name), 'model')
    assert bound.keywords == models.get(name)


def test_an_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(ValueError, match='llama2_70b, llama2_7b_chat'):
        models.get('llama9')
    with pytest.raises(ValueError, match='smoke, paper, and'):
        self_rewarding.get_config('llama9')
