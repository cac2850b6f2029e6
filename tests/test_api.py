"""What a notebook gets is what the loop does: the same samples, the same log-probabilities, the
same folders.
"""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import selfrew
from selfrew import api, export, loop
from selfrew.models import decoder, hf, language_model
from selfrew.shelves import samplers
from selfrew.types import Response, Rollout, ask

QUESTIONS = ['Lena has 4 apples and buys 3 more. How many apples does Lena have?', 'Say: 5']


@pytest.fixture(scope='module')
def model():
    return selfrew.load('tiny', mesh={})


def test_importing_selfrew_alone_loads_nothing():
    code = 'import sys, selfrew; print(len({"jax", "numpy", "transformers"} & {m.partition(".")[0] for m in sys.modules}))'
    assert (
        subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True
        ).stdout
        == '0\n'
    )
    assert {'load', 'save'} <= set(dir(selfrew))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        selfrew.lode


def test_generate_is_the_sampler_of_the_loop(model):
    lm, params = model
    found = lm.generate(params, QUESTIONS, n=2, max_tokens=24, seed=3)
    prompts = [ask(str(i), q) for i, q in enumerate(QUESTIONS)]
    want = samplers.sample(
        lm, params, prompts, jax.random.key(3), n=2, temperature=0.7, top_p=0.9, max_tokens=24
    )
    assert found == want and all(isinstance(r, Rollout) and len(r.responses) == 2 for r in found)
    chat = lm.generate(
        params, [[{'role': 'user', 'content': QUESTIONS[0]}]], n=2, max_tokens=24, seed=3
    )
    for alone, among in zip(chat[0].responses, found[0].responses):
        assert alone.tokens == among.tokens and alone.logp == pytest.approx(among.logp, abs=1e-4)
    with pytest.raises(
        ValueError, match=r"prompts \['1'\] and max_tokens=500 exceed the context of 512"
    ):
        lm.generate(params, ['5', 'word ' * 40], max_tokens=500)


def test_logp_is_the_samplers_and_the_sum_of_its_tokens(model):
    lm, params = model
    rollouts = lm.generate(params, QUESTIONS, n=3, temperature=1.0, top_p=1.0, max_tokens=24)
    flat = [(r.prompt, a) for r in rollouts for a in r.responses]
    found = lm.logp(params, *zip(*flat), batch=4)
    np.testing.assert_allclose(found.total, [a.logp for _, a in flat], atol=1e-4)
    assert [len(t) for t in found.tokens] == [len(a.tokens) for _, a in flat]
    np.testing.assert_allclose(found.total, [t.sum() for t in found.tokens], atol=1e-4)
    with pytest.raises(ValueError, match=r'responses \[1\] are empty'):
        lm.logp(params, ['a', 'b'], ['c', Response('', finish='length')])


def test_logits_give_the_logp_whichever_side_is_padded(model):
    lm, params = model
    prompt, answer = lm.text.prompt_tokens(ask('', QUESTIONS[0])), lm.text.response_tokens('7', 'stop')
    whole, pad = [*prompt, *answer], [0] * 5
    rows = np.array([whole + pad, pad + whole])
    mask = np.array([[1] * len(whole) + pad, pad + [1] * len(whole)])
    logits = lm.logits(params, rows, mask)
    assert logits.shape == (2, len(whole) + 5, lm.config.vocab) and logits.dtype == np.float32
    want = lm.logp(params, QUESTIONS[:1], ['7']).tokens[0]
    for row, first in ((0, 0), (1, 5)):
        logp = jax.nn.log_softmax(logits[row])
        at = first + len(prompt) - 1
        np.testing.assert_allclose([logp[at + i, t] for i, t in enumerate(answer)], want, atol=1e-4)
    with pytest.raises(ValueError, match='want tokens and mask of one shape'):
        lm.logits(params, rows, mask[:1])


def test_a_mesh_of_all_devices_is_the_default(model):
    lm, params = selfrew.load('tiny')
    assert dict(lm.mesh.shape) == {'data': 1, 'fsdp': 8, 'tensor': 1}
    one, its = model
    args = QUESTIONS, ['7', '5']
    np.testing.assert_allclose(lm.logp(params, *args).total, one.logp(its, *args).total, atol=1e-4)
    assert lm.logits(params, [[5, 6, 7]]).shape == (1, 3, lm.config.vocab)


