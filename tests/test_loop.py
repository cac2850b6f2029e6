"""Every config runs to its end, and a run that was killed anywhere ends as one that never was."""

import datetime
import glob
import importlib
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfrew import export, loop
from selfrew.engine import (
    generate as generate_package,
    packing,
    run_files,
    saved_models,
    train_state,
)
from selfrew.engine.generate import journal, requests
from selfrew.models import language_model
from selfrew.running import binding, checkpoint, lock, stage
from selfrew.running.config import turns_of
from selfrew.running.metrics_log import MetricsLog
from selfrew.shelves import samplers
from selfrew.shelves.evals import preferences
from selfrew.types import Judgement, State, from_json, to_json

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(
    p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem not in ('__init__', 'base')
)
pytestmark = pytest.mark.usefixtures('describe_once')
# Of what a start of a run did, and not of the run.
TIMES = (
    'time',
    'seconds',
    'compiled',
    'tokens_per_s',
    'compile_seconds',
    'read_tokens',
    'sampled_tokens',
    'peak_gib',
)


def _config(name):
    return importlib.import_module(f'configs.{name}').get_config('smoke').to_dict()


def _run(config, workdir):
    return binding.bind_arguments(loop.run, config, 'config')(str(workdir))


def _json(*path):
    with open(os.path.join(*path)) as file:
        return json.load(file)


def _metrics(workdir):
    with open(os.path.join(workdir, 'metrics.jsonl')) as file:
        return [json.loads(line) for line in file]


# --- every config ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_runs_to_its_end(name, tmp_path):
    config = _config(name)
    table = _run(config, tmp_path)
    for turn in turns_of(config):
        stats = _json(tmp_path, 'rounds', turn.name, 'turn.json')
        assert stats['steps'] > 0 and stats['examples'] > 0
        assert stats['too_long'] == stats['dropped'] == 0
        assert stats['gap_max'] is None or stats['gap_max'] < 1e-4
        rows = [row for row in _metrics(tmp_path) if row['turn'] == turn.name and 'loss' in row]
        assert len(rows) == stats['steps'] and all(np.isfinite(row['loss']) for row in rows)
        if turn.loss.func.__name__ == 'dpo':
            assert stats['pairs'] > 0
            # Two programs sum log-probs in another order: they differ by some 1e-6 of the sum.
            sums = [rows[0][f'logps/{side}'] for side in ('chosen', 'rejected')]
            close = 1e-5 * turn.loss.keywords.get('beta', 0.1) * max(map(abs, sums))
            if turn.round == 1 or turn.train.keywords['reference'] != 'base':
                assert rows[0]['rewards/margins'] == pytest.approx(0.0, abs=close)
                assert rows[0]['dpo'] == pytest.approx(np.log(2), abs=close)
    rounds = _json(tmp_path, 'summary.json')['rounds']
    last, every = config['rounds'], config['evals_every']
    evaluated = [n for n in range(last + 1) if n % every == 0 or n == last]
    assert [row['round'] for row in rounds] == evaluated
    for row in rounds:
        for test in config['evals']:
            assert row[f'{test}_low'] <= row[test] <= row[f'{test}_high']
    assert len(table.splitlines()) == 1 + len(rounds)
    assert os.path.getsize(tmp_path / 'curve.png') > 0


# --- killed and started again ---------------------------------------------------------------------


def _small(rounds=2, **fields):
    """A minimal quickstart. It scores by length, so that there is always something to learn."""
    config = _config('quickstart')
    short = {'max_tokens': 12, 'slots': 8}
    turn, evals = config['round'], config['evals']
    turn['prompts']['n'] = 8
    turn['sampler'] |= {'n': 3} | short
    turn['scorer'] = {'name': 'length'}
    turn['train'] |= {'batch': 8, 'row_length': 128}
    turn['rehearsal']['every'] = 1
    turn['rehearsal']['prompts']['prompts'][0]['n'] = 8
    turn['rehearsal']['train'] |= {'batch': 8, 'row_length': 256}
    evals['accuracy']['prompts']['n'], evals['judge']['prompts']['n'] = 8, 3
    evals['accuracy']['sampler'] |= short
    evals['judge']['scorer'] |= short
    config.pop('start', None)
    return config | {'rounds': rounds} | fields


@pytest.fixture(scope='module')
def uninterrupted_run(tmp_path_factory):
    """The folder of a run that was never killed, and its table."""
    folder = tmp_path_factory.mktemp('uninterrupted')
    return folder, _run(_small(), folder)


def _files(workdir):
    """The bytes of every file that a run wrote for good: stages, evaluations, manifests. Of the
    latter without the checksums of states, in whose files orbax writes the time.
    """
    kinds = '*.jsonl', 'evals.json', 'manifest.json'
    paths = [path for kind in kinds for path in glob.glob(f'{workdir}/rounds/*/{kind}')]
    files = {os.path.relpath(path, workdir): pathlib.Path(path).read_bytes() for path in paths}
    for path in [path for path in files if path.endswith('manifest.json')]:
        manifest = json.loads(files[path])
        assert all(entry.pop('files') for name, entry in manifest.items() if name == 'state')
        files[path] = json.dumps(manifest).encode()
    return files


