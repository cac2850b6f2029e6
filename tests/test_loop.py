"""Every config runs to its end, and a run that was killed anywhere ends as one that never was."""

import functools
import glob
import importlib
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfrew import loop
from selfrew.engine import train_state
from selfrew.engine.generate import journal
from selfrew.run import binding, checkpoint, stage, turns

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(
    p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem not in ('__init__', 'base')
)
TIMES = ('seconds', 'compiled', 'tokens_per_s')


def _config(name):
    return importlib.import_module(f'configs.{name}').get_config('smoke').to_dict()


def _run(config, workdir):
    return binding.bind_arguments(loop.run, config, 'config')(str(workdir))


def _turns(config):
    return turns.bind_turns(
        **{k: config[k] for k in ('rounds', 'round', 'start', 'by_round') if k in config}
    )


def _json(*path):
    with open(os.path.join(*path)) as file:
        return json.load(file)


def _metrics(workdir):
    with open(os.path.join(workdir, 'metrics.jsonl')) as file:
        return [json.loads(line) for line in file]


# --- every config -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_runs_to_its_end(name, tmp_path):
    config = _config(name)
    table = _run(config, tmp_path)
    for turn in _turns(config):
        stats = _json(tmp_path, 'rounds', turn.name, 'turn.json')
        assert (
            stats['steps'] > 0
            and stats['examples'] > 0
            and stats['too_long'] == stats['dropped'] == 0
        )
        assert stats['gap_max'] is None or stats['gap_max'] < 1e-4
        rows = [row for row in _metrics(tmp_path) if row['turn'] == turn.name and 'loss' in row]
        assert len(rows) == stats['steps'] and all(np.isfinite(row['loss']) for row in rows)
        if turn.loss.func.__name__ == 'dpo':
            assert stats['pairs'] > 0
            assert rows[0]['rewards/margins'] == pytest.approx(0.0, abs=1e-5)
            assert rows[0]['dpo'] == pytest.approx(np.log(2), abs=1e-5)
    rounds = _json(tmp_path, 'summary.json')['rounds']
    assert [row['round'] for row in rounds] == list(range(config['rounds'] + 1))
    for row in rounds:
        for test in config['evals']:
            assert row[f'{test}_low'] <= row[test] <= row[f'{test}_high']
    assert (
        len(table.splitlines()) == 1 + len(rounds) and os.path.getsize(tmp_path / 'curve.png') > 0
    )


# --- killed and started again -----------------------------------------------------------------------------------------


def _small(rounds=2, **fields):
    """The quickstart with the least of everything. Lengths judge, not the model: there is always
    something to learn.
    """
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


