"""A notebook gets what the loop computes: the same samples, log-probabilities and folders."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import selfrew
from selfrew import api
from selfrew.shelves import samplers
from selfrew.types import Response, Rollout, user_prompt

NATS_PER_TOKEN = 1e-5  # between two programs, in float32 with logits of some 10 nats
QUESTIONS = ['Lena has 4 apples and buys 3 more. How many apples does Lena have?', 'Say: 5']


@pytest.fixture(scope='module')
def model():
    return selfrew.load('tiny', mesh={})


def test_importing_selfrew_alone_loads_nothing():
    loaded = '{module.partition(".")[0] for module in sys.modules}'
    code = f'import sys, selfrew; print({{"jax", "numpy", "transformers"}} & {loaded})'
    command = [sys.executable, '-c', code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == 'set()\n'
    assert {'load', 'save'} <= set(dir(selfrew))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = selfrew.lode


@pytest.mark.slow
def test_generate_is_the_sampler_of_the_loop(model):
    lm, params = model
    rollouts = lm.generate(params, QUESTIONS, n=2, max_tokens=24, seed=3)
    prompts = [user_prompt(str(i), q) for i, q in enumerate(QUESTIONS)]
    want = samplers.sample(
        lm, params, prompts, jax.random.key(3), n=2, temperature=0.7, top_p=0.9, max_tokens=24
    )
    assert rollouts == want
    assert all(isinstance(r, Rollout) and len(r.responses) == 2 for r in rollouts)
    chat = [[{'role': 'user', 'content': QUESTIONS[0]}]]
    (alone,) = lm.generate(params, chat, n=2, max_tokens=24, seed=3)
    for response, batched in zip(alone.responses, rollouts[0].responses):
        assert response.tokens == batched.tokens
        close = NATS_PER_TOKEN * len(batched.tokens)
        assert response.logp == pytest.approx(batched.logp, abs=close)
    with pytest.raises(
        ValueError, match=r"prompts \['1'\] and max_tokens=500 exceed the context of 512"
    ):
        lm.generate(params, ['5', 'word ' * 40], max_tokens=500)


def test_logp_is_the_samplers_and_the_sum_of_its_tokens(model):
    lm, params = model
    rollouts = lm.generate(params, QUESTIONS, n=3, temperature=1.0, top_p=1.0, max_tokens=24)
    prompts = [r.prompt for r in rollouts for _ in r.responses]
    responses = [response for r in rollouts for response in r.responses]
    logps = lm.logp(params, prompts, responses, batch=4)
    lengths = [len(response.tokens) for response in responses]
    sampled = [response.logp for response in responses]
    np.testing.assert_allclose(logps.total, sampled, atol=NATS_PER_TOKEN * max(lengths))
    assert [len(tokens) for tokens in logps.tokens] == lengths
    np.testing.assert_allclose(logps.total, [tokens.sum() for tokens in logps.tokens], rtol=1e-5)
    with pytest.raises(ValueError, match=r'responses \[1\] are empty'):
        lm.logp(params, ['a', 'b'], ['c', Response('', finish='length')])


def test_logits_give_the_logp_whichever_side_is_padded(model):
    lm, params = model
    prompt, answer = (
        lm.text.prompt_tokens(user_prompt('', QUESTIONS[0])),
        lm.text.response_tokens('7', 'stop'),
    )
    whole, pad = [*prompt, *answer], [0] * 5
    rows = np.array([whole + pad, pad + whole])
    mask = np.array([[1] * len(whole) + pad, pad + [1] * len(whole)])
    logits = lm.logits(params, rows, mask)
    assert logits.shape == (2, len(whole) + 5, lm.config.vocab) and logits.dtype == np.float32
    want = lm.logp(params, QUESTIONS[:1], ['7']).tokens[0]
    for row, first in ((0, 0), (1, 5)):
        logp_TV = jax.nn.log_softmax(logits[row])
        start = first + len(prompt) - 1
        logp = [logp_TV[start + i, token] for i, token in enumerate(answer)]
        np.testing.assert_allclose(logp, want, atol=1e-4)
    with pytest.raises(ValueError, match='want tokens and mask of one shape'):
        lm.logits(params, rows, mask[:1])


def test_samples_are_made_in_the_dtype_of_sampling(model):
    lm, params = model
    narrow, _ = selfrew.load('tiny', mesh={}, sampling_dtype='bfloat16')
    options = {'n': 1, 'temperature': 0.0, 'max_tokens': 1}
    exact, rounded = (
        [r.responses[0].logp for r in x.generate(params, QUESTIONS, **options)]
        for x in (lm, narrow)
    )
    errors = np.abs(np.subtract(exact, rounded))
    assert 1e-5 < errors.max() < 0.1


def test_a_mesh_of_all_devices_is_the_default(model):
    lm, params = selfrew.load('tiny')
    assert dict(lm.mesh.shape) == {'data': 1, 'fsdp': 8, 'tensor': 1}
    single_lm, single_params = model  # on one device
    args = QUESTIONS, ['7', '5']
    want = single_lm.logp(single_params, *args).total
    np.testing.assert_allclose(lm.logp(params, *args).total, want, atol=1e-4)
    assert lm.logits(params, [[5, 6, 7]]).shape == (1, 3, lm.config.vocab)


def test_a_prompt_may_be_a_string_a_chat_or_a_prompt():
    prompt = user_prompt('x', 'Hi')
    assert api.prompt_of(prompt, '3') is prompt
    chat = [{'role': 'user', 'content': 'Hi'}]
    assert api.prompt_of('Hi', '3') == user_prompt('3', 'Hi') == api.prompt_of(chat, '3')


@pytest.mark.parametrize('prompts', ['one text', {'role': 'user', 'content': 'x'}, b'x'])
def test_a_single_prompt_is_refused_where_a_list_is_meant(model, prompts):
    lm, params = model
    with pytest.raises(ValueError, match='want a list of them; for one, write'):
        lm.generate(params, prompts)
    with pytest.raises(ValueError, match='want a list of them'):
        lm.logp(params, prompts, ['5'])
    with pytest.raises(ValueError, match='responses=.*want a list of them'):
        lm.logp(params, ['5'], '5')


@pytest.mark.parametrize('prompt', [3, None, [], ['text'], [{'content': 'x'}], [[]]])
def test_what_is_no_prompt_is_refused(model, prompt):
    lm, params = model
    with pytest.raises(ValueError, match='prompt 0: want a string, a list of chat messages'):
        lm.generate(params, [prompt])


@pytest.mark.parametrize('token', [-1, 422, 10**9])
def test_a_token_that_the_model_has_not_is_refused(model, token):
    lm, params = model
    with pytest.raises(ValueError, match=f'no token {token}; the vocabulary has 0 to 421'):
        lm.logits(params, [[1, token]])
    with pytest.raises(ValueError, match=rf'responses\[0\]: no token {token}'):
        lm.logp(params, ['Say: 5'], [Response('5', tokens=(1, token))])
    assert lm.logits(params, [[1, token]], [[True, False]]).shape == (1, 2, 422)  # padding


@pytest.mark.slow
def test_a_notebook_runs_and_resumes_a_config_by_name(tmp_path, capsys):
    rounds = selfrew.run('sft:smoke', str(tmp_path / 'w'), tensorboard=False)
    assert [row['round'] for row in rounds] == [0, 1] and 'accuracy' in rounds[1]
    table = capsys.readouterr().out.splitlines()[-3:]
    assert table[0].split()[:2] == ['round', 'accuracy']
    assert not (tmp_path / 'w' / 'tensorboard').exists()
    assert selfrew.run('sft:smoke', str(tmp_path / 'w')) == rounds
    with pytest.raises(ValueError, match='nothing reads sed=3; there are: seed'):
        selfrew.run({'sed': 3}, str(tmp_path / 'w'))