def _timeless(numbers):
    """Metrics or statistics without what depends on the clock."""
    return {k: v for k, v in numbers.items() if k.split('/')[-1] not in TIMES}


def _timeless_metrics(workdir):
    return [_timeless(row) for row in _metrics(workdir)]


def _assert_same_results(workdir, wanted_workdir):
    """The same files byte for byte, the same states bit for bit, the same statistics."""
    expected = _files(wanted_workdir)
    assert len(expected) > 20 and _files(workdir) == expected
    lm, params = language_model.load(**_small()['model'], **_small()['mesh'])
    for turn in turns_of(_small()):
        optimizer = train_state.cached_optimizer(turn.train.keywords['optimizer'])
        folders = [stage.Folder(str(path), turn.name) for path in (workdir, wanted_workdir)]
        states = [checkpoint.restore(lm, folder, optimizer, params) for folder in folders]
        jax.tree.map(np.testing.assert_array_equal, *states)
        stats = [_timeless(_json(folder.path, 'turn.json')) for folder in folders]
        assert stats[0] == stats[1]


def _run_until_done(workdir, is_stuck):
    """Starts a run again each time it is killed; returns its table."""
    while True:
        try:
            return _run(_small(), workdir)
        except KeyboardInterrupt:
            assert not is_stuck()


@pytest.mark.slow
def test_a_run_killed_at_every_stage_ends_as_one_that_was_not(
    tmp_path, monkeypatch, uninterrupted_run
):
    """Killed once at each entry of each manifest, in turn before and after it is written, and
    started again each time. Turns have an odd number of entries, so that each kind of entry has
    both.
    """
    mark_done, kills = stage.Folder.mark_done, []

    def dying(self, name, entry):
        place = os.path.basename(self.path), name
        if place in kills or len(kills) % 2:
            mark_done(self, name, entry)
        if place not in kills:
            kills.append(place)
            raise KeyboardInterrupt

    monkeypatch.setattr(stage.Folder, 'mark_done', dying)
    monkeypatch.setattr(loop.report, 'plot_curves', lambda rows, path: None)  # takes long
    _run_until_done(tmp_path, is_stuck=lambda: len(kills) >= 40)
    turns = os.listdir(uninterrupted_run[0] / 'rounds')
    entries = {
        (turn, name)
        for turn in turns
        for name in _json(uninterrupted_run[0], 'rounds', turn, 'manifest.json')
    }
    # three rounds, each with three entries for two evaluations; four turns, each with five stages
    assert len(kills) == len(entries) == 3 * 3 + 4 * 5 and set(kills) == entries
    _assert_same_results(tmp_path, uninterrupted_run[0])
    assert _timeless_metrics(tmp_path) == _timeless_metrics(uninterrupted_run[0])


@pytest.mark.slow
def test_a_run_killed_amid_its_samples_goes_on_from_them(tmp_path, monkeypatch, uninterrupted_run):
    """Killed after every 20 samples: none of these is made again, and the files are the same."""
    put, made, kills = journal.Journal.put, [], []

    def dying(self, name, value):
        put(self, name, value)
        made.append((self._path, name))
        if len(made) % 20 == 0:
            kills.append(self._path)
            raise KeyboardInterrupt

    monkeypatch.setattr(journal.Journal, 'put', dying)
    _run_until_done(tmp_path, is_stuck=lambda: len(kills) >= 20)
    assert len(kills) >= 4 and len(set(made)) == len(made)
    stages = {os.path.basename(path).removesuffix('.partial.jsonl') for path in kills}
    assert stages <= {'rollouts', 'eval_accuracy', 'eval_judge'}
    assert not glob.glob(f'{tmp_path}/rounds/*/*.partial*')
    _assert_same_results(tmp_path, uninterrupted_run[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    'place',
    [('01', 'rollouts'), ('01', 'state'), ('01-rehearsal', 'state'), ('02', 'examples')],
    ids='-'.join,
)
def test_a_run_killed_once_goes_on_to_the_same_end(tmp_path, monkeypatch, uninterrupted_run, place):
    mark_done = stage.Folder.mark_done

    def dying(self, name, entry):
        mark_done(self, name, entry)
        if (os.path.basename(self.path), name) == place:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage.Folder, 'mark_done', dying)
        _run(_small(), tmp_path)
    _run(_small(), tmp_path)
    _assert_same_results(tmp_path, uninterrupted_run[0])
    assert _timeless_metrics(tmp_path) == _timeless_metrics(uninterrupted_run[0])


@pytest.mark.slow
def test_a_run_killed_amid_an_update_starts_its_turn_again(
    tmp_path, monkeypatch, uninterrupted_run
):
    write, seen = MetricsLog.write, []

    def dying(self, turn, step, metrics):
        write(self, turn, step, metrics)
        if turn == '02' and 'loss' in metrics:
            seen.append(step)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, 'write', dying)
        _run(_small(), tmp_path)
    assert len(seen) == 1
    _run(_small(), tmp_path)
    _assert_same_results(tmp_path, uninterrupted_run[0])
    assert _timeless_metrics(tmp_path) == _timeless_metrics(
        uninterrupted_run[0]
    )  # the first try's line is gone


