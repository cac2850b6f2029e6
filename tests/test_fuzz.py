"""Whatever a user gives, the answer is a result or a sentence, never a traceback.

Ten thousand inputs, drawn by fixed seeds: rows and files, verdicts and answers, templates, configs
and overrides, and damaged folders of runs. FUZZ_EXAMPLES=20 makes twenty times as many.
"""

import functools
import gzip
import json
import math
import os
import pathlib
import random
import shutil

import jax
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from configs import quickstart, self_rewarding
from selfrew import check, loop, verdict
from selfrew.running import binding, overrides, refusal, report
from selfrew.running.config import bind_config
from selfrew.tasks import published, templates, verdicts
from selfrew.types import Response

MORE = int(os.environ.get('FUZZ_EXAMPLES', '1'))


def _fuzzed(count):
    """So many examples, the same ones in every run."""
    return settings(
        max_examples=count * MORE,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def _told(action):
    """What an action returns, or the mistake that it tells of; anything else is a traceback."""
    try:
        return action()
    except refusal.MISTAKES as problem:
        assert str(problem)
        return problem


TEXTS = st.text(st.characters(codec=None), max_size=20)  # half surrogate pairs too
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {'role': st.sampled_from(['user', 'assistant', 'system', 'tool', 3]), 'content': LEAVES}
    ),
    max_size=4,
)
FIELDS = (
    *('prompt', 'messages', 'answer', 'response', 'id', 'chosen', 'rejected', 'score_chosen'),
    *('score_rejected', 'completion', 'label', 'responses', 'scores', 'question', 'options'),
    *('choices', 'answerKey', 'solution', 'problem', 'Body', 'Question', 'Answer', 'meta'),
)
ROWS = st.dictionaries(st.sampled_from(FIELDS) | TEXTS, VALUES | MESSAGES, max_size=8)
# Each with the fields of its rows; those of most forms are read by `published`.
PARTS = (
    {'name': 'records'},
    {'name': 'preferences'},
    {'name': 'trees', 'part': 'ift'},
    {'name': 'examples'},
    {'name': 'judgements'},
    *({'name': 'problems', 'form': form} for form in published.FORMS),
)


@pytest.mark.slow
@_fuzzed(2000)
@given(rows=st.lists(ROWS | VALUES, min_size=1, max_size=2), part=st.sampled_from(PARTS))
def test_rows_of_any_form_are_read_or_told(tmp_path_factory, rows, part):
    path = _scratch(tmp_path_factory) / 'rows.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), errors='surrogatepass')
    entry = part | {'source': str(path)} | ({'max_bad': 9} if 'form' in part else {})
    _told(lambda: _reader(json.dumps(entry))(None, None, jax.random.key(0)))


@functools.cache
def _reader(entry: str):
    return binding.bind('prompts', json.loads(entry), 'prompts')


_folders = []


def _scratch(tmp_path_factory) -> pathlib.Path:
    if not _folders:
        _folders.append(tmp_path_factory.mktemp('fuzz'))
    return _folders[0]


