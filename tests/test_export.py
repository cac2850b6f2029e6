"""An export is what transformers loads, ends turns as they were taught, and can be read back."""

import json
import os
import stat
import subprocess
import sys

import jax
import numpy as np
import pytest
from chat_styles import FITS, make_tokenizer, write_folder
from families import architecture, make_config

import selfrew
from configs import irpo
from selfrew import export, loop
from selfrew.models import hf, language_model, lora, text
from selfrew.running import stage
from selfrew.types import user_prompt

QUESTIONS = ['Lena has 4 apples and buys 3 more. How many apples does Lena have?', 'Say: 5']


@pytest.fixture(scope='module')
def model():
    return selfrew.load('tiny', mesh={})


def _read_json(path):
    return json.loads(path.read_text())


# --- what is written ------------------------------------------------------------------------------


def test_a_saved_model_loads_as_it_was(tmp_path, model):
    lm, params = model
    selfrew.save(str(tmp_path / 'out'), lm, params)
    other, again = selfrew.load(str(tmp_path / 'out'), mesh={})
    jax.tree.map(np.testing.assert_array_equal, again, params)
    prompt = user_prompt('', 'Hi')
    assert other.config == lm.config
    assert other.text.prompt_tokens(prompt) == lm.text.prompt_tokens(prompt)
    assert lm.text.ends == other.text.ends == (4,)
    assert not (tmp_path / 'out.partial').exists()


@pytest.mark.parametrize('name', ['chatml', 'llama3', 'gemma'])
def test_the_tokens_that_end_a_turn_are_named_in_both_configs_the_taught_one_first(tmp_path, name):
    lm, params = language_model.load(folder=write_folder(tmp_path, name, FITS))
    export.save(str(tmp_path / 'out'), lm, params)
    for file in ('generation_config.json', 'config.json'):
        ends = _read_json(tmp_path / 'out' / file)['eos_token_id']
        assert ends == list(lm.text.ends) and ends[0] == lm.text.eos and len(ends) > 1


def test_a_base_taught_another_turn_end_stops_there_in_transformers(tmp_path):
    """A base whose EOS is <|endoftext|>, taught ChatML by a template of the user's."""
    transformers = pytest.importorskip('transformers')
    folder = write_folder(tmp_path, 'chatml', FITS)
    (tmp_path / 'chatml/generation_config.json').write_text('{"eos_token_id": 256, "top_k": 7}')
    template = tmp_path / 'own.jinja'
    template.write_text(make_tokenizer('chatml').chat_template + '{# mine #}')
    lm, params = language_model.load(folder=folder, chat_template=str(template))
    end = lm.text.tokenizer.convert_tokens_to_ids('<|im_end|>')
    export.save(str(tmp_path / 'out'), lm, params)
    there = transformers.GenerationConfig.from_pretrained(tmp_path / 'out')
    assert there.eos_token_id == [end, 256] and there.top_k == 7
    assert transformers.AutoConfig.from_pretrained(tmp_path / 'out').eos_token_id == [end, 256]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    assert tokenizer.chat_template.endswith('{# mine #}')
    assert text.load(str(tmp_path / 'out')).ends == lm.text.ends


def test_tokenizer_files_are_the_sources_own_byte_for_byte(tmp_path, model):
    lm, params = model
    export.save(str(tmp_path / 'out'), lm, params)
    for name in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'):
        with open(os.path.join(language_model.TINY, name), 'rb') as file:
            assert (tmp_path / 'out' / name).read_bytes() == file.read(), name


def test_a_given_template_is_written_beside_the_tokenizer_and_the_old_one_is_gone(tmp_path):
    folder = write_folder(tmp_path, 'chatml', FITS)
    path = tmp_path / 'chatml/tokenizer_config.json'
    path.write_text(json.dumps(_read_json(path) | {'chat_template': 'old'}))
    lm, params = language_model.load(folder=folder, chat_template='plain')
    export.save(str(tmp_path / 'out'), lm, params)
    assert (tmp_path / 'out/chat_template.jinja').read_text() == lm.text.template
    assert 'chat_template' not in _read_json(tmp_path / 'out/tokenizer_config.json')
    assert text.load(str(tmp_path / 'out')).tokenizer.chat_template == lm.text.template