@pytest.mark.slow
def test_more_rounds_go_on_from_the_last(tmp_path, uninterrupted_run):
    _run(_small(rounds=1), tmp_path)
    assert _json(tmp_path, 'config.json')['rounds'] == 1
    _run(_small(rounds=2), tmp_path)
    _assert_same_results(tmp_path, uninterrupted_run[0])
    assert _timeless_metrics(tmp_path) == _timeless_metrics(uninterrupted_run[0])


@pytest.mark.slow
def test_only_the_last_states_are_kept_if_the_config_says_so(tmp_path, uninterrupted_run):
    _run(_small(keep_states=1), tmp_path)
    states = glob.glob(f'{tmp_path}/rounds/*/state')
    assert [os.path.basename(os.path.dirname(path)) for path in states] == ['02-rehearsal']

    def stages(workdir):
        return {k: v for k, v in _files(workdir).items() if not k.endswith('manifest.json')}

    assert stages(tmp_path) == stages(uninterrupted_run[0])
    assert (
        _run(_small(keep_states=1), tmp_path).splitlines()[0]
        == uninterrupted_run[1].splitlines()[0]
    )


def _one_turn_rounds(rounds, **fields):
    """Rounds without a rehearsal, and without the judge's evaluation."""
    config = _small(rounds, **fields)
    del config['round']['rehearsal'], config['evals']['judge']
    return config


def _state(workdir, name):
    path = checkpoint.state_path(stage.Folder(str(workdir), name))
    with checkpoint._checkpointer() as checkpointer:
        return checkpointer.restore(path)


@pytest.mark.slow
def test_states_and_evaluations_every_other_round_change_no_result(tmp_path):
    """A run that is killed after a round without a state makes that round's updates again."""
    each, second = tmp_path / 'each', tmp_path / 'second'
    _run(_one_turn_rounds(3), each)
    config = _one_turn_rounds(3, states_every=2, evals_every=3)
    with pytest.MonkeyPatch.context() as patch:
        write_report = loop.report.write_report

        def killed_at_the_end(workdir, end):
            if end['state'] == 'finished':
                raise KeyboardInterrupt
            return write_report(workdir, end)

        patch.setattr(loop.report, 'write_report', killed_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            _run(config, second)
    rounds = second / 'rounds'
    assert [(rounds / name / 'state').exists() for name in ('01', '02', '03')] == [0, 1, 1]
    assert [(rounds / name / 'evals.json').exists() for name in ('00', '01', '02', '03')] == [
        *(1, 0, 0, 1)
    ]
    stage.Folder(str(second), '03').drop('state')
    stage.Folder(str(second), '02').drop('state')  # goes on from the base, over the rounds' files
    _run(config, second)
    jax.tree.map(np.testing.assert_array_equal, _state(second, '03'), _state(each, '03'))
    before, after = _json(each, 'rounds/03/evals.json'), _json(second, 'rounds/03/evals.json')
    assert before == after
    assert [row['round'] for row in _json(second, 'summary.json')['rounds']] == [0, 3]


@pytest.mark.slow
def test_a_kept_optimizer_goes_on_in_the_next_round_also_of_a_resumed_run(tmp_path):
    fresh, kept, resumed = tmp_path / 'fresh', tmp_path / 'kept', tmp_path / 'resumed'
    _run(_one_turn_rounds(2), fresh)
    config = _one_turn_rounds(2)
    config['round']['optimizer_state'] = 'kept'
    _run(config, kept)
    _run(config | {'rounds': 1}, resumed)
    _run(config, resumed)

    def updates(workdir, name):  # that the moments have seen
        counts = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(_state(workdir, name)['opt'])
            if 'count' in jax.tree_util.keystr(path)
        ]
        return int(counts[0])

    steps = [_json(kept, 'rounds', name, 'turn.json')['steps'] for name in ('01', '02')]
    assert updates(fresh, '01') == updates(kept, '01') == steps[0] > 0
    assert updates(fresh, '02') == steps[1] and updates(kept, '02') == sum(steps)
    jax.tree.map(np.testing.assert_array_equal, _state(kept, '01'), _state(fresh, '01'))
    jax.tree.map(np.testing.assert_array_equal, _state(kept, '02'), _state(resumed, '02'))


def test_an_optimizer_that_cannot_be_kept_is_refused_at_start(tmp_path):
    config = _small(2)
    config['round']['optimizer_state'] = 'kept'
    with pytest.raises(ValueError, match='turn 02: .*directly before it; 01-rehearsal does'):
        _run(config, tmp_path / 'w')
    config = _one_turn_rounds(2)
    config['round']['optimizer_state'] = 'kept'
    config['by_round'] = {'train': {'optimizer': {'b1': (0.9, 0.8)}}}
    config['round']['train']['optimizer'] |= {'b1': 0.9}
    with pytest.raises(ValueError, match='turn 02: .*another train.optimizer than turn 01'):
        _run(config, tmp_path / 'w')
    config['round']['optimizer_state'] = 'held'
    with pytest.raises(ValueError, match="no optimizer_state 'held'; there are: fresh, kept"):
        _run(config, tmp_path / 'w')
    for name, value in (('evals_every', 0), ('states_every', 'two'), ('keep_states', 0)):
        with pytest.raises(ValueError, match=name):
            _run(_one_turn_rounds(1) | {name: value}, tmp_path / 'w')


