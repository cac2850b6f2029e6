"""Prefix scorers by name: a run, an exported folder, the model's own; and the best of several."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sampling_toys import KEY
from toys import prompt as numbers, toy

import selfrew
from configs import controlled_decoding
from selfrew import loop
from selfrew.engine import run_files, train_state
from selfrew.models import language_model
from selfrew.running import binding, checkpoint, config as run_config, stage
from selfrew.shelves import samplers
from selfrew.shelves.samplers.controlled import control_of
from selfrew.types import Judgement, Response, Rollout, State, user_prompt

ADAM = optax.adam(1e-3)
PROMPTS = [user_prompt(f'p{i}', f'Tom has {i} apples. How many has he?') for i in range(3)]
OPTIONS = {'n': 2, 'max_tokens': 12}


@pytest.fixture(scope='module')
def scorer(tmp_path_factory):
    """(folder of a run whose model has a value head, its lm and params)."""
    workdir = tmp_path_factory.mktemp('values')
    lm, params = language_model.load(folder='tiny', value_head=True)
    params = params | {'value': 0.2 * jax.random.normal(KEY, params['value'].shape)}
    model = controlled_decoding.get_config('smoke').model.to_dict()
    run_files.write_atomic(
        str(workdir / 'config.json'),
        stage.json_bytes({'model': model, 'mesh': {'data': 1}}),
    )
    alone, count = train_state.training_only(lm, 'value'), jnp.int32(1)
    state = train_state.begin_round(alone, State(params, None, count, count), ADAM)
    folder = stage.Folder(str(workdir), '01')
    checkpoint.save(alone, folder, state)
    restored = checkpoint.restore(alone, folder, ADAM, lm.base_params())
    jax.tree.map(np.testing.assert_array_equal, restored.params, params)
    assert jax.tree.structure(restored.opt) == jax.tree.structure(state.opt)
    return str(workdir), lm, params


@pytest.mark.slow
def test_a_head_is_read_from_a_run_and_from_an_exported_folder_alike(scorer, tmp_path):
    workdir, lm, params = scorer
    own = samplers.tokenwise(lm, params, PROMPTS, KEY, strength=2.0, **OPTIONS)
    plain, base = language_model.load(folder='tiny')
    folder = str(tmp_path / 'out')
    selfrew.save(folder, lm, params)
    for name in (workdir, folder):
        binding.bind('sampler', {'name': 'tokenwise', 'strength': 2.0, 'values': (name,)}, 'here')
        found = samplers.tokenwise(
            plain, base, PROMPTS, KEY, strength=2.0, values=(name,), **OPTIONS
        )
        assert [[r.tokens for r in x.responses] for x in found] == [
            [r.tokens for r in x.responses] for x in own
        ]
    _, loaded = language_model.load(folder=folder, value_head=True)
    np.testing.assert_array_equal(loaded['value'], params['value'])
    # without the field the file is ignored, and transformers reads model.safetensors alone
    _, without = language_model.load(folder=folder)
    assert 'value' not in without


def test_several_scorers_add_up_by_their_weights(scorer):
    workdir, lm, params = scorer
    control = control_of(lm, params, ('own', workdir, 'own'), (2.0, -0.5, 1.0))
    np.testing.assert_allclose(control.head, 3.0 * params['value'], rtol=1e-5)
    ((_, its_params),) = control.scorers
    np.testing.assert_allclose(its_params['value'], -0.5 * params['value'], rtol=1e-5)
    assert control.name != control_of(lm, params, ('own',), (1.0,)).name


def test_a_value_head_of_another_shape_is_refused(scorer, tmp_path):
    _, lm, params = scorer
    selfrew.save(str(tmp_path / 'out'), lm, params | {'value': params['value'][:, :7]})
    with pytest.raises(ValueError, match=r'the value head is \(7, 96\), expected \(422, 96\)'):
        language_model.load(folder=str(tmp_path / 'out'), value_head=True)


def test_what_cannot_steer_is_refused_before_work_starts(scorer):
    _, lm, params = scorer
    entry = {'name': 'tokenwise', 'strength': 1.0}
    for fields, message in (
        ({'values': ('tiny',)}, 'tiny has no value head'),
        ({'values': ('nowhere',)}, 'no model folder'),
        ({'values': ()}, 'no prefix scorer'),
        ({'values': ('own',), 'weights': (1.0, 2.0)}, '1 values and 2 weights'),
        ({'weights': ('a',)}, 'want finite numbers'),
        ({'strength': math.inf}, 'strength=inf: want a finite number'),
        ({'candidates': 3}, 'nothing reads candidates=3'),
    ):
        with pytest.raises(ValueError, match=message):
            binding.bind('sampler', entry | fields, 'round.sampler')
    bare = {name: x for name, x in params.items() if name != 'value'}
    with pytest.raises(ValueError, match='the model has no value head'):
        samplers.tokenwise(lm, bare, PROMPTS, KEY, strength=1.0)


@pytest.mark.parametrize(
    'change, message',
    [
        (('model', 'value_head', False), "cd_q with train.only='value' wants model.value_head"),
        (('round.train', 'only', None), "want train.only='value', or adapters"),
        (('round', 'loss', {'name': 'sft'}), "only='value', and sft reads no value"),
        (('round.train', 'only', 'head'), "no part 'head' to train alone; there are: value"),
        (('round.loss', 'expect', False), 'expect=False: the loss reads it'),
    ],
)
def test_a_config_that_trains_no_values_is_refused(change, message):
    config = controlled_decoding.get_config('smoke').to_dict()
    path, name, value = change
    entry = functools.reduce(dict.__getitem__, path.split('.'), config)
    entry[name] = value
    with pytest.raises(ValueError, match=message):
        run_config.bind_config(config)


def test_a_sampler_that_reads_the_models_own_head_wants_one():
    config = controlled_decoding.get_config('smoke').to_dict()
    config['model']['value_head'] = False
    config |= {'rounds': 0, 'round': {}}
    fields = binding.bind_arguments(loop.run, config, 'config').keywords
    with pytest.raises(ValueError, match="wise: values='own' wants model.value_head"):
        run_config.bind_config({'start': None, 'by_round': None} | fields)


# --- the best of several --------------------------------------------------------------------------


def _given(*scores):
    """(sampler, scorer) of a single prompt with these scores."""
    responses = tuple(Response(str(i), (i,), sampled_logp=-1.0) for i in range(len(scores)))
    rollouts = [Rollout(numbers([3]), responses)]

    def judge(lm, params, rollouts, key):
        return [Judgement(rollout, scores) for rollout in rollouts]

    return lambda *_: rollouts, judge


def _kept(scores, n=1):
    sampler, scorer = _given(*scores)
    rollouts = samplers.best_of_n(None, None, [], KEY, sampler=sampler, scorer=scorer, n=n)
    return [[r.text for r in rollout.responses] for rollout in rollouts]


def test_the_best_is_the_first_of_the_highest_scores_with_a_verdict():
    assert _kept((1.0, 3.0, math.nan, 3.0)) == [['1']]
    assert _kept((1.0, 3.0, 0.5, 0.7), n=2) == [['1', '3']]
    assert _kept((math.nan, math.nan, 1.0, 2.0), n=2) == []
    assert _kept((-2.0, -1.0)) == [['1']]
    with pytest.raises(ValueError, match='made 3 responses to prompt .*; want a multiple'):
        _kept((1.0, 2.0, 3.0), n=2)


def test_the_best_has_no_log_prob_of_the_law_of_each():
    sampler, scorer = _given(1.0, 2.0)
    (rollout,) = samplers.best_of_n(None, None, [], KEY, sampler=sampler, scorer=scorer)
    assert rollout.responses[0].sampled_logp is None


def test_best_of_n_is_a_sampler_around_any_other():
    lm, params = toy()
    prompts = [numbers([5, 6 + i], f'p{i}') for i in range(4)]
    entry = {
        'name': 'best_of_n',
        'n': 2,
        'sampler': {'name': 'sample', 'n': 8, 'max_tokens': 6},
        'scorer': {'name': 'length'},
    }
    best = binding.bind('sampler', entry, 'round.sampler')(lm, params, prompts, KEY)
    drawn = samplers.sample(lm, params, prompts, KEY, n=8, max_tokens=6)
    for rollout, pool in zip(best, drawn):
        lengths = [len(response.tokens) for response in pool.responses]
        assert [len(r.tokens) for r in rollout.responses] == [max(lengths[:4]), max(lengths[4:])]


# --- from Python ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_generate_takes_control(scorer):
    workdir, _, _ = scorer
    lm, params = selfrew.load('tiny', mesh={})
    ask = functools.partial(
        lm.generate, params, ['Tom has 3 apples. How many?'], n=2, max_tokens=12, top_p=1.0
    )
    (plain,), (steered,), (best,) = (
        ask(),
        ask(control={'name': 'tokenwise', 'strength': 4.0, 'values': (workdir,)}),
        ask(control={'name': 'best_of_n', 'of': 3, 'scorer': {'name': 'length'}}),
    )
    assert len(plain.responses) == len(steered.responses) == len(best.responses) == 2
    assert [r.text for r in plain.responses] != [r.text for r in steered.responses]
    assert all(r.sampled_logp is None for r in best.responses)
    for control, message in (
        ({'name': 'tokenwize'}, "no sampler named 'tokenwize'"),
        ({'name': 'tokenwise'}, 'strength is missing'),
    ):
        with pytest.raises(ValueError, match=message):
            ask(control=control)
    assert dataclasses.is_dataclass(plain)
