"""A run takes the stages of another that its config would make alike, and no others."""

import json

import pytest

from configs import base, irpo, meta_rewarding
from selfrew.running import reuse, stage
from selfrew.types import Judgement, Prompt, Response, Rollout, user_prompt


@pytest.fixture(autouse=True)
def _new_folder(tmp_path):
    """The folder of the new run, which loop.run makes before it takes anything."""
    (tmp_path / 'new').mkdir()


def _config(**fields):
    """A run of three turns of one kind."""
    config = irpo.get_config('smoke').to_dict() | {'rounds': 3}
    config['by_round'] = None
    return json.loads(json.dumps(config)) | fields


def _imitating():
    """A run of SFT on what the built-in tasks demonstrate."""
    config = base.get(rounds=1, round=base.imitation_turn(base.ift(4), lr=1e-4)).to_dict()
    return json.loads(json.dumps(config)) | {'evals': _config()['evals']}


def _finish(workdir, config, turns=('01', '02', '03'), stages=reuse.STAGES):
    """A run that has finished these stages, with a prompt in each."""
    stage.claim_workdir(str(workdir), config, free=())
    prompt = user_prompt('a', 'Q?')
    rollout = Rollout(prompt, (Response('7'),))
    nouns = {
        'prompts': (Prompt, prompt),
        'rollouts': (Rollout, rollout),
        'judgements': (Judgement, Judgement(rollout, (1.0,))),
    }
    for name in turns:
        folder = stage.Folder(str(workdir), name)
        for made in stages:
            kind, noun = nouns[made]
            folder.make_once(made, kind, lambda noun=noun: [noun])


def _changed(config, **fields):
    """`config` with fields of its round replaced."""
    return config | {'round': config['round'] | fields}


@pytest.fixture
def other(tmp_path):
    _finish(tmp_path / 'other', _config())
    return str(tmp_path / 'other')


def _taken(workdir, source, config):
    """Turn -> the stages that it took."""
    workdir.mkdir(exist_ok=True)
    lines = reuse.take(str(workdir), source, config)
    manifests = {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(workdir.glob('rounds/*/manifest.json'))
    }
    assert len(lines) == len(manifests)
    for turn, manifest in manifests.items():
        for name, entry in manifest.items():
            assert entry['from'].endswith(f'other/rounds/{turn}')
            stage.Folder(str(workdir), turn).make_once(name, _kind(name), lambda: 1 / 0)
    return {turn: list(manifest) for turn, manifest in manifests.items()}


def _kind(name):
    return {'prompts': Prompt, 'rollouts': Rollout, 'judgements': Judgement}[name]


@pytest.mark.parametrize(
    ('fields', 'stages'),
    [
        ({'loss': {'name': 'dpo', 'beta': 0.5}}, ['prompts', 'rollouts', 'judgements']),
        ({'pairs': {'name': 'singles'}}, ['prompts', 'rollouts', 'judgements']),
        ({'max_examples': 3}, ['prompts', 'rollouts', 'judgements']),
        ({'scorer': {'name': 'length'}}, ['prompts', 'rollouts']),
    ],
)
def test_what_comes_before_a_change_is_taken_of_the_first_turn_only(
    tmp_path, other, fields, stages
):
    """The later turns sample from parameters that the change has changed."""
    assert _taken(tmp_path / 'new', other, _changed(_config(), **fields)) == {'01': stages}


def test_turns_before_a_change_are_taken_whole(tmp_path, other):
    later = _config(by_round={'loss': {'beta': [0.1, 0.2, 0.2]}})
    all_stages = list(reuse.STAGES)
    assert _taken(tmp_path / 'new', other, later) == {'01': all_stages, '02': all_stages}


def test_what_is_not_finished_is_not_taken(tmp_path):
    _finish(tmp_path / 'other', _config(), ['01'], ['prompts', 'rollouts'])
    source = str(tmp_path / 'other')
    assert _taken(tmp_path / 'new', source, _config()) == {'01': ['prompts', 'rollouts']}