@pytest.mark.slow
def test_a_finished_run_is_only_reported_again(monkeypatch, uninterrupted_run):
    folder, table = uninterrupted_run
    before = _files(folder), _metrics(folder)
    for name in ('mark_done', 'drop'):
        monkeypatch.setattr(stage.Folder, name, None)
    assert _run(_small(), folder) == table
    assert (_files(folder), _metrics(folder)) == before


@pytest.mark.slow
def test_another_config_in_the_folder_is_refused_with_the_difference(uninterrupted_run):
    folder, _ = uninterrupted_run
    other = _small(seed=1)
    other['round']['loss']['beta'] = 0.3
    with pytest.raises(ValueError) as caught:
        _run(other, folder)
    message = str(caught.value)
    assert 'seed: 0 in the workdir, 1 in the config' in message
    assert 'round.loss.beta: 0.1 in the workdir, 0.3 in the config' in message
    assert _json(folder, 'config.json')['seed'] == 0


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh_and_says_so(tmp_path, uninterrupted_run, capsys):
    """Of the first turn's state the values are the same, whatever devices they lie on."""
    whole, _ = uninterrupted_run
    workdir = tmp_path / 'w'
    _run(_small(rounds=1), workdir)
    wide = _small(mesh={'data': 1, 'fsdp': 2, 'tensor': 2}, keep_states=1)
    _run(wide, workdir)
    printed = capsys.readouterr().out
    assert 'changed since the last start: mesh.fsdp: 1 → 2' in printed
    assert "it samples on the mesh {'data': 4, 'fsdp': 1, 'tensor': 1}" in printed
    (first, second) = [json.loads(line) for line in open(workdir / 'starts.jsonl')]
    assert first['changes'] == [] and 'mesh.tensor: 1 → 2' in second['changes']
    assert 'keep_states: None → 1' in second['changes']
    stages = [f'rounds/02/{name}.jsonl' for name in ('prompts', 'rollouts', 'examples')]
    for name in stages:
        texts = [(w / name).read_text() for w in (workdir, whole)]
        assert len(texts[0].splitlines()) == len(texts[1].splitlines())
    assert not stage.Folder(str(workdir), '01').has('state')


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_bucket_too(uninterrupted_run):
    folder, _ = uninterrupted_run
    with lock.held(str(folder), print), pytest.raises(ValueError, match='that is running there'):
        _run(_small(rounds=3), folder)
    with pytest.raises(ValueError, match='gs://bucket/run: want a folder; a bucket can be mounted'):
        _run(_small(), 'gs://bucket/run')


@pytest.mark.slow
def test_a_run_that_took_too_much_memory_goes_on_with_other_splits(uninterrupted_run):
    folder, table = uninterrupted_run
    config = _small()
    config['round']['train']['accumulate'] = 2
    config['model'] |= {'remat': 'full', 'cache_gib': 1.0}
    assert _run(config, folder) == table
    assert _run(_small(), folder) == table


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(ValueError, match='not empty and no run made it'):
        _run(_small(), tmp_path)
    assert os.listdir(tmp_path) == ['thesis.tex']


def test_no_rounds_only_measure(tmp_path):
    config = _small(rounds=0)
    _run(config, tmp_path)
    assert os.listdir(tmp_path / 'rounds') == ['00']
    assert [row['round'] for row in _json(tmp_path, 'summary.json')['rounds']] == [0]


