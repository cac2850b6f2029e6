"""Loading a model: where its folder comes from, what is refused and how, and onto which mesh."""

import dataclasses
import json
import os
import socket
import sys

import huggingface_hub
import jax
import numpy as np
import pytest
from chat_styles import FITS, make_tokenizer, write_folder, zero_params
from toys import SMALL

from selfrew.models import decoder, hf, language_model, text
from selfrew.shelves import prompts
from selfrew.types import user_prompt

# --- what loads -----------------------------------------------------------------------------------


def test_the_base_that_ships_is_small_and_loads(tiny):
    lm, params = tiny
    size = sum(entry.stat().st_size for entry in os.scandir(language_model.TINY))
    assert size <= 4 * 2**20
    assert hf.read_config(language_model.TINY) == lm.config
    shapes, _ = decoder.abstract_params(lm.module)
    jax.tree.map(lambda p, s: np.testing.assert_equal(p.shape, s.shape), params, shapes)
    assert len(lm.text.tokenizer) <= lm.config.vocab


def test_a_model_loads_onto_a_mesh_as_onto_one_device(tiny):
    _, params = tiny
    lm, sharded = language_model.load(folder='tiny', data=2, fsdp=2, tensor=2)
    jax.tree.map(np.testing.assert_array_equal, sharded, params)

    def check(leaf, expected):
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim)

    jax.tree.map(check, sharded, lm.param_shardings())


def test_a_local_folder_loads_without_a_network(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, 'gemma', FITS)

    def fail(*args, **kwargs):
        raise AssertionError('the network was asked')

    for name in ('connect', 'connect_ex'):
        monkeypatch.setattr(socket.socket, name, fail)
    monkeypatch.setattr(socket, 'getaddrinfo', fail)
    lm, params = language_model.load(folder=folder)
    assert lm.text.prompt_tokens(user_prompt('a', 'Hi'))[0] == lm.text.bos
    np.testing.assert_equal(params['embed'].shape, (272, 32))


def test_a_template_in_the_config_replaces_that_of_the_folder_or_a_missing_one(tmp_path):
    folder = write_folder(tmp_path, 'llama2', FITS)
    template = tmp_path / 'own.jinja'
    template.write_text("{% for m in messages %}{{ 'Q: ' + m['content'] + '\\nA: ' }}{% endfor %}")
    prompt = user_prompt('a', 'Hi')
    for has_template in (True, False):
        if not has_template:
            os.remove(os.path.join(folder, 'chat_template.jinja'))
        lm, _ = language_model.load(folder=folder, chat_template=str(template))
        assert lm.text.prompt_text(prompt) == 'Q: Hi\nA: '
        assert lm.text.prompt_tokens(prompt) == [lm.text.bos, *lm.text.encode('Q: Hi\nA: ')]
        # This template writes no end of a turn: the tokenizer's EOS is taken.
        assert lm.text.eos == lm.text.tokenizer.convert_tokens_to_ids('</s>')


# --- hub names ------------------------------------------------------------------------------------