# --- saving -----------------------------------------------------------------------------------------------------------


def test_a_saved_model_loads_as_it_was(tmp_path, model):
    lm, params = model
    selfrew.save(str(tmp_path / 'out'), lm, params)
    other, again = selfrew.load(str(tmp_path / 'out'), mesh={})
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert other.config == lm.config and other.text.prompt_tokens(ask('', 'Hi')) == lm.text.prompt_tokens(
        ask('', 'Hi')
    )
    ends = json.loads((tmp_path / 'out/generation_config.json').read_text())['eos_token_id']
    assert tuple(ends) == lm.text.ends == other.text.ends


def test_adapters_are_merged_and_bfloat16_is_half_as_large(tmp_path):
    lm, params = selfrew.load('tiny', mesh={}, lora=2)
    blocks = params['blocks']
    drawn = lambda x: jax.random.normal(jax.random.key(5), x.shape) * 0.1
    blocks |= {name: drawn(x) for name, x in blocks.items() if name.endswith('lora_b')}
    selfrew.save(str(tmp_path), lm, params, dtype='bfloat16', shard_bytes=200_000)
    assert len(list(tmp_path.glob('model-*.safetensors'))) > 2
    assert sum(f.stat().st_size for f in tmp_path.glob('*.safetensors')) < 2.2 * 363_744
    bare, read = selfrew.load(str(tmp_path), mesh={})
    want = decoder.merge_adapters(lm.module, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype('bfloat16').astype('float32')),
        read,
        want,
    )
    want, found = (m.logp(p, QUESTIONS, ['7', '5']).total for m, p in ((lm, params), (bare, read)))
    np.testing.assert_allclose(found, want, rtol=0.05)


def test_what_cannot_be_saved_is_refused(tmp_path, model):
    lm, params = model
    with pytest.raises(ValueError, match='is where the model came from'):
        selfrew.save(language_model.TINY, lm, params)
    (tmp_path / 'diary').write_text('dear')
    with pytest.raises(ValueError, match='is not empty and holds no checkpoint'):
        selfrew.save(str(tmp_path), lm, params)


@pytest.mark.slow
def test_the_export_command_writes_a_turns_model(tmp_path, monkeypatch, capsys):
    from configs import irpo

    config = irpo.get_config('smoke')
    config.rounds, config.round.prompts.n, config.evals = 1, 8, {}
    config.model.lora = 2
    run, out = tmp_path / 'run', tmp_path / 'out'
    loop.run(str(run), **config.to_dict())
    lm, params, name = export.restored(str(run))
    assert name == '01' and any(
        x.any() for n, x in params['blocks'].items() if n.endswith('lora_b')
    )

    command = [sys.executable, '-m', 'selfrew.export', f'--workdir={run}', f'--folder={out}']
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0 and f'turn 01 of {run} is in {out}, float32' in said.stdout, (
        said.stderr
    )
    config = hf.read_config(str(out))
    assert config.lora == 0
    _, read = language_model.load(folder=str(out))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        read,
        decoder.merge_adapters(lm.module, params),
    )
    for flags, words in (
        (
            (f'--workdir={run}', f'--folder={out}', '--turn=07'),
            "no state of turn '07'; there are: 01",
        ),
        ((f'--workdir={tmp_path}/no', f'--folder={out}'), 'is not a run: it has no config.json'),
        ((f'--workdir={run}',), 'required: --folder'),
    ):
        monkeypatch.setattr(sys, 'argv', ['export', *flags])
        with pytest.raises(SystemExit) as ended:
            export.main()
        said = capsys.readouterr().err
        assert ended.value.code and words in said and 'Traceback' not in said


def test_a_prompt_may_be_a_string_a_chat_or_a_prompt():
    given = ask('x', 'Hi')
    assert api.prompt_of(given, '3') is given
    assert (
        api.prompt_of('Hi', '3')
        == ask('3', 'Hi')
        == api.prompt_of([{'role': 'user', 'content': 'Hi'}], '3')
    )