def _wins(opponent):
    """An evaluation by length against another model."""
    return {
        'name': 'win_rate',
        'prompts': {'name': 'task', 'tasks': ('rising',), 'n': 3, 'split': 'heldout'},
        'sampler': {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': 12},
        'scorer': {'name': 'length'},
        'opponent': opponent,
    }


@pytest.mark.slow
def test_any_two_models_are_compared_without_a_round(tmp_path):
    config = _small(rounds=0, evals={'wins': _wins('tiny')}, round={})
    table = _run(config, tmp_path)
    (row,) = _json(tmp_path, 'summary.json')['rounds']
    assert row['wins_low'] <= row['wins'] <= row['wins_high'] and row['wins_n'] == 3
    assert row['wins_wins'] + row['wins_ties'] + row['wins_losses'] == pytest.approx(1.0)
    assert 'wins' in table.splitlines()[0]
    assert os.path.getsize(tmp_path / 'curve.png') > 0


@pytest.mark.slow
def test_a_resumed_run_samples_its_opponent_anew_and_alike(tmp_path, monkeypatch):
    judged = {'name': 'judge', 'template': 'check', 'votes': 1, 'max_tokens': 16}
    sampler = {'name': 'sample', 'n': 2, 'temperature': 1.0, 'max_tokens': 12}
    wins = _wins(None) | {'sampler': sampler, 'scorer': judged, 'judged_by': 'base'}
    score = {k: v for k, v in wins.items() if k != 'opponent'} | {'name': 'mean_score'}
    evals = {'wins': wins, 'score': score}
    _run(_small(rounds=1, evals=evals), tmp_path / 'whole')
    resumed = tmp_path / 'resumed'
    for rounds in (0, 1):
        monkeypatch.setattr(preferences, '_kept_replies', {})  # as in a new process
        _run(_small(rounds=rounds, evals=evals), resumed)
    assert _files(resumed) == _files(tmp_path / 'whole')
    for row in _json(resumed, 'summary.json')['rounds']:
        assert row['wins_n'] <= 3 and row['wins_no_verdict'] <= 1 and row['score_n'] <= 3


@pytest.mark.slow
def test_a_run_is_an_opponent_by_its_last_state(tmp_path, uninterrupted_run):
    folder, _ = uninterrupted_run
    fields = {'round': {}, 'evals': {'wins': _wins(str(folder))}}
    _run(_small(rounds=0, **fields), tmp_path)
    with open(tmp_path / 'rounds' / '00' / 'eval_wins.jsonl') as file:
        judgements = [from_json(Judgement, json.loads(line)) for line in file]
    # Greedy, so that no draw matters.
    lm, params, _ = export.load_turn(str(folder))
    prompts = [judgement.rollout.prompt for judgement in judgements]
    options = {'n': 1, 'temperature': 0.0, 'max_tokens': 12}
    expected = samplers.sample(lm, params, prompts, jax.random.key(0), **options)
    replies = [judgement.rollout.responses[1].tokens for judgement in judgements]
    assert replies == [rollout.responses[0].tokens for rollout in expected]


@pytest.mark.parametrize('opponent', ['nowhere', 'the workdir of no run'])
def test_a_wrong_opponent_is_refused_before_anything_is_sampled(tmp_path, opponent):
    if opponent != 'nowhere':
        opponent = str(tmp_path / 'other')
        os.makedirs(os.path.join(opponent, 'rounds'))
    workdir = tmp_path / 'run'
    with pytest.raises(ValueError, match='evals.wins .win_rate..opponent'):
        _run(_small(rounds=0, evals={'wins': _wins(opponent)}), workdir)
    assert not workdir.exists()


def test_an_opponent_with_too_short_a_context_is_refused_at_start(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_models, 'context_length', lambda name: 12)
    message = "evals.wins, the opponent 'tiny': sample: max_tokens=12 leaves no room"
    with pytest.raises(ValueError, match=message):
        _run(_small(rounds=0, evals={'wins': _wins('tiny')}), tmp_path / 'run')


def test_a_turn_with_nothing_to_learn_from_says_so(tmp_path):
    """Equal scores make no pair."""
    config = _small(rounds=1, evals={})
    config['round']['scorer'] = {'name': 'given'}
    with pytest.raises(
        ValueError,
        match='turn 01 has nothing to learn from: 01: 8 prompts, 8 had the same score for all ',
    ):
        _run(config, tmp_path)


# --- several pipelines, and earlier rounds ---


@pytest.mark.slow
def test_a_run_from_another_ends_as_one_that_sampled_for_itself(
    tmp_path, monkeypatch, uninterrupted_run
):
    config = _small()
    config['round']['loss']['beta'] = 0.5
    _run(config, tmp_path / 'alone')
    sampled = []
    generate = requests.generate

    def count(*args, title='sample', **options):
        sampled.append(title)
        return generate(*args, title=title, **options)

    monkeypatch.setattr(generate_package, 'generate', count)
    loop.run(str(tmp_path / 'new'), str(uninterrupted_run[0]), **config)
    # Turn 02 and the evaluations of both rounds; those before the first round are taken.
    assert sampled.count('sample') == 3 and sampled.count('judge') == 2
    manifest = _json(tmp_path / 'new', 'rounds', '01', 'manifest.json')
    assert manifest['rollouts'].pop('from').endswith('rounds/01')
    assert (
        manifest['rollouts']
        == _json(tmp_path / 'alone', 'rounds', '01', 'manifest.json')['rollouts']
    )
    states = [export.load_turn(str(tmp_path / name))[1] for name in ('new', 'alone')]
    jax.tree.map(np.testing.assert_array_equal, *states)
    for name in ('02/examples.jsonl', '02/rollouts.jsonl'):
        taken, own = (tmp_path / run / 'rounds' / name for run in ('new', 'alone'))
        assert taken.read_bytes() == own.read_bytes()


def _stopped(workdir, config):
    """The message with which a run stops early, and how many samples its first stage kept."""
    with pytest.raises(ValueError, match='^turn 01') as caught:
        _run(config, workdir)
    (partial,) = workdir.glob('rounds/01/*.partial.jsonl')
    return str(caught.value), len(partial.read_text().splitlines())


def _long(**fields):
    """A run of some 200 samples and verdicts with a judge."""
    config = _small(1, evals={})
    config['round']['prompts']['n'] = 100
    config['round'] |= fields
    return config


def test_a_judge_that_cannot_be_read_stops_after_its_first_verdicts(tmp_path):
    template = tmp_path / 'unread.jinja'
    template.write_text('Say: {{ prompt }} {{ response }} Final score: out of 5.')
    judge = {'name': 'judge', 'template': str(template), 'votes': 1, 'max_tokens': 8, 'slots': 16}
    message, sampled = _stopped(tmp_path / 'run', _long(scorer=judge))
    assert 'of the first 48 verdicts say nothing, more than max_unread=0.9; of them:\n' in message
    assert message.count('\n  (') == 3 and 'a larger max_unread of the turn' in message
    assert 48 <= sampled < 150


def test_answers_without_a_conclusion_stop_after_the_first_samples(tmp_path):
    sampler = {'name': 'sample', 'n': 2, 'max_tokens': 3, 'slots': 16}
    fields = {'sampler': sampler, 'scorer': {'name': 'exact_answer'}}
    message, sampled = _stopped(tmp_path / 'run', _long(**fields))
    assert '(cut by max_tokens)' in message and 'responses say nothing' in message
    assert sampled < 150


@pytest.mark.slow
def test_all_ties_stop_after_the_first_prompts_and_max_unread_1_goes_on(tmp_path):
    """Greedy responses to a prompt are the same, and so are greedy verdicts on them."""
    sampler = {'name': 'sample', 'n': 2, 'max_tokens': 40, 'slots': 32, 'temperature': 0.0}
    judge = {'name': 'judge', 'template': 'check', 'votes': 1, 'max_tokens': 56, 'slots': 32}
    judge |= {'temperature': 0.0}
    config = _long(sampler=sampler, scorer=judge)
    config['round']['pairs'] = {'name': 'singles'}
    config['round']['loss'] = {'name': 'sft'}
    message, _ = _stopped(tmp_path / 'run', config)
    assert 'each of the first 24 prompts have the same score (' in message
    config['round']['max_unread'] = 1.0
    assert _run(config, tmp_path / 'run')


def test_an_evaluation_that_cannot_be_read_is_a_measurement_and_stops_nothing(tmp_path):
    config = _small(0)
    config['evals']['accuracy']['prompts']['n'] = 100
    config['evals']['accuracy']['sampler']['max_tokens'] = 1
    assert _run(config, tmp_path)
    assert _json(tmp_path, 'rounds', '00', 'evals.json')['accuracy']['value'] == 0.0


def _joined(rounds=1, **fields):
    """`_small` without rehearsal, whose rounds join a second pipeline of other prompts."""
    config = _small(rounds=rounds, evals={})
    turn = config['round']
    del turn['rehearsal']
    words = 'prompts', 'sampler', 'scorer', 'pairs'
    more = json.loads(json.dumps({word: turn[word] for word in words}))
    more['prompts'] |= {'tasks': ('rising',), 'n': 5}
    turn |= {'join': {'more': more}} | fields
    return config


def _stage_files(folder):
    names = 'prompts', 'rollouts', 'judgements', 'examples'
    return {name: (folder / f'{name}.jsonl').read_bytes() for name in names}


def _lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def _trained_on(monkeypatch, config, workdir):
    """The examples of each training of a run, as JSON."""
    trained, tokenise = [], packing.tokenise

    def watch(text, examples, **options):
        docs = tokenise(text, examples, **options)
        trained.append([to_json(example) for example in examples])
        return docs

    with monkeypatch.context() as patch:
        patch.setattr(loop.console, 'print_turn', lambda *_: None)  # it tokenises some, too
        patch.setattr(packing, 'tokenise', watch)
        _run(config, workdir)
    return trained


def test_joined_pipelines_sample_from_the_same_parameters_and_train_together(tmp_path, monkeypatch):
    (trained,) = _trained_on(monkeypatch, _joined(), tmp_path / 'joined')
    alone = _joined()
    del alone['round']['join']
    _run(alone, tmp_path / 'alone')
    folder = tmp_path / 'joined' / 'rounds' / '01'
    assert _stage_files(folder) == _stage_files(tmp_path / 'alone' / 'rounds' / '01')
    own, more = _lines(folder / 'examples.jsonl'), _lines(folder / 'more' / 'examples.jsonl')
    assert own and more and trained == own + more
    stats = _json(folder, 'turn.json')
    assert stats['examples'] == len(trained) and stats['more/examples'] == len(more)
    assert stats['more/prompts'] == 5 and stats['gap_max'] < 1e-4  # all are of the same M_t


@pytest.mark.slow
def test_pairs_of_people_join_the_pairs_of_all_rounds(tmp_path, monkeypatch):
    """They are in every round once; the model's own add up."""
    rows = [
        {
            'prompt': f'Ann has {i} cups. How many cups does Ann have?',
            'chosen': f'Final answer: {i}',
        }
        | {'rejected': f'Final answer: {i + 1}', 'id': f'human {i}'}
        for i in range(3)
    ]
    path = tmp_path / 'human.jsonl'
    path.write_text('\n'.join(map(json.dumps, rows)))
    config = _joined(rounds=3)
    given = {'sampler': {'name': 'given'}, 'scorer': {'name': 'given'}}
    human = {'prompts': {'name': 'preferences', 'source': str(path)}, **given}
    config['round']['join'] = {'human': human | {'pairs': {'name': 'extremes'}}}
    config['round'] |= {'earlier': -1}
    trained = _trained_on(monkeypatch, config, tmp_path / 'w')
    folders = [tmp_path / 'w' / 'rounds' / f'{number:02d}' for number in (1, 2, 3)]
    own = [len(_lines(folder / 'examples.jsonl')) for folder in folders]
    for number, examples in enumerate(trained):
        from_people = [e for e in examples if e['prompt']['id'].startswith('human')]
        assert len(from_people) == 3
        assert len(examples) == 3 + sum(own[: number + 1])
        assert [r['text'] for r in from_people[1]['responses']] == [
            *('Final answer: 1', 'Final answer: 2')
        ]
    stats = _json(folders[2], 'turn.json')
    assert stats['earlier'] == own[0] + own[1] and stats['human/pairs'] == 3


def test_another_name_of_a_pipeline_draws_other_samples(tmp_path):
    first, second = _joined(), _joined()
    second['round']['join'] = {'other': second['round']['join']['more']}
    for name, config in (('more', first), ('other', second)):
        _run(config, tmp_path / name)
    rollouts = [
        (tmp_path / name / 'rounds' / '01' / name / 'rollouts.jsonl').read_bytes()
        for name in ('more', 'other')
    ]
    assert rollouts[0] != rollouts[1]


@pytest.mark.slow
@pytest.mark.parametrize('stage_name', ['prompts', 'rollouts', 'judgements', 'examples'])
def test_a_run_killed_in_a_joined_pipeline_ends_as_one_that_was_not(
    tmp_path, monkeypatch, stage_name
):
    _run(_joined(), tmp_path / 'whole')
    mark_done = stage.Folder.mark_done

    def dying(self, name, entry):
        mark_done(self, name, entry)
        if self.path.endswith('more') and name == stage_name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage.Folder, 'mark_done', dying)
        _run(_joined(), tmp_path / 'killed')
    _run(_joined(), tmp_path / 'killed')
    whole, killed = (tmp_path / name / 'rounds' / '01' for name in ('whole', 'killed'))
    for part in ('.', 'more'):
        assert _stage_files(whole / part) == _stage_files(killed / part)
    assert _timeless(_json(whole, 'turn.json')) == _timeless(_json(killed, 'turn.json'))