@pytest.fixture(scope='module', autouse=True)
def _one_load():
    """Runs share the module, so that their programs are compiled once; each writes over parameters
    of its own.
    """
    once = functools.cache(loop.language_model.load)

    def load(**fields):
        lm, params = once(**fields)
        return lm, jax.tree.map(jnp.copy, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.lms, 'load', functools.wraps(once)(load))
        yield


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run that nobody killed, and its table."""
    folder = tmp_path_factory.mktemp('whole')
    return folder, _run(_small(), folder)


def _files(workdir):
    """Everything that a run wrote for good, byte for byte: stages, evaluations, manifests."""
    found = [
        f
        for kind in ('*.jsonl', 'evals.json', 'manifest.json')
        for f in glob.glob(f'{workdir}/rounds/*/{kind}')
    ]
    return {os.path.relpath(f, workdir): pathlib.Path(f).read_bytes() for f in found}


def _assert_like(workdir, whole):
    expected = _files(whole)
    assert len(expected) > 20 and _files(workdir) == expected
    lm, params = loop.language_model.load(**_small()['model'], **_small()['mesh'])
    for turn in _turns(_small()):
        optimizer = train_state.cached_optimizer(turn.train.keywords['optimizer'])
        folders = [stage.Folder(str(f), turn.name) for f in (workdir, whole)]
        jax.tree.map(
            np.testing.assert_array_equal,
            *(checkpoint.restore(lm, f, optimizer, params) for f in folders),
        )
        one, other = (
            {k: v for k, v in _json(f.path, 'turn.json').items() if k not in TIMES} for f in folders
        )
        assert one == other


def _said(workdir):
    """The metrics but for the clock."""
    return [
        {k: v for k, v in row.items() if k.split('/')[-1] not in TIMES} for row in _metrics(workdir)
    ]


@pytest.mark.slow
@pytest.mark.parametrize('when', ['before', 'after'])
def test_a_run_killed_at_every_stage_ends_as_one_that_was_not(tmp_path, monkeypatch, whole, when):
    """Killed right before or right after each entry of each manifest in turn, and started again
    each time.
    """
    enlist, kills = stage.Folder.enlist, []

    def dying(self, name, entry):
        place = os.path.basename(self.path), name
        if when == 'after' or place in kills:
            enlist(self, name, entry)
        if place not in kills:
            kills.append(place)
            raise KeyboardInterrupt

    monkeypatch.setattr(stage.Folder, 'enlist', dying)
    table = None
    while table is None:
        try:
            table = _run(_small(), tmp_path)
        except KeyboardInterrupt:
            assert len(kills) < 40
    turns = os.listdir(whole[0] / 'rounds')
    entries = {
        (turn, name) for turn in turns for name in _json(whole[0], 'rounds', turn, 'manifest.json')
    }
    # rounds 0, 1 and 2 end with three entries for two evaluations, and each of four turns has five
    # stages
    assert len(kills) == len(entries) == 3 * 3 + 4 * 5 and set(kills) == entries
    _assert_like(tmp_path, whole[0])
    assert _said(tmp_path) == _said(whole[0])


@pytest.mark.slow
def test_a_run_killed_amid_its_samples_goes_on_from_them(tmp_path, monkeypatch, whole):
    """Killed whenever 20 more samples have been made: none of these is made again, and the files
    are the same.
    """
    put, made, kills = journal.Journal.put, [], []

    def dying(self, name, value):
        put(self, name, value)
        made.append((self._path, name))
        if len(made) % 20 == 0:
            kills.append(self._path)
            raise KeyboardInterrupt

    monkeypatch.setattr(journal.Journal, 'put', dying)
    table = None
    while table is None:
        try:
            table = _run(_small(), tmp_path)
        except KeyboardInterrupt:
            assert len(kills) < 20
    assert len(kills) >= 4 and len(set(made)) == len(made)
    stages = {os.path.basename(path).removesuffix('.partial.jsonl') for path in kills}
    assert stages <= {'rollouts', 'eval_accuracy', 'eval_judge'}
    assert not glob.glob(f'{tmp_path}/rounds/*/*.partial*')
    _assert_like(tmp_path, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    'place',
    [('01', 'rollouts'), ('01', 'state'), ('01-rehearsal', 'state'), ('02', 'examples')],
    ids='-'.join,
)
def test_a_run_killed_once_goes_on_to_the_same_end(tmp_path, monkeypatch, whole, place):
    enlist = stage.Folder.enlist

    def dying(self, name, entry):
        enlist(self, name, entry)
        if (os.path.basename(self.path), name) == place:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage.Folder, 'enlist', dying)
        _run(_small(), tmp_path)
    _run(_small(), tmp_path)
    _assert_like(tmp_path, whole[0])
    assert _said(tmp_path) == _said(whole[0])


@pytest.mark.slow
def test_a_run_killed_amid_an_update_starts_its_turn_again(tmp_path, monkeypatch, whole):
    write, seen = loop.logs.Log.write, []

    def dying(self, turn, step, metrics):
        write(self, turn, step, metrics)
        if turn == '02' and 'loss' in metrics:
            seen.append(step)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.logs.Log, 'write', dying)
        _run(_small(), tmp_path)
    assert len(seen) == 1
    _run(_small(), tmp_path)
    _assert_like(tmp_path, whole[0])
    assert _said(tmp_path) == _said(whole[0])  # the first try's line is gone


@pytest.mark.slow
def test_more_rounds_go_on_from_the_last(tmp_path, whole):
    _run(_small(rounds=1), tmp_path)
    assert _json(tmp_path, 'config.json')['rounds'] == 1
    _run(_small(rounds=2), tmp_path)
    _assert_like(tmp_path, whole[0])
    assert _said(tmp_path) == _said(whole[0])


@pytest.mark.slow
def test_only_the_last_states_stay_where_that_is_wished(tmp_path, whole):
    _run(_small(keep_states=1), tmp_path)
    assert [
        os.path.basename(os.path.dirname(f)) for f in glob.glob(f'{tmp_path}/rounds/*/state')
    ] == ['02-rehearsal']
    stages = lambda f: {k: v for k, v in _files(f).items() if not k.endswith('manifest.json')}
    assert stages(tmp_path) == stages(whole[0])
    assert _run(_small(keep_states=1), tmp_path).splitlines()[0] == whole[1].splitlines()[0]


@pytest.mark.slow
def test_a_finished_run_is_only_reported_again(monkeypatch, whole):
    folder, table = whole
    before = _files(folder), _metrics(folder)
    for name in ('enlist', 'drop'):
        monkeypatch.setattr(stage.Folder, name, None)
    assert _run(_small(), folder) == table
    assert (_files(folder), _metrics(folder)) == before


@pytest.mark.slow
def test_another_config_in_the_folder_is_refused_with_the_difference(whole):
    folder, _ = whole
    other = _small(seed=1)
    other['round']['loss']['beta'] = 0.3
    with pytest.raises(ValueError) as caught:
        _run(other, folder)
    assert 'seed: there 0, here 1' in str(
        caught.value
    ) and 'round.loss.beta: there 0.1, here 0.3' in str(caught.value)
    assert _json(folder, 'config.json')['seed'] == 0


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


def test_a_turn_with_nothing_to_learn_from_says_so(tmp_path):
    """Equal scores make no pair."""
    config = _small(rounds=1, evals={})
    config['round']['scorer'] = {'name': 'given'}
    with pytest.raises(ValueError, match='round 01 has nothing to learn from.*"ties": 1.0'):
        _run(config, tmp_path)


def test_responses_longer_than_the_context_are_refused_before_a_model_is_loaded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(loop.language_model.hf, 'read_params', lambda *_: pytest.fail('loaded'))
    for where, part in (('sample', 'sampler'), ('judge', 'scorer')):
        config = _small()
        config['round'][part] |= {'name': where, 'max_tokens': 512}
        with pytest.raises(
            ValueError,
            match=f'{where}: max_tokens=512 leaves no room for a prompt in the context of 512',
        ):
            _run(config, tmp_path)
    config = _small()
    config['model']['max_length'] = config['round']['sampler']['max_tokens']
    with pytest.raises(ValueError, match='sample: max_tokens=.* leaves no room'):
        _run(config, tmp_path)
