"""A real small model goes through all that the tiny base goes through; see real_model.

Skipped where it cannot be made.
"""

import json

import jax
import numpy as np
import pytest
from real_model import smollm2_or_skip

import selfrew
from configs import base
from selfrew import export, loop
from selfrew.types import Judgement, Prompt, Response, Rollout, to_json, user_prompt

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('describe_once')]

CHATS = (
    [('user', 'What is 12 + 30?')],
    [('system', 'You answer in French.'), ('user', 'Why is the sky blue?\n\nBe short.')],
    [('user', 'Hi!'), ('assistant', 'Hello. How can I help?'), ('user', 'Say <|im_end|> twice.')],
    [('user', 'Ünïcödé 数字 123 456.78 \t tabs  and   spaces ')],
)
NATS_PER_TOKEN = 5e-5  # the largest of a response, of logits up to 36; the mean is some 1e-6
QUESTION = 'What is {} + {}? End with "The answer is" and the number.'
SUMS = ((2, 3), (5, 1), (4, 4), (6, 2))


def _chat(turns):
    return [{'role': role, 'content': content} for role, content in turns]


@pytest.fixture(scope='module')
def model():
    """(lm, params)."""
    return selfrew.load(smollm2_or_skip().folder, mesh={})


@pytest.fixture(scope='module')
def theirs():
    """(tokenizer, model) of transformers."""
    transformers = pytest.importorskip('transformers')
    torch = pytest.importorskip('torch')
    folder = smollm2_or_skip().folder
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32, attn_implementation='eager').eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


def _torch_logits(model, tokens):
    torch = pytest.importorskip('torch')
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


# --- against transformers -------------------------------------------------------------------------


@pytest.mark.parametrize('turns', CHATS)
def test_chats_are_rendered_as_by_transformers(model, theirs, turns):
    (lm, _), (tokenizer, _) = model, theirs
    prompt = Prompt('a', tuple(_chat(turns)))
    rendered = tokenizer.apply_chat_template(
        _chat(turns), tokenize=False, add_generation_prompt=True
    )
    assert lm.text.prompt_text(prompt) == rendered
    if '<|im_end|> twice' not in rendered:  # a token that a message spells is text here
        expected = tokenizer(rendered, add_special_tokens=False).input_ids
        assert lm.text.prompt_tokens(prompt) == expected


def test_logits_of_chats_are_those_of_transformers_relative_to_their_size(model, theirs):
    lm, params = model
    for turns in CHATS:
        tokens = lm.text.prompt_tokens(Prompt('a', tuple(_chat(turns))))
        expected = _torch_logits(theirs[1], tokens)
        logits = np.asarray(lm.logits(params, [tokens]))[0]
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)


def test_greedy_samples_are_those_of_transformers(model, theirs):
    """But where two tokens are equally likely up to rounding."""
    lm, params = model
    prompts = [Prompt(str(i), tuple(_chat(turns))) for i, turns in enumerate(CHATS)]
    rollouts = lm.generate(params, prompts, n=1, temperature=0.0, max_tokens=16)
    for rollout in rollouts:
        opening, response = lm.text.prompt_tokens(rollout.prompt), rollout.responses[0]
        tokens = list(response.tokens)
        logits = _torch_logits(theirs[1], opening + tokens)[len(opening) - 1 : -1]
        chosen = logits[np.arange(len(tokens)), tokens]
        assert (logits.max(axis=-1) - chosen).max() <= 1e-4 * np.abs(logits).max()
        assert (tokens[-1] == lm.text.eos) == (response.finish == 'stop')


# --- within ---------------------------------------------------------------------------------------


def test_samples_have_the_log_probabilities_of_teacher_forcing(model):
    lm, params = model
    prompts = [QUESTION.format(*pair) for pair in SUMS]
    rollouts = lm.generate(params, prompts, n=2, temperature=1.0, top_p=1.0, max_tokens=16)
    asked = [rollout.prompt for rollout in rollouts for _ in rollout.responses]
    responses = [response for rollout in rollouts for response in rollout.responses]
    forced = lm.logp(params, asked, responses).total
    sampled = np.array([response.logp for response in responses])
    lengths = np.array([len(response.tokens) for response in responses])
    assert (np.abs(forced - sampled) / lengths).max() < NATS_PER_TOKEN


def test_an_export_is_the_same_model_here_and_in_transformers(tmp_path, model, theirs):
    lm, params = model
    out = str(tmp_path / 'out')
    selfrew.save(out, lm, params)
    again, loaded = selfrew.load(out, mesh={})
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    prompt = user_prompt('a', 'What is 2 + 2?')
    assert again.text.prompt_tokens(prompt) == lm.text.prompt_tokens(prompt)
    exported = type(theirs[1]).from_pretrained(out).eval()
    for before, after in zip(theirs[1].parameters(), exported.parameters(), strict=True):
        assert (before == after).all()
    assert exported.generation_config.eos_token_id == lm.text.eos


# --- through the loop -----------------------------------------------------------------------------