@pytest.mark.slow
@pytest.mark.parametrize('earlier, kept', [(0, [0, 0, 0]), (1, [0, 1, 1]), (-1, [0, 1, 2])])
def test_a_turn_also_trains_on_the_examples_of_earlier_rounds(tmp_path, monkeypatch, earlier, kept):
    config = _joined(rounds=3, earlier=earlier)
    config['round']['join']['more']['earlier'] = earlier
    trained = _trained_on(monkeypatch, config, tmp_path)
    assert len(trained) == 3
    made = {
        part: [
            _lines(tmp_path / 'rounds' / f'{n:02d}' / part / 'examples.jsonl') for n in (1, 2, 3)
        ]
        for part in ('.', 'more')
    }
    for number, examples in enumerate(trained):
        expected = []
        for rounds in made.values():
            old = json.loads(json.dumps(sum(rounds[number - kept[number] : number], [])))
            for example in old:
                for response in example['responses']:
                    response['logp'] = None  # of another model
            expected += rounds[number] + old
        assert examples == expected
        assert all(r['tokens'] for e in examples for r in e['responses'])
    for number in (1, 2, 3):
        stats = _json(tmp_path, 'rounds', f'{number:02d}', 'turn.json')
        assert stats['gap_max'] < 1e-4  # only of the responses of this round
        assert bool(stats.get('earlier')) == bool(kept[number - 1])