def test_what_transformers_4_does_not_load_is_written_in_the_form_that_both_load(tmp_path):
    folder = write_folder(tmp_path, 'llama3', FITS)
    path = tmp_path / 'llama3/tokenizer_config.json'
    fields = _read_json(path)
    extra = fields.get('extra_special_tokens') or fields.get('additional_special_tokens')
    newest = {'tokenizer_class': 'TokenizersBackend', 'extra_special_tokens': extra}
    fields.pop('additional_special_tokens', None)
    code = {'auto_map': {'AutoTokenizer': ['own.Tokenizer', None]}}
    path.write_text(json.dumps(fields | newest))
    lm, params = language_model.load(folder=folder)
    path.write_text(json.dumps(fields | newest | code))
    config = tmp_path / 'llama3/config.json'
    config.write_text(json.dumps(_read_json(config) | {'auto_map': {'AutoConfig': 'own.Config'}}))
    export.save(str(tmp_path / 'out'), lm, params)
    written = _read_json(tmp_path / 'out/tokenizer_config.json')
    assert written['tokenizer_class'] == 'PreTrainedTokenizerFast'
    assert written['additional_special_tokens'] == extra
    assert not {'auto_map', 'extra_special_tokens'} & set(written)
    assert 'auto_map' not in _read_json(tmp_path / 'out/config.json')
    prompt = user_prompt('', 'Hi <|eom|>')
    assert text.load(str(tmp_path / 'out')).prompt_tokens(prompt) == lm.text.prompt_tokens(prompt)


@pytest.mark.parametrize('mask', [0o022, 0o077, 0o002])
def test_the_modes_of_files_follow_the_umask(tmp_path, model, mask):
    old = os.umask(mask)
    try:
        export.save(str(tmp_path / 'out'), *model)
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / 'out').iterdir()}
    assert set(modes.values()) == {0o666 & ~mask} and 'model.safetensors' in modes


def test_a_card_names_the_base_the_method_the_config_and_the_figures(tmp_path):
    config = irpo.get_config('smoke').to_dict()
    path = tmp_path / 'run'
    stage.claim_workdir(str(path), config, free=())
    evals = {'accuracy': {'value': 0.25, 'low': 0.2, 'high': 0.3, 'n': 300, 'length': 9.0}}
    for name in ('00', '01', '02'):
        (path / 'rounds' / name).mkdir(parents=True)
        (path / 'rounds' / name / 'evals.json').write_text(json.dumps(evals))
    hub = config | {'model': config['model'] | {'folder': 'some/model-1'}}
    card = export.model_card.of_run(str(path), hub, '01')
    assert card.startswith('---\nlibrary_name: transformers\nbase_model: some/model-1\n')
    assert 'task → sample → exact_answer → right_vs_wrong → dpo' in card
    assert '0.250  0.200  0.300' in card and '"seed": 0' in card
    assert [line.split()[0] for line in card.split('\n') if '0.250' in line] == ['0', '1']
    cached = '/x/models--some--model-1/snapshots/0a1b'
    assert export.model_card.base_name(cached) == 'some/model-1'
    assert 'base_model: some/model-1' in export.model_card.card(cached)
    assert 'base_model:' not in export.model_card.card('/x/mine') and 'mine' in (
        export.model_card.card('/x/mine')
    )


# --- adapters -------------------------------------------------------------------------------------


def _with_adapters(folder='tiny', rank=2, **options):
    """(lm, params) with adapters that change something."""
    lm, params = selfrew.load(folder, mesh={}, lora=rank, **options)
    blocks = params['blocks']
    for i, (name, value) in enumerate(sorted(blocks.items())):
        if name.endswith('lora_b'):
            blocks[name] = jax.random.normal(jax.random.key(i), value.shape) * 0.1
    return lm, params


def test_adapters_are_merged_and_bfloat16_is_half_as_large(tmp_path):
    lm, params = _with_adapters()
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


def test_adapters_go_out_as_a_peft_folder_and_come_back(tmp_path):
    lm, params = _with_adapters(rank=3, lora_alpha=5.0)
    export.save(str(tmp_path / 'out'), lm, params, adapters=True)
    assert not (tmp_path / 'out/model.safetensors').exists()
    fields = _read_json(tmp_path / 'out/adapter_config.json')
    assert (fields['r'], fields['lora_alpha'], fields['peft_type']) == (3, 5.0, 'LORA')
    assert fields['base_model_name_or_path'] == language_model.TINY
    again_lm, again = selfrew.load('tiny', mesh={}, adapter=str(tmp_path / 'out'))
    assert (again_lm.config.lora, again_lm.config.lora_alpha) == (3, 5.0)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    # Trained on, they are exported as those of the base again.
    export.save(str(tmp_path / 'again'), again_lm, again, adapters=True)
    for name in ('adapter_config.json', 'adapter_model.safetensors'):
        assert (tmp_path / 'again' / name).read_bytes() == (tmp_path / 'out' / name).read_bytes()