def test_adapters_take_the_first_turn_of_a_run_without_them(tmp_path, other):
    """Fresh adapters change nothing; trained ones do."""
    adapted = _config()
    adapted['model']['lora'] = 4
    assert _taken(tmp_path / 'new', other, adapted) == {'01': list(reuse.STAGES)}


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        (['seed'], 5, 'its seed is 0, here 5'),
        (['model', 'dtype'], 'bfloat16', "its model.dtype is 'float32', here 'bfloat16'"),
        (['round', 'sampler', 'temperature'], 0.5, 'its turn 01 differs in sampler: sample'),
        (['round', 'prompts', 'n'], 3, 'its turn 01 differs in prompts: task'),
    ],
)
def test_what_changes_the_samples_is_refused_with_the_difference(
    tmp_path, other, path, value, message
):
    config = _config()
    entry = config
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    with pytest.raises(ValueError, match=f'nothing can be taken from .*other: {message}'):
        reuse.take(str(tmp_path / 'new'), other, config)


def _finish_evaluations(workdir, names):
    """The evaluations before training, as a run leaves them."""
    folder = stage.Folder(str(workdir), reuse.BASE)
    for name in names:
        folder.make_once(f'eval_{name}', Judgement, list)
    folder.mark_done('evals', {'sha256': folder.write_json('evals.json', {'accuracy': {}})})


def test_a_turn_that_samples_nothing_takes_the_evaluations_before_training(tmp_path, other):
    imitating, new = _imitating(), str(tmp_path / 'new')
    with pytest.raises(ValueError, match='other: its turn 01 differs in prompts'):
        reuse.check(other, imitating)  # they are not finished
    _finish_evaluations(other, imitating['evals'])
    assert reuse.take(new, other, imitating) == [f'turn 00: evaluations of {other}']
    assert stage.Folder(new, reuse.BASE).has_json('evals')
    assert not stage.Folder(new, '01').has('prompts')
    with pytest.raises(ValueError, match='other: its turn 01 differs in prompts'):
        reuse.check(other, imitating | {'evals': {}})


def test_a_folder_that_is_no_run_and_the_run_itself_are_refused(tmp_path, other):
    with pytest.raises(ValueError, match='--from=.*nowhere is not a run: it has no config.json'):
        reuse.take(str(tmp_path / 'new'), str(tmp_path / 'nowhere'), _config())
    with pytest.raises(ValueError, match='is the run itself'):
        reuse.take(other, other, _config())


def test_a_stage_that_was_changed_is_refused(tmp_path, other):
    (tmp_path / 'other/rounds/01/rollouts.jsonl').write_text('')
    with pytest.raises(ValueError, match='rollouts.jsonl was changed after it was written'):
        reuse.take(str(tmp_path / 'new'), other, _config())


def test_a_second_start_keeps_what_the_first_took(tmp_path, other):
    config = _changed(_config(), scorer={'name': 'length'})
    expected = _taken(tmp_path / 'new', other, config)
    assert reuse.take(str(tmp_path / 'new'), other, config) == [
        f'turn 01: {", ".join(expected["01"])} of {other}'
    ]


def test_joined_pipelines_are_taken_by_name(tmp_path):
    config = json.loads(json.dumps(meta_rewarding.get_config('smoke').to_dict()))
    (title,) = config['round']['join']
    turn = '02' if config.get('start') else '01'
    _finish(tmp_path / 'other', config, ['01', '02', f'02/{title}'])
    changed = _changed(config, loss={'name': 'dpo', 'beta': 0.7})
    reuse.take(str(tmp_path / 'new'), str(tmp_path / 'other'), changed)
    for name in (turn, f'{turn}/{title}'):
        assert stage.Folder(str(tmp_path / 'new'), name).has('judgements')
    assert not stage.Folder(str(tmp_path / 'new'), turn).has('examples')


def test_the_date_of_the_samples_comes_with_them(tmp_path, other):
    (tmp_path / 'other/started.json').write_text('{"started": "2024-05-06T07:08:09"}\n')
    reuse.take(str(tmp_path / 'new'), other, _config())
    assert stage.start_time(str(tmp_path / 'new')).year == 2024