def test_all_responses_and_scores_of_another_run_make_its_pairs_again(tmp_path, monkeypatch):
    alone = _joined()
    del alone['round']['join']
    _run(alone, tmp_path / 'first')
    folder = tmp_path / 'first' / 'rounds' / '01'
    again = _joined()
    del again['round']['join']
    source = str(folder / 'judgements.jsonl')
    again['round'] |= {
        'prompts': {'name': 'judgements', 'source': source},
        'sampler': {'name': 'given'},
        'scorer': {'name': 'given'},
    }
    (trained,) = _trained_on(monkeypatch, again, tmp_path / 'again')

    def pairs_of(examples):
        return [
            (e['prompt']['id'], e['scores'], [(r['text'], r['tokens']) for r in e['responses']])
            for e in examples
        ]

    first = _lines(folder / 'examples.jsonl')
    assert {id for id, _, _ in pairs_of(trained)} == {id for id, _, _ in pairs_of(first)}
    assert [sorted(scores) for _, scores, _ in pairs_of(trained)] == [
        sorted(scores) for _, scores, _ in pairs_of(first)
    ]
    assert _json(tmp_path / 'again', 'rounds', '01', 'turn.json')['gap_max'] is None
    judged = _lines(folder / 'judgements.jsonl')
    given = _lines(tmp_path / 'again' / 'rounds' / '01' / 'rollouts.jsonl')
    assert [
        [(r['text'], r['tokens'], r['finish']) for r in row['rollout']['responses']]
        for row in judged
    ] == [[(r['text'], r['tokens'], r['finish']) for r in row['responses']] for row in given]


