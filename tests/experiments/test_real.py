"""The studies of a real model: which prompts are tested, what is measured, and that arms bind."""

import json
import os
import pathlib
import subprocess

import data_sets
import jax
import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver
from scipy import stats

import selfrew
from experiments.real import figures, settings, sources
from experiments.real.instructions import run as instructions
from experiments.real.judging import run as judging
from experiments.real.length import run as length
from experiments.real.problems import run as problems
from selfrew.running.config import bind_config
from selfrew.running.stage import Folder
from selfrew.tasks import splitting
from selfrew.types import Judgement, Response, Rollout, user_prompt

ALPACA = data_sets.FOLDER / 'alpaca' / 'alpaca_random_9k.json.gz'
have_data = pytest.mark.skipif(not ALPACA.is_file(), reason='the data sets are not here')


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def chosen(tmp_path):
    """The flags of a study, in a folder of its own."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(['test', '--folder=f', '--model=m', '--data=d'])
    with flagsaver.flagsaver(folder=str(tmp_path), model='tiny', data=str(data_sets.FOLDER)):
        yield tmp_path


@have_data
def test_no_topic_is_on_two_sides_and_enough_prompts_are_tested(tmp_path):
    sources.write_instructions(str(tmp_path / 'prompts'), str(data_sets.FOLDER))
    sources.write_problems(str(tmp_path / 'problems'), str(data_sets.FOLDER))
    for folder, least in (('prompts', 512), ('problems', 500)):
        topics = {
            side: {splitting.split_key(row['prompt']) for row in _rows(path)}
            for side in ('train', 'dev', 'test')
            for path in [tmp_path / folder / f'{side}.jsonl']
        }
        assert not topics['test'] & (topics['train'] | topics['dev'])
        assert not topics['dev'] & topics['train']
        assert len(_rows(tmp_path / folder / 'test.jsonl')) >= least
    shown = _rows(tmp_path / 'problems' / 'demonstrations.jsonl')
    trained = {row['prompt'] for row in _rows(tmp_path / 'problems' / 'train.jsonl')}
    assert len(shown) == sources.DEMONSTRATIONS
    assert not trained & {row['prompt'] for row in shown}


@have_data
def test_demonstrations_are_right_sums():
    rows = sources.read_problems(str(data_sets.FOLDER))
    assert len(rows) > 1500
    for row in rows:
        calculation, final = row['response'].split('\n')
        left, right = calculation.split(' = ')
        assert final == f'Final answer: {row["answer"]}' and right == row['answer']
        assert eval(left) == pytest.approx(float(right))


@pytest.mark.usefixtures('chosen')
def test_an_arm_that_is_not_there_is_refused():
    with flagsaver.flagsaver(arms=['irpo', 'spin']):
        with pytest.raises(app.UsageError, match="no arm 'spin'; there are: irpo, dpo, own_sft"):
            settings.arms(problems.ARMS, problems.ON_TWO_CORES)
    assert settings.arms(problems.ARMS, problems.ON_TWO_CORES) == ['irpo', 'sft']
    for study in instructions, problems, judging:
        assert set(study.ON_TWO_CORES) <= set(study.ARMS)


def _scored(scores):
    return [
        Judgement(Rollout(user_prompt(f'p{i}', '?'), (Response('a'),)), (score,))
        for i, score in enumerate(scores)
    ]


def test_a_paired_gain_has_its_interval_and_the_chance_of_its_sign():
    rng = np.random.default_rng(0)
    before = rng.random(200)
    noise = rng.normal(0.05, 0.2, 200)
    test = figures.paired(figures.scores(_scored(before + noise)), figures.scores(_scored(before)))
    assert test['n'] == 200 and test['gain'] == pytest.approx(noise.mean())
    half = 1.972 * noise.std(ddof=1) / 200**0.5  # t of 199 degrees of freedom
    assert test['high'] - test['gain'] == pytest.approx(half, rel=1e-3)
    assert test['p'] == pytest.approx(stats.ttest_1samp(noise, 0.0).pvalue, abs=0.003)
    same = figures.paired(figures.scores(_scored(before)), figures.scores(_scored(before)))
    assert (same['gain'], same['p']) == (0.0, 1.0)
    with pytest.raises(ValueError, match='the prompts are not the same'):
        figures.paired({'a': 1.0}, {'b': 1.0})


def test_a_prompt_of_several_runs_counts_once():
    runs = [{'a': 1.0, 'b': 0.0}, {'a': 0.0, 'b': 0.0}]
    assert figures.mean_by_prompt(runs) == {'a': 0.5, 'b': 0.0}


def test_arms_are_tested_against_the_model_before_and_against_sft(tmp_path):
    rng = np.random.default_rng(0)
    made = {}
    for arm in ('sft', 'dpo'):
        for seed in (0, 1):
            for number in (0, 1):
                made[arm, seed, number] = rng.random(20)
                stage = Folder(str(tmp_path / f'{arm}-{seed}'), f'{number:02d}')
                os.makedirs(stage.path)
                judged = _scored(made[arm, seed, number])
                stage.make_once('eval_kept', Judgement, lambda judged=judged: judged)
    tests = figures.write_tests(str(tmp_path), ['sft', 'dpo'], [0, 1], ('kept',), 1)
    assert json.loads((tmp_path / 'tests.json').read_text()) == tests
    assert sorted(tests) == ['dpo', 'dpo against sft', 'sft']

    def mean(arm, number):
        return np.mean([made[arm, seed, number].mean() for seed in (0, 1)])

    for arm in ('sft', 'dpo'):
        assert tests[arm]['kept']['gain'] == pytest.approx(mean(arm, 1) - mean(arm, 0))
        assert tests[arm]['kept']['n'] == 20
    against = tests['dpo against sft']['kept']
    assert against['gain'] == pytest.approx(mean('dpo', 1) - mean('sft', 1))


def test_fluency_is_what_the_base_says_of_responses_and_the_share_of_new_pairs_of_words():
    lm, params = selfrew.load('tiny', mesh={})
    texts = ['the sum is 5', 'the sum is 5', 'a sum']
    asked_for = ['What is 2 + 3?', 'Who?', 'What is a sum?']
    prompts = [user_prompt(f'p{i}', f'{a}\n\nUse words.') for i, a in enumerate(asked_for)]
    responses = [Response(text, (*lm.text.encode(text), lm.text.eos)) for text in texts]
    judged = [Judgement(Rollout(p, (r,)), (1.0,)) for p, r in zip(prompts, responses)]
    made = figures.Untouched(lm, params).fluency(judged)

    def logp(prompt, response):
        asked = lm.text.prompt_tokens(prompt)
        logits = np.asarray(lm.logits(params, [[*asked, *response.tokens]]))[0]
        places = np.arange(len(asked) - 1, len(logits) - 1)
        all_logps = np.asarray(jax.nn.log_softmax(logits))
        return all_logps[places, list(response.tokens)].sum()

    logps = list(map(logp, prompts, responses))
    own = [user_prompt('p', text) for text in asked_for]
    is_relevant = [
        logp(own[i], response) > logp(own[(i + 1) % 3], response)
        for i, response in enumerate(responses)
    ]
    assert 0 < sum(is_relevant) < 3
    assert made['relevance'] == pytest.approx(np.mean(is_relevant))
    count = sum(len(response.tokens) for response in responses)
    assert made['perplexity'] == pytest.approx(np.exp(-sum(logps) / count), rel=1e-4)
    # the sum, sum is, is 5, the same again, a sum
    assert made['distinct_2'] == pytest.approx(4 / 7)
    assert made['tokens'] == count / 3 and made['cut'] == 0


@have_data
def test_pairs_to_judge_are_short_and_a_verdict_goes_with_each_response(tmp_path, chosen):
    sources.write_pairs(str(tmp_path), str(data_sets.FOLDER), 600)
    judging.write_verdicts(str(tmp_path))
    verdicts = _rows(tmp_path / 'verdicts_crossed.jsonl')
    assert [row['response'] for row in verdicts[:2]] == ['Score: 5', 'Score: 1']
    assert len(verdicts) == 2 * judging.PAIRS
    pair = min(_rows(tmp_path / 'crossed_train.jsonl'), key=judging._characters)
    assert pair['chosen'] in verdicts[0]['prompt'] and pair['rejected'] in verdicts[1]['prompt']
    for name in judging.tested().values():
        pairs = _rows(tmp_path / f'{name}.jsonl')
        assert len(pairs) >= 20 and all(pair['chosen'] != pair['rejected'] for pair in pairs)


@have_data
def test_every_arm_is_a_config_that_binds(chosen, monkeypatch):
    monkeypatch.setattr(judging, 'CONTEXT', 512)  # of the tiny base
    made = [instructions.config_of(name, 0, 1e-5) for name in instructions.ARMS]
    made += [length.config_of(target, 0) for target in (8, 96)]
    made += [judging.config_of(name, 0, 1e-5) for name in judging.ARMS]
    made += [problems.start_config(0)]
    made += [problems.arm_config(name, 0, 1e-5, 'tiny', 3) for name in problems.ARMS]
    for folder, names in (
        ('prompts', sources.SIDES),
        ('problems', (*sources.SIDES, 'demonstrations')),
    ):
        for name in names:
            sources.write_rows(str(chosen / folder), name, [{'prompt': 'Who?', 'answer': '1'}])
    sources.write_pairs(str(chosen / 'pairs'), str(data_sets.FOLDER), 600)
    judging.write_verdicts(str(chosen / 'pairs'))
    for config in made:
        bind_config(config)


def test_the_script_for_a_gpu_joins_a_file_and_says_what_is_missing(tmp_path):
    for i, part in enumerate((b'GG', b'UF')):
        (tmp_path / f'm.gguf.part-{i:02d}').write_bytes(part)
    script = pathlib.Path(sources.__file__).with_name('gpu.sh')
    words = tmp_path / 'm.gguf', tmp_path, tmp_path / 'out'
    done = subprocess.run(['bash', script, *words], capture_output=True, text=True)
    assert done.returncode == 1 and 'sees no GPU' in done.stderr
    assert (tmp_path / 'out' / 'm.gguf').read_bytes() == b'GGUF'
    done = subprocess.run(['bash', script], capture_output=True, text=True)
    assert done.returncode == 2 and 'MODEL DATA OUT' in done.stderr
