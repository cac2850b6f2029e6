"""A notebook gets what the loop computes: the same samples, log-probabilities and folders."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import selfrew
from configs import irpo
from selfrew import api, export, loop
from selfrew.models import hf, language_model, lora
from selfrew.run import stage
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


def test_a_mesh_of_all_devices_is_the_default(model):
    lm, params = selfrew.load('tiny')
    assert dict(lm.mesh.shape) == {'data': 1, 'fsdp': 8, 'tensor': 1}
    single_lm, single_params = model  # on one device
    args = QUESTIONS, ['7', '5']
    want = single_lm.logp(single_params, *args).total
    np.testing.assert_allclose(lm.logp(params, *args).total, want, atol=1e-4)
    assert lm.logits(params, [[5, 6, 7]]).shape == (1, 3, lm.config.vocab)


# --- saving ---------------------------------------------------------------------------------------


def test_a_saved_model_loads_as_it_was(tmp_path, model):
    lm, params = model
    selfrew.save(str(tmp_path / 'out'), lm, params)
    other, again = selfrew.load(str(tmp_path / 'out'), mesh={})
    jax.tree.map(np.testing.assert_array_equal, again, params)
    prompt = user_prompt('', 'Hi')
    assert other.config == lm.config
    assert other.text.prompt_tokens(prompt) == lm.text.prompt_tokens(prompt)
    ends = json.loads((tmp_path / 'out/generation_config.json').read_text())['eos_token_id']
    assert tuple(ends) == lm.text.stop_tokens == other.text.stop_tokens


def test_adapters_are_merged_and_bfloat16_is_half_as_large(tmp_path):
    lm, params = selfrew.load('tiny', mesh={}, lora=2)
    blocks = params['blocks']
    for name, value in blocks.items():
        if name.endswith('lora_b'):
            blocks[name] = jax.random.normal(jax.random.key(5), value.shape) * 0.1
    selfrew.save(str(tmp_path), lm, params, dtype='bfloat16', shard_bytes=200_000)
    assert len(list(tmp_path.glob('model-*.safetensors'))) > 2
    assert sum(f.stat().st_size for f in tmp_path.glob('*.safetensors')) < 2.2 * 363_744
    merged_lm, merged = selfrew.load(str(tmp_path), mesh={})
    want = jax.tree.map(
        lambda x: x.astype('bfloat16').astype('float32'), lora.merge_adapters(lm.config, params)
    )
    jax.tree.map(np.testing.assert_array_equal, merged, want)
    args = QUESTIONS, ['7', '5']
    logp, merged_logp = lm.logp(params, *args), merged_lm.logp(merged, *args)
    np.testing.assert_allclose(merged_logp.total, logp.total, rtol=0.05)


def test_what_cannot_be_saved_is_refused(tmp_path, model):
    lm, params = model
    with pytest.raises(ValueError, match='is where the model came from'):
        selfrew.save(language_model.TINY, lm, params)
    (tmp_path / 'diary').write_text('dear')
    (tmp_path / 'a_run' / 'rounds').mkdir(parents=True)
    (tmp_path / 'a_run' / 'config.json').write_text('{}')
    with pytest.raises(ValueError, match='is the folder of a run'):
        selfrew.save(str(tmp_path / 'a_run'), lm, params)
    with pytest.raises(ValueError, match='is not empty and holds no checkpoint'):
        selfrew.save(str(tmp_path), lm, params)


@pytest.mark.slow
def test_the_export_command_writes_a_turns_model(tmp_path, monkeypatch, capsys):
    config = irpo.get_config('smoke')
    config.rounds, config.round.prompts.n, config.evals = 1, 8, {}
    config.model.lora = 2
    run, out = tmp_path / 'run', tmp_path / 'out'
    loop.run(str(run), **config.to_dict())
    lm, params, name = export.load_turn(str(run))
    adapters = [x for n, x in params['blocks'].items() if n.endswith('lora_b')]
    assert name == '01' and any(x.any() for x in adapters)

    command = [sys.executable, '-m', 'selfrew.export', f'--workdir={run}', f'--folder={out}']
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f'turn 01 of {run} is in {out}, float32' in result.stdout
    assert hf.read_config(str(out)).lora == 0
    _, exported = language_model.load(folder=str(out))

    def assert_close(x, want):
        np.testing.assert_allclose(x, want, atol=1e-6 * np.abs(want).max())

    jax.tree.map(assert_close, exported, lora.merge_adapters(lm.config, params))
    no_state = "no state of turn '07'; there are: 01"
    no_run = 'is not a run: it has no config.json'
    for flags, message in (
        ((f'--workdir={run}', f'--folder={out}', '--turn=07'), no_state),
        ((f'--workdir={tmp_path}/no', f'--folder={out}'), no_run),
        ((f'--workdir={run}',), 'required: --folder'),
    ):
        monkeypatch.setattr(sys, 'argv', ['export', *flags])
        with pytest.raises(SystemExit) as ended:
            export.main()
        output = capsys.readouterr().err
        assert ended.value.code and message in output and 'Traceback' not in output


def test_a_run_without_a_saved_state_is_not_exported(tmp_path):
    config = irpo.get_config('smoke').to_dict()
    stage.claim_workdir(str(tmp_path), config, free=())
    with pytest.raises(ValueError, match=f'^no turn of {tmp_path} has a saved state$'):
        export.load_turn(str(tmp_path))


def test_a_prompt_may_be_a_string_a_chat_or_a_prompt():
    prompt = user_prompt('x', 'Hi')
    assert api.prompt_of(prompt, '3') is prompt
    chat = [{'role': 'user', 'content': 'Hi'}]
    assert api.prompt_of('Hi', '3') == user_prompt('3', 'Hi') == api.prompt_of(chat, '3')