def test_a_hub_name_is_downloaded_without_second_copies_of_its_weights(tmp_path, monkeypatch):
    requested = {}

    def download(name, allow_patterns, ignore_patterns):
        requested.update(name=name, allow=allow_patterns, ignore=ignore_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    assert language_model.resolve_folder('Some-Org/a.model_1') == str(tmp_path)
    assert requested['name'] == 'Some-Org/a.model_1'
    wanted = [
        'config.json',
        'model-00001-of-00002.safetensors',
        'model.safetensors.index.json',
        'tokenizer.model',
        'chat_template.jinja',
    ]
    unwanted = ['consolidated.safetensors', 'original/params.json', 'pytorch_model.bin']
    downloaded = huggingface_hub.utils.filter_repo_objects(
        wanted + unwanted,
        allow_patterns=requested['allow'],
        ignore_patterns=requested['ignore'],
    )
    assert list(downloaded) == wanted


def test_a_hub_name_that_cannot_be_downloaded_is_refused_in_a_sentence(monkeypatch):
    def download(*_, **__):
        raise OSError('no route to the hub\nand a long story')

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    message = r"^'org/model' is not a local folder, .*\(no route to the hub\)$"
    with pytest.raises(FileNotFoundError, match=message):
        language_model.resolve_folder('org/model')


# --- what is refused ------------------------------------------------------------------------------


def test_unknown_folders_dtypes_and_meshes_are_refused():
    with pytest.raises(FileNotFoundError, match="no model folder 'nowhere'"):
        language_model.load(folder='nowhere')
    with pytest.raises(ValueError, match="no dtype 'float16'; there are: float32, bfloat16"):
        language_model.load(folder='tiny', dtype='float16')
    with pytest.raises(ValueError, match='needs 99 devices'):
        language_model.load(folder='tiny', data=99)


@pytest.mark.parametrize(
    'family, dtype, message',
    [
        ('Llama', 'float32', 'computes in bfloat16, not float32: use xla, or dtype bfloat16$'),
        ('Gemma2', 'bfloat16', 'cannot soft-cap, and .* has attn_logit_softcapping=50.0: use xla$'),
    ],
)
def test_what_cudnn_cannot_compute_is_refused_with_the_reason(
    tmp_path, monkeypatch, family, dtype, message
):
    fields = hf.read_fields(language_model.TINY) | {'architectures': [f'{family}ForCausalLM']}
    hf.write_json(str(tmp_path), 'config.json', fields)
    monkeypatch.setattr(language_model, '_check_platform', lambda attention, mesh: None)
    with pytest.raises(ValueError, match=f"attention='cudnn' {message}"):
        language_model.load(folder=str(tmp_path), attention='cudnn', dtype=dtype)


def test_a_preset_for_another_model_is_refused_with_the_differences():
    shape = hf.read_fields(language_model.TINY) | {'num_hidden_layers': 5}
    message = 'model.shape is not that of .*tiny_base: layers 5, there 3$'
    with pytest.raises(ValueError, match=message):
        language_model.load(folder='tiny', shape=shape)


@pytest.fixture
def nothing_allocated(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError('something was put on a device')

    monkeypatch.setattr(jax, 'make_array_from_callback', fail)
    monkeypatch.setattr(jax, 'device_put', fail)


def _keep(folder):
    pass


def _remove(name):
    def remove(folder):
        os.remove(os.path.join(folder, name))

    return remove


def _remove_tokenizer(folder):
    for entry in os.scandir(folder):
        if 'token' in entry.name:
            os.remove(entry.path)


def _empty_config(folder):
    os.truncate(os.path.join(folder, 'config.json'), 0)


def _cut_tensors(folder):
    path = os.path.join(folder, 'model.safetensors')
    os.truncate(path, os.path.getsize(path) - 100)


def _lose_a_shard(folder):
    hf.write(folder, hf.read_fields(folder), FITS, zero_params(FITS), shard_bytes=30_000)
    names = os.listdir(folder)
    os.remove(os.path.join(folder, next(n for n in names if n.startswith('model-00002-of-'))))


# What is wrong -> (how the folder is damaged, options of `load`, the message).
REFUSED = {
    'a file cut short': (
        _cut_tensors,
        {},
        r'model\.safetensors is cut short or missing .*download or copy it again',
    ),
    'a file lost': (
        _lose_a_shard,
        {},
        r'model-00002-of-\d+\.safetensors is cut short or missing .*copy it again',
    ),
    'no config': (_remove('config.json'), {}, 'not a Hugging Face checkpoint'),
    'no json': (_empty_config, {}, 'config.json is not JSON'),
    'no tensors': (_remove('model.safetensors'), {}, 'no .safetensors file in'),
    'no tokenizer': (_remove_tokenizer, {}, 'its tokenizer cannot be read'),
    'no template': (
        _remove('chat_template.jinja'),
        {},
        'no chat template .*name a jinja file in model.chat_template',
    ),
    'no such template': (
        _keep,
        {'chat_template': 'nowhere.jinja'},
        "model.chat_template='nowhere.jinja' is neither a file",
    ),
    'positions': (
        _keep,
        {'max_length': 999},
        'max_length=999, and the model has positions for 1 to 128',
    ),
    'no positions': (
        _keep,
        {'max_length': 0},
        'max_length=0, and the model has positions for 1 to 128',
    ),
    'mesh': (_keep, {'fsdp': 3}, 'needs 3 devices .*; choose a mesh whose product divides 8'),
}


@pytest.mark.parametrize('problem', REFUSED)
def test_what_cannot_be_loaded_is_refused_in_a_sentence_before_anything_is_allocated(
    tmp_path, problem, request
):
    damage, options, message = REFUSED[problem]
    folder = write_folder(tmp_path, 'chatml', FITS)
    damage(folder)
    request.getfixturevalue('nothing_allocated')
    with pytest.raises(ValueError, match=message) as caught:
        language_model.load(folder=folder, **options)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 400
    if problem != 'mesh':
        assert folder in str(caught.value) or 'template' in problem


def test_a_turn_whose_end_has_no_row_in_the_embedding_is_refused_before_its_tensors_are_opened(
    tmp_path, monkeypatch
):
    size = len(make_tokenizer('chatml'))
    folder = write_folder(tmp_path, 'chatml', dataclasses.replace(SMALL, vocab=size - 1))
    monkeypatch.setattr(hf, 'read_params', lambda *args: pytest.fail('read'))
    message = rf"'<\|im_end\|>' has the id {size - 1}, and the embedding {size - 1} rows; resize"
    with pytest.raises(ValueError, match=message) as caught:
        language_model.load(folder=folder)
    assert folder in str(caught.value)


def test_tokens_beyond_the_embedding_are_refused_only_in_use_and_by_name(tmp_path):
    tokenizer = make_tokenizer('chatml')
    size = len(tokenizer)
    folder = write_folder(tmp_path, 'chatml', dataclasses.replace(SMALL, vocab=size))
    tokenizer.add_special_tokens({'additional_special_tokens': ['<|image|>']})
    tokenizer.add_tokens(['zebra'])
    tokenizer.save_pretrained(folder)
    lm, _ = language_model.load(folder=folder)
    assert len(lm.text) == size + 2 and lm.text.vocab == size
    assert max(lm.text.prompt_tokens(user_prompt('a', 'What does <|image|> do?'))) < size
    message = f"the token 'zebra' has the id {size + 1}, and the embedding {size} rows"
    for use in (
        lambda: lm.text.prompt_tokens(user_prompt('a', 'A zebra')),
        lambda: lm.text.check_prompt(user_prompt('a', 'A zebra')),
        lambda: lm.text.conversation_tokens(user_prompt('a', 'A'), 'zebra'),
        lambda: lm.text.response_tokens('zebra', 'stop'),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_a_row_that_needs_a_token_beyond_the_embedding_is_a_bad_row(tmp_path, caplog):
    tokenizer = make_tokenizer('chatml')
    folder = write_folder(tmp_path, 'chatml', dataclasses.replace(SMALL, vocab=len(tokenizer)))
    tokenizer.add_tokens(['zebra'])
    tokenizer.save_pretrained(folder)
    lm, _ = language_model.load(folder=folder)
    rows = tmp_path / 'rows.jsonl'
    rows.write_text('{"prompt": "A cow"}\n{"prompt": "A zebra"}\n')
    (prompt,) = prompts.records(lm, None, jax.random.key(0), source=str(rows))
    assert prompt.text == 'A cow'
    assert "'zebra' has the id" in caplog.text


def test_a_sentencepiece_model_without_the_package_names_the_package(tmp_path, monkeypatch):
    (tmp_path / 'tokenizer.model').write_bytes(b'\n\x0e\n\x05<unk>')
    monkeypatch.setitem(sys.modules, 'sentencepiece', None)
    message = r"needs the package sentencepiece: pip install 'selfrew\[sentencepiece\]'"
    with pytest.raises(ValueError, match=message):
        text.load(str(tmp_path))


def test_a_sentencepiece_model_is_read_where_the_package_is(tmp_path):
    sentencepiece = pytest.importorskip('sentencepiece')
    words = tmp_path / 'words.txt'
    words.write_text('\n'.join(f'{i} apples and {7 * i} pears' for i in range(500)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(words),
        model_prefix=str(tmp_path / 'tokenizer'),
        vocab_size=300,
        model_type='bpe',
        byte_fallback=True,
        minloglevel=2,
    )
    special = {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>'}
    template = "{{ messages[0]['content'] }}{{ eos_token }}"
    config = {'tokenizer_class': 'LlamaTokenizer', 'chat_template': template} | special
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
    loaded = text.load(str(tmp_path))
    tokens = loaded.encode('12 apples')
    assert 1 < len(tokens) <= 9 and loaded.decode(tokens) == '12 apples'