SAMPLER = {'name': 'sample', 'n': 4, 'max_tokens': 16, 'temperature': 0.8, 'top_p': 0.9}
JUDGE_TEMPLATE = """Write "The score is 1" or "The score is 5", nothing else. Which one fits this?
{{ response }}"""
JUDGING = {'votes': 1, 'max_tokens': 16, 'temperature': 0.8, 'top_p': 0.9}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Sums with their answers and a demonstration of each, a template, and judgements of an earlier
    run: what the model answers and judges need not make a pair, and these do.
    """
    folder = tmp_path_factory.mktemp('files')
    rows = [
        {'prompt': QUESTION.format(a, b), 'answer': a + b, 'response': f'The answer is {a + b}.'}
        for a, b in SUMS
    ]
    (folder / 'sums.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    (folder / 'judge.jinja').write_text(JUDGE_TEMPLATE)
    judged = [
        Judgement(
            Rollout(user_prompt(row['prompt'], row['prompt']), (Response(text), Response('No.'))),
            (1.0, 0.0),
        )
        for row in rows
        for text in [row['response']]
    ]
    lines = [json.dumps(to_json(judgement)) for judgement in judged]
    (folder / 'judgements.jsonl').write_text('\n'.join(lines))
    return folder


def _turn(files, method):
    """The turn of a method, small."""
    sums = {'name': 'records', 'source': str(files / 'sums.jsonl')}
    judge = {'name': 'judge', 'template': str(files / 'judge.jinja'), **JUDGING}
    kept = {
        'prompts': {'name': 'judgements', 'source': str(files / 'judgements.jsonl')},
        'sampler': {'name': 'given'},
        'scorer': {'name': 'given'},
        'pairs': {'name': 'extremes'},
    }
    turn = {
        'prompts': sums,
        'sampler': SAMPLER,
        'pairs': {'name': 'extremes'},
        'loss': {'name': 'dpo', 'beta': 0.1},
        'train': {'lr': 1e-5, 'batch': 4, 'row_length': 128, 'max_steps': 1},
        'max_unread': 1.0,
        'join': {'kept': kept},
    }
    verdicts = {
        'prompts': {'name': 'judged', 'prompts': sums, 'sampler': SAMPLER | {'n': 1}},
        'sampler': SAMPLER | {'n': 2},
        'scorer': {'name': 'length'},
        'pairs': {'name': 'extremes'},
    }
    verdicts['prompts']['template'] = str(files / 'judge.jinja')
    fields = {
        'sft': {
            'sampler': {'name': 'given'},
            'scorer': {'name': 'given'},
            'pairs': {'name': 'singles'},
            'loss': {'name': 'sft'},
            'join': {},
        },
        'irpo': {
            'scorer': {'name': 'exact_answer'},
            'pairs': {'name': 'right_vs_wrong', 'gold': True},
            'loss': {'name': 'dpo', 'nll': 1.0},
        },
        'meta_rewarding': {'scorer': judge, 'join': {'kept': kept, 'verdicts': verdicts}},
    }
    return turn | fields[method]


METHODS = 'irpo', 'meta_rewarding'  # SFT is below; a meta-rewarding turn judges too


def _config(files, method, **model):
    config = base.get(rounds=1, round=_turn(files, method), evals={}).to_dict()
    config['model'] |= {'folder': smollm2_or_skip().folder, 'max_length': 512} | model
    return config


def test_what_has_no_truth_is_measured(tmp_path, files):
    """By the model as a judge, which mostly says nothing, and against itself."""
    sums = {'name': 'records', 'source': str(files / 'sums.jsonl')}
    judge = {'name': 'judge', 'template': str(files / 'judge.jinja'), **JUDGING}
    shared = {'prompts': sums, 'sampler': SAMPLER | {'n': 1}}
    evals = {
        'score': {'name': 'mean_score', 'scorer': judge, **shared},
        'longer': {'name': 'win_rate', 'scorer': {'name': 'length'}, **shared},
    }
    loop.run(str(tmp_path), **_config(files, 'irpo') | {'rounds': 0, 'evals': evals})
    results = json.loads((tmp_path / 'rounds/00/evals.json').read_text())
    assert results['longer']['no_verdict'] == 0 and 0 <= results['longer']['value'] <= 1
    assert 0 <= results['score']['no_verdict'] <= 1


@pytest.mark.parametrize('method', METHODS)
def test_a_round_of_each_method_learns(tmp_path, files, method):
    loop.run(str(tmp_path), **_config(files, method))
    _check_round(tmp_path, method)


def _check_round(workdir, method):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    (update,) = [line for line in lines if 'loss' in line]
    turn = json.loads((workdir / 'rounds/01/turn.json').read_text())
    assert turn['steps'] == 1 and update['grad_norm'] > 0
    if method != 'sft':
        assert update['rewards/accuracies'] == 0.5 and abs(update['rewards/margins']) < 1e-4


def test_adapters_of_a_run_are_a_model_of_peft(tmp_path, files, theirs):
    peft = pytest.importorskip('peft')
    config = _config(files, 'sft', lora=4)
    config['round']['train']['lr'] = 1e-2
    loop.run(str(tmp_path / 'run'), **config)
    _check_round(tmp_path / 'run', 'sft')
    opened = export.open_turn(str(tmp_path / 'run'))
    export.save(str(tmp_path / 'adapters'), opened.lm, opened.loaders, adapters=True)
    export.save(str(tmp_path / 'merged'), opened.lm, opened.loaders)
    tokens = opened.lm.text.prompt_tokens(user_prompt('a', 'What is 2 + 2?'))
    merged = _torch_logits(type(theirs[1]).from_pretrained(tmp_path / 'merged').eval(), tokens)
    base_model = type(theirs[1]).from_pretrained(smollm2_or_skip().folder)
    adapted = peft.PeftModel.from_pretrained(base_model, tmp_path / 'adapters').eval()
    atol = 1e-5 * np.abs(merged).max()
    np.testing.assert_allclose(_torch_logits(adapted, tokens), merged, rtol=0, atol=atol)
    assert np.abs(_torch_logits(theirs[1], tokens) - merged).max() > 10 * atol