@pytest.fixture(params=['llama3', 'qwen2', 'gemma3', 'phi3'])
def family_model(request, tmp_path):
    """(torch's model of a family, its folder with a tokenizer)."""
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    name, size = request.param, len(make_tokenizer('chatml'))
    config = make_config(name, vocab_size=size)
    model = getattr(transformers, architecture(name))._from_config(config).eval()
    folder = tmp_path / 'base'
    model.save_pretrained(folder)
    make_tokenizer('chatml').save_pretrained(folder)
    return model, str(folder)


def _logits(lm, params):
    return np.asarray(lm.logits(params, [[5, 6, 7, 8, 9, 3]]))


def _torch_logits(model):
    torch = pytest.importorskip('torch')
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8, 9, 3]])).logits.float().numpy()


def test_peft_reads_adapters_as_they_are_here(tmp_path, family_model):
    peft = pytest.importorskip('peft')
    model, folder = family_model
    lm, params = _with_adapters(folder)
    out = str(tmp_path / 'out')
    export.save(out, lm, params, adapters=True)
    expected = _logits(lm, params)
    assert np.abs(expected - _torch_logits(model)).max() > 0.01 * np.abs(expected).max()
    adapted = _torch_logits(peft.PeftModel.from_pretrained(model, out).eval())
    np.testing.assert_allclose(adapted, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    again_lm, again = selfrew.load(folder, mesh={}, adapter=out)
    back = _logits(again_lm, again)
    np.testing.assert_allclose(back, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(
    'options',
    [
        {'target_modules': 'all-linear', 'r': 4, 'lora_alpha': 3},
        {'target_modules': ['o_proj', 'down_proj'], 'r': 3, 'use_rslora': True},
        {
            'target_modules': ['o_proj', 'down_proj'],
            'rank_pattern': {'down_proj': 5},
            'alpha_pattern': {'layers.1.mlp.down_proj': 2, 'o_proj': 7},
        },
        {'target_modules': ['o_proj'], 'layers_to_transform': [1]},
    ],
    ids=['all', 'rslora', 'patterns', 'one layer'],
)
def test_adapters_of_peft_are_read_as_there(tmp_path, family_model, options):
    peft, torch = pytest.importorskip('peft'), pytest.importorskip('torch')
    model, folder = family_model
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type='CAUSAL_LM', **options))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if 'lora_B' in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(tmp_path / 'adapter')
    lm, params = selfrew.load(folder, mesh={}, adapter=str(tmp_path / 'adapter'))
    expected = _torch_logits(adapted.eval())
    downs = [x for name, x in params['blocks'].items() if name.endswith('lora_a')]
    assert all(np.abs(layer).max() > 0 for x in downs for layer in x)  # that can learn
    np.testing.assert_allclose(
        _logits(lm, params), expected, atol=1e-5 * np.abs(expected).max(), rtol=0
    )


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'use_dora': True}, 'not supported: use_dora=True'),
        ({'bias': 'all'}, "bias='all'"),
        ({'modules_to_save': ['lm_head']}, r"modules_to_save=\['lm_head'\]"),
        ({'peft_type': 'IA3'}, "peft_type='IA3'; supported: LORA"),
    ],
)
def test_adapters_that_the_decoder_does_not_have_are_refused_by_name(tmp_path, fields, message):
    lm, params = _with_adapters()
    export.save(str(tmp_path / 'out'), lm, params, adapters=True)
    path = tmp_path / 'out/adapter_config.json'
    path.write_text(json.dumps(_read_json(path) | fields))
    with pytest.raises(ValueError, match=message) as caught:
        selfrew.load('tiny', mesh={}, adapter=str(tmp_path / 'out'))
    assert 'adapter_config.json' in str(caught.value)