@pytest.mark.slow
@_fuzzed(2000)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(['.jsonl.gz', '.jsonl', '.json', '.xml']))
def test_damaged_files_are_read_or_told(tmp_path_factory, seed, kind):
    """Cut short, with flipped bits, with a piece of another file, or deeply nested."""
    rng = random.Random(seed)
    if kind == '.xml':
        data = b'<ML><Problem ID="1"><Body>a b</Body><Question>c?</Question></Problem></ML>'
    else:
        lines = [json.dumps({'prompt': f'Who buys {i}?', 'answer': i}) for i in range(20)]
        data = (f'[{",".join(lines)}]' if kind == '.json' else '\n'.join(lines)).encode()
    if rng.random() < 0.1:
        data = rng.choice([b'[', b'{"a":', b'<a>']) * rng.randrange(1, 30_000)
    data = gzip.compress(data, mtime=0) if kind.endswith('gz') else data
    damaged = bytearray(data)
    for _ in range(rng.randrange(4)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.4:
        damaged = damaged[: rng.randrange(len(damaged) + 1)]
    path = _scratch(tmp_path_factory) / f'rows{kind}'
    path.write_bytes(damaged)
    form = {'name': 'problems', 'form': 'asdiv'} if kind == '.xml' else {'name': 'records'}
    entry = form | {'source': str(path)}
    _told(lambda: binding.bind('prompts', entry, 'prompts')(None, None, jax.random.key(0)))


PIECES = st.sampled_from(
    [
        *('Score:', 'Score: 4', '**Score:** 3/5', '[[4]]', 'Winner: A', 'Winner:', 'tie', '[[C]]'),
        *('Final answer:', '####', '\\boxed{', '}', 'The answer is', '(B)', '5x', '1,000', '½'),
        *('$', '%', '-', '−', '1/0', '10^', '∞', 'nan', 'inf', '\n', '\u2028', '\x00', 'İ', '１'),
    ]
)
WRITTEN = st.lists(PIECES | TEXTS, max_size=8).map(' '.join)
# Without math, which has a process of its own.
FORMS = [form for form in published.FORMS if form != 'math']


@pytest.mark.slow
@_fuzzed(3000)
@given(text=WRITTEN, finish=st.sampled_from(['stop', 'length']), form=st.sampled_from(FORMS))
def test_any_text_is_a_verdict_or_none(text, finish, form):
    response = Response(text, finish=finish)
    score = verdicts.reading_of_score(response, low=0.0, high=5.0).value
    assert math.isnan(score) or 0.0 <= score <= 5.0
    winner = verdicts.reading_of_winner(response).value
    assert math.isnan(winner) or 0.0 <= winner <= 1.0
    row = {'response': text, 'finish': finish, 'options': ['a', 'b', 'c']}
    for truth in (text, '3', 'B', 3.5, [text, '1/2']):
        judged = _told(lambda truth=truth: verdict.judge_row(form, row | {'truth': truth}))
        assert isinstance(judged, ValueError) or isinstance(judged['right'], bool)


JINJA = st.sampled_from(
    [
        *(
            '{{',
            '}}',
            '{%',
            '%}',
            'prompt',
            'response',
            'for',
            'in',
            'endfor',
            'if',
            'endif',
            'set',
        ),
        *('low, high = 1, 5', '|', 'length', '[0]', '()', '.x', '{#', '#}', '{{ response }}', '1'),
    ]
)


@pytest.mark.slow
@_fuzzed(1000)
@given(text=st.lists(JINJA | TEXTS, max_size=10).map(' '.join))
def test_any_template_is_taken_or_told(tmp_path_factory, text):
    path = _scratch(tmp_path_factory) / 'template.jinja'
    path.write_text(text, errors='surrogatepass', encoding='utf-8')
    for function in (templates.get, templates.constants, templates._source):
        function.cache_clear()
    fields = {'prompt': 'p', 'response': 'r'}
    _told(lambda: templates.check(str(path), fields, ('response',)))
    _told(lambda: templates.score_range(str(path)))


def _paths(node, path=()):
    """The path of each field of a config."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield (*path, name)
            yield from _paths(value, (*path, name))


CONFIGS = [m.get_config('smoke').to_dict() for m in (quickstart, self_rewarding)]
ODD = st.sampled_from(
    [10**30, -1, 0, 1e9, -1.0, math.nan, math.inf, '', 'x', (), {}, [], None, True, 'nan', 1e-400]
)


@pytest.mark.slow
@_fuzzed(1000)
@given(data=st.data(), config=st.sampled_from(CONFIGS), value=ODD | VALUES)
def test_any_value_of_any_field_is_taken_or_told(data, config, value):
    config = json.loads(json.dumps(config))
    *path, last = data.draw(st.sampled_from(sorted(_paths(config), key=str)))
    node = config
    for step in path:
        node = node[step]
    if data.draw(st.booleans()):
        node[last] = value
    elif isinstance(node[last], dict):
        node[last][data.draw(TEXTS)] = value
    else:
        del node[last]

    def bind():
        bound = binding.bind_arguments(loop.run, config, 'config')
        bind_config({'start': None, 'by_round': None} | bound.keywords)

    _told(bind)


@pytest.mark.slow
@_fuzzed(500)
@given(data=st.data())
def test_any_override_is_taken_or_told(data):
    config = quickstart.get_config('smoke')
    names = ['.'.join(path) for path in sorted(_paths(config.to_dict()))]
    name = data.draw(st.sampled_from(names) | TEXTS)
    more = data.draw(st.sampled_from(['', '.name', '.x', '.epochs', '.']))
    _told(lambda: overrides.complete(config, {name + more: data.draw(TEXTS)}))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of a finished run."""
    workdir, config = (
        tmp_path_factory.mktemp('runs') / 'w',
        quickstart.get_config('smoke').to_dict(),
    )
    config['round']['prompts']['n'] = 6
    config['round']['scorer'] = {'name': 'length'}
    config['round']['sampler'] |= {'n': 3, 'max_tokens': 8}
    config['round']['train'] |= {'batch': 8, 'row_length': 128}
    config['evals'] = {'accuracy': config['evals']['accuracy']}
    config['evals']['accuracy']['prompts']['n'] = 4
    binding.bind_arguments(loop.run, config, 'config')(str(workdir))
    return workdir, config


def _damage(workdir, rng) -> None:
    """Flips bits of a file, cuts it short, deletes it, or puts a folder in its place."""
    files = sorted(path for path in workdir.rglob('*') if path.is_file())
    for path in rng.sample(files, min(rng.randrange(1, 4), len(files))):
        data = bytearray(path.read_bytes())
        how = rng.randrange(6)
        if how < 3 and data:
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        elif how == 3:
            path.write_bytes(data[: rng.randrange(len(data) + 1)])
        else:
            path.unlink()
            if how == 5:
                path.mkdir()


@pytest.mark.slow
@_fuzzed(500)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_run_is_checked_and_reported_or_told(run, tmp_path_factory, seed):
    folder = _scratch(tmp_path_factory) / 'run'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run[0], folder)
    _damage(folder, random.Random(seed))
    found = _told(lambda: check.verify(str(folder)))
    assert isinstance(found, (tuple, ValueError, OSError))
    _told(lambda: report.table(report.read_rounds(str(folder))))


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(12))
def test_a_damaged_run_goes_on_or_is_told(run, tmp_path, seed, describe_once):
    shutil.copytree(run[0], tmp_path / 'w')
    _damage(tmp_path / 'w', random.Random(seed))
    before = binding.bind_arguments(loop.run, run[1], 'config')
    found = _told(lambda: before(str(tmp_path / 'w')))
    assert isinstance(found, str) or str(tmp_path) in str(found), found