def test_a_resumed_run_gives_its_chat_template_the_date_of_its_start(tmp_path, monkeypatch):
    """Killed before its second turn, and resumed on what the clock says is another day."""
    dated = tmp_path / 'dated.jinja'
    template = (pathlib.Path(language_model.TINY) / 'chat_template.jinja').read_text()
    dated.write_text("{{ strftime_now('%d %b %Y') + '\\n' }}" + template)
    config = _small(rounds=1, evals={})
    config['model']['chat_template'] = str(dated)
    workdir = tmp_path / 'run'
    started = datetime.datetime(2024, 2, 29, 23, 59)
    stage.claim_workdir(str(workdir), json.loads(json.dumps(config)), free=())
    run_files.write_atomic(
        str(workdir / 'started.json'), stage.json_bytes({'started': started.isoformat()})
    )
    shown = []
    monkeypatch.setattr(loop.console, 'say', lambda text='': shown.append(text))
    _run(config, workdir)
    assert any('29 Feb 2024\n' in text for text in shown)
    assert 'the chat template is given the date 2024-02-29, see started.json' in shown
    stats = _json(workdir, 'rounds', '01', 'turn.json')
    assert stats['gap_max'] < 1e-4  # the trainer saw the prompts that were sampled from


def test_training_that_is_not_finite_stops_and_saves_nothing_but_its_batch(tmp_path):
    config = _small(rounds=1, evals={})
    config['round']['train']['lr'] = 1e30
    message = r'round 1, turn 01, update \d+ .*: not finite: .*; the examples .* are in '
    with pytest.raises(ValueError, match=message):
        _run(config, tmp_path)
    folder = tmp_path / 'rounds' / '01'
    about = _json(folder, 'not_finite.json')
    written = [json.loads(line) for line in (folder / 'not_finite.jsonl').open()]
    trained = [json.loads(line) for line in (folder / 'examples.jsonl').open()]
    assert about['ids'] == [example['prompt']['id'] for example in written]
    assert all(example in trained for example in written) and about['turn'] == '01'
    assert not (folder / 'state').exists() and 'state' not in _json(folder, 'manifest.json')
    with pytest.raises(ValueError, match='no turn of .* has a saved state'):
        export.load_turn(str(tmp_path))


def test_a_state_that_is_not_finite_is_neither_saved_nor_loaded(tmp_path, monkeypatch):
    config = _small(rounds=1, evals={})
    _run(config, tmp_path)
    turn = turns_of(config)[-1]
    folder = stage.Folder(str(tmp_path), turn.name)
    lm, params, _ = export.load_turn(str(tmp_path))
    bad = params | {'embed': params['embed'].at[0, 0].set(jnp.nan)}
    optimizer = train_state.cached_optimizer(turn.train.keywords['optimizer'])
    state = train_state.begin_round(lm, State(bad, None, 1, 1), optimizer)
    with pytest.raises(ValueError, match='the new state of .*: parameters .*: embed'):
        checkpoint.save(lm, folder, state)
    with pytest.raises(ValueError, match='not saved to .*: embed'):
        export.save(str(tmp_path / 'out'), lm, bad)
    monkeypatch.setattr(checkpoint.finite, 'check_params', lambda *_: None)
    checkpoint.save(lm, folder, state)
    monkeypatch.undo()
    with pytest.raises(ValueError, match='state; delete its turn .*: parameters .*: embed'):
        export.load_turn(str(tmp_path))


def test_responses_longer_than_the_context_are_refused_before_a_model_is_loaded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(language_model.hf, 'read_params', lambda *_: pytest.fail('loaded'))
    for name, part in (('sample', 'sampler'), ('judge', 'scorer')):
        config = _small()
        config['round'][part] |= {'name': name, 'max_tokens': 512}
        message = f'{name}: max_tokens=512 leaves no room for a prompt in the context of 512'
        with pytest.raises(ValueError, match=message):
            _run(config, tmp_path)
    config = _small()
    config['model']['max_length'] = config['round']['sampler']['max_tokens']
    with pytest.raises(ValueError, match='sample: max_tokens=.* leaves no room'):
        _run(config, tmp_path)


@pytest.mark.parametrize('where', ['turn 01', 'evals.wins'])
def test_a_judge_that_can_never_judge_is_refused_before_anything_is_written(tmp_path, where):
    """The tiny base reads the words of `additive` letter by letter."""
    config, judge = _small(rounds=1, evals={}), {'name': 'judge', 'template': 'additive'}
    if where == 'turn 01':
        config['round']['scorer'] = judge
    else:
        config['evals'] = {'wins': _wins('tiny') | {'scorer': judge}}
    with pytest.raises(ValueError, match=f'{where}: the judge cannot judge .* 881 .* is 512'):
        _run(config, tmp_path / 'w')
    assert not os.path.exists(tmp_path / 'w')