def test_adapters_of_another_base_rank_or_folder_are_refused(tmp_path):
    lm, params = _with_adapters()
    export.save(str(tmp_path / 'out'), lm, params, adapters=True)
    small = write_folder(tmp_path, 'chatml', FITS)
    for folder, options, message in (
        (
            small,
            {'adapter': str(tmp_path / 'out')},
            r'q_proj is \(2, 96\) and \(96, 2\), expected',
        ),
        ('tiny', {'adapter': str(tmp_path / 'out'), 'lora': 5}, 'have the rank 2; leave lora at 0'),
        ('tiny', {'adapter': small}, 'holds no adapters: it has no adapter_config.json'),
        (str(tmp_path / 'out'), {}, 'it holds adapters: name their base in model.folder'),
    ):
        with pytest.raises(ValueError, match=message):
            selfrew.load(folder, mesh={}, **options)
    with pytest.raises(ValueError, match='this model has no adapters'):
        export.save(str(tmp_path / 'no'), *selfrew.load('tiny', mesh={}), adapters=True)


# --- what is refused, and what is left behind -----------------------------------------------------


def test_what_cannot_be_saved_is_refused(tmp_path, model):
    lm, params = model
    with pytest.raises(ValueError, match='is where the model came from'):
        selfrew.save(language_model.TINY, lm, params)
    selfrew.save(str(tmp_path / 'first'), lm, params)
    (tmp_path / 'file').write_text('')
    (tmp_path / 'a_run' / 'rounds').mkdir(parents=True)
    with pytest.raises(ValueError, match='is the folder of a run'):
        selfrew.save(str(tmp_path / 'a_run'), lm, params)
    for name in ('first', 'file', '.'):
        with pytest.raises(ValueError, match='is there and not an empty folder'):
            selfrew.save(str(tmp_path / name), lm, params)
    with pytest.raises(ValueError, match="dtype='int8': a folder holds float32 or bfloat16"):
        selfrew.save(str(tmp_path / 'new'), lm, params, dtype='int8')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a_run', 'file', 'first']


def test_an_export_that_fails_leaves_nothing_under_the_name(tmp_path, model):
    lm, params = model

    def fail():
        raise OSError('no space left')

    broken = params | {'blocks': params['blocks'] | {'up': fail}}
    with pytest.raises(OSError, match='no space'):
        export.save(str(tmp_path / 'out'), lm, broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('text', ['fsdp', 'fsdp=0', 'rows=2', 'fsdp=two', ''])
def test_a_mesh_of_another_form_is_refused_with_the_axes(text):
    with pytest.raises(ValueError, match='want sizes of data, fsdp, tensor, e.g. fsdp=4,tensor=2'):
        export.mesh_of(text)


# --- of a run -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_export_command_writes_a_turns_model_on_one_device_or_another_mesh(tmp_path):
    """The run had four devices, and the optimiser state is not read."""
    config = irpo.get_config('smoke')
    config.rounds, config.round.prompts.n, config.evals = 1, 8, {}
    config.model.lora, config.mesh.fsdp, config.mesh.tensor = 2, 2, 2
    run, out = tmp_path / 'run', tmp_path / 'out'
    loop.run(str(run), **config.to_dict())
    lm, params, name = export.load_turn(str(run))
    assert name == '01' and lm.mesh.size == 1
    _, wide, _ = export.load_turn(str(run), mesh={'data': 2, 'fsdp': 4})
    jax.tree.map(np.testing.assert_array_equal, wide, params)
    base = selfrew.load('tiny', mesh={}, lora=2)[1]
    changed = jax.tree.map(lambda x, y: bool((x != y).any()), params, base)
    assert changed['blocks']['up_lora_b']

    command = [sys.executable, '-m', 'selfrew.export', f'--workdir={run}', f'--folder={out}']
    one_device = os.environ | {'XLA_FLAGS': ''}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=one_device)
    assert result.returncode == 0, result.stderr
    assert f'turn 01 of {run} is in {out}, float32' in result.stdout
    assert hf.read_config(str(out)).lora == 0
    assert '## Method' in (out / 'README.md').read_text()
    _, exported = language_model.load(folder=str(out))
    merged = lora.merge_adapters(lm.config, params)
    jax.tree.map(np.testing.assert_array_equal, exported, merged)


def test_a_wrong_export_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    for flags, message in (
        ((f'--workdir={tmp_path}/no', '--folder=x'), 'is not a run: it has no config.json'),
        ((f'--workdir={tmp_path}/no', '--folder=x', '--mesh=a'), 'want sizes of data'),
        ((f'--workdir={tmp_path}',), 'required: --folder'),
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
