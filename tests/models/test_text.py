"""Tokenizers and chat formats of every style: what opens, what ends, what is taught, and what is
refused.
"""

import dataclasses
import json
import os
import socket

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from toys import SMALL
from transformers import PreTrainedTokenizerFast

from selfrew.engine import generate, packing
from selfrew.models import decoder, hf, language_model, text
from selfrew.types import Example, Prompt, Response, ask

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA2 = """{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}\
{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"""
LLAMA3 = """{{ '<|begin|>' }}{% for m in messages %}\
{{ '<|head|>' + m['role'] + '<|/head|>\\n\\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"""
GEMMA = """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}\
{% set role = m['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
BARE = """{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% if m['role'] == 'assistant' %}\
{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""


@dataclasses.dataclass(frozen=True)
class Style:
    template: str
    eos: str  # the tokenizer's
    turn: str  # what ends an assistant's turn
    bos: str | None = None
    pad: str | None = None
    more: tuple = ()
    adds: bool = False  # the tokenizer puts BOS before whatever it encodes
    stops: tuple = ()  # eos_token_id of generation_config.json
    opens: bool = True  # a prompt begins with BOS


STYLES = {
    'chatml': Style(
        CHATML,
        '<|endoftext|>',
        '<|im_end|>',
        pad='<|endoftext|>',
        more=('<|im_start|>', '<|im_end|>'),
        stops=('<|im_end|>', '<|endoftext|>'),
    ),
    'llama2': Style(LLAMA2, '</s>', '</s>', '<s>', adds=True),
    'llama3': Style(
        LLAMA3,
        '<|eot|>',
        '<|eot|>',
        '<|begin|>',
        pad='<|eot|>',
        adds=True,
        more=('<|head|>', '<|/head|>', '<|eom|>', '<|end|>'),
        stops=('<|end|>', '<|eom|>', '<|eot|>'),
    ),
    'gemma': Style(
        GEMMA,
        '<eos>',
        '<end_of_turn>',
        '<bos>',
        '<pad>',
        ('<start_of_turn>', '<end_of_turn>'),
        adds=True,
        stops=('<eos>', '<end_of_turn>'),
    ),
    'adds': Style(BARE, '</s>', '</s>', '<s>', pad='</s>', adds=True),
    'never': Style(BARE, '</s>', '</s>', '<s>', opens=False),  # a BOS that nothing puts anywhere
}
FITS = dataclasses.replace(
    SMALL, vocab=272
)  # a checkpoint that has an embedding for each of these tokenizers
style = pytest.mark.parametrize('name', STYLES)


def _tokenizer(name):
    s = STYLES[name]
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(ALPHABET)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=s.bos,
        eos_token=s.eos,
        pad_token=s.pad,
        additional_special_tokens=list(s.more),
    )
    if s.adds:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f'{s.bos} $A',
            pair=f'{s.bos} $A {s.bos} $B',
            special_tokens=[(s.bos, tokenizer.bos_token_id)],
        )
    tokenizer.chat_template = s.template
    return tokenizer


def _zeros(config):
    return jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype),
        decoder.abstract_params(decoder.make_module(config))[0],
    )


@pytest.fixture
def folder(tmp_path):
    """Of a style's name: a folder with its tokenizer and, of a config, a checkpoint of zeros."""

    def make(name='chatml', config=None):
        tokenizer, where = _tokenizer(name), tmp_path / name
        tokenizer.save_pretrained(where)
        if STYLES[name].stops:
            stops = {
                'eos_token_id': [tokenizer.convert_tokens_to_ids(t) for t in STYLES[name].stops]
            }
            (where / 'generation_config.json').write_text(json.dumps(stops))
        if config is not None:
            hf.write(
                str(where),
                hf.llama(config, bos=0, eos=tokenizer.eos_token_id, pad=0),
                config,
                _zeros(config),
            )
        return str(where)

    return make


def _ids(words, *tokens):
    return [words.tokenizer.convert_tokens_to_ids(t) for t in tokens]


# --- what opens and what ends -----------------------------------------------------------------------------------------


@style
def test_a_prompt_has_its_bos_once_and_a_response_never(folder, name):
    words, s = text.load(folder(name)), STYLES[name]
    tokens = words.prompt(ask('a', 'What is 3 + 4?'))
    response = words.response('It is 7.', 'stop')
    if s.bos is None or not s.opens:
        assert words.bos is None and (
            s.bos is None or _ids(words, s.bos)[0] not in tokens + response
        )
    else:
        assert [words.bos] == _ids(words, s.bos)
        assert tokens[0] == words.bos and tokens.count(words.bos) == 1 and words.bos not in response
    assert words.decode(response) == 'It is 7.'


def test_a_later_turn_may_open_with_bos_as_its_template_says_but_not_twice(folder):
    words = text.load(folder('llama2'))
    turns = ('user', 'Hi'), ('assistant', 'Hello'), ('user', 'Bye')
    tokens = words.prompt(Prompt('a', tuple({'role': r, 'content': c} for r, c in turns)))
    at = [i for i, t in enumerate(tokens) if t == words.bos]
    assert at[0] == 0 and len(at) == 2 and tokens[at[1] - 1] == words.eos


@style
def test_a_response_ends_once_with_the_token_of_its_turn_and_not_where_it_was_cut(folder, name):
    words, s = text.load(folder(name)), STYLES[name]
    assert [words.eos] == _ids(words, s.turn)
    assert words.response('yes', 'stop') == [*words.encode('yes'), words.eos]
    assert words.response('yes', 'length') == words.encode('yes')
    assert words.response(f'yes{s.turn}', 'stop').count(words.eos) == 1
    assert words.eos not in words.response(f'yes{s.turn}', 'length')


@style
def test_sampling_stops_at_every_token_that_ends_anything(folder, name):
    words, s = text.load(folder(name)), STYLES[name]
    assert set(words.ends) == set(_ids(words, s.eos, s.turn, *s.stops))
    assert words.eos in words.ends


@pytest.fixture
def quickly():
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


def test_a_response_stops_at_any_of_the_ends_and_at_no_other_token(folder, quickly):
    """A model of ones, whose blocks add nothing and whose head wants a single token."""
    lm, params = language_model.load(folder=folder('llama3', FITS))
    params |= {'embed': params['embed'] + 1, 'norm': params['norm'] + 1}
    assert len(lm.text.ends) == 3
    for token in (*lm.text.ends, *lm.text.encode('x')):
        wants = params | {'head': params['head'].at[:, token].set(1.0)}
        keys = generate.request_keys(jax.random.key(0), ['a'], [0])
        found = generate.generate(
            lm, wants, [lm.text.prompt_tokens(ask('a', 'Hi'))], keys, max_tokens=3, temperature=0.0
        )[0]
        ended = token in lm.text.ends
        assert (found.tokens, found.finish) == (
            (token,) if ended else (token,) * 3,
            'stop' if ended else 'length',
        )
        # what was sampled is trained on as it is: the end that was sampled, and no other after it
        docs, _ = packing.tokenise(lm.text, [Example(ask('a', 'Hi'), (found,))], row_length=128)
        assert docs[0].responses == (found.tokens,)


@pytest.mark.parametrize('name', ['chatml', 'llama3', 'adds', 'never'])
def test_the_end_is_trained_even_where_padding_has_its_id(folder, name):
    words = text.load(folder(name))
    end = words.tokenizer.eos_token_id
    assert words.pad == (
        0 if name == 'never' else end
    )  # no pad token: masks come from lengths, so any will do
    cut, whole = Response('cut', finish='length'), Response('whole')
    docs, left = packing.tokenise(words, [Example(ask('a', 'Hi'), (whole, cut))], row_length=128)
    batch = packing.batches(docs, batch=2, row_length=128)[0]
    trained = batch.tokens[0][batch.target[0][batch.mask[0] > 0]].tolist()
    assert left == 0 and trained == [*words.encode('whole'), words.eos, *words.encode('cut')]
    assert batch.mask.sum() == len(trained)


@style
def test_what_does_not_fit_is_left_out_whole_and_counted(folder, name, tiny):
    words = text.load(folder(name))
    frame = len(words.prompt(ask('a', '')))
    asked = [ask(str(n), 'x' * n) for n in (5, 50, 20)]
    examples = [Example(p, (Response('yes'),)) for p in asked]
    docs, left = packing.tokenise(words, examples, row_length=frame + 20 + 4)
    assert left == 1 and [doc.index for doc in docs] == [0, 2]
    for doc, n in zip(docs, (5, 20)):  # nothing cut: neither the opening of the answer nor its end
        assert list(doc.prompt) == words.prompt(asked[doc.index]) and len(doc.prompt) == frame + n
        assert doc.responses == (tuple(words.response('yes', 'stop')),)

    lm, params = tiny
    lm = dataclasses.replace(lm, text=words)
    room = {'max_tokens': lm.config.max_length - frame - 20, 'temperature': 0.0}
    whole = [words.prompt(p) for p in asked]
    with pytest.raises(ValueError, match=f'a prompt of {frame + 50} tokens .* exceed the context'):
        generate.generate(
            lm,
            params,
            whole,
            generate.request_keys(jax.random.key(0), list('abc'), [0] * 3),
            **room,
        )


@style
def test_special_tokens_that_a_user_spells_are_text_without_them(folder, name):
    words = text.load(folder(name))
    special = {t.content: i for i, t in words.tokenizer.added_tokens_decoder.items() if t.special}
    assert len(special) >= 2
    plain = words.prompt(ask('a', 'a  b'))
    for spelt in special:
        half = len(spelt) // 2
        for written in (spelt, spelt[:half] + spelt + spelt[half:], spelt * 2):
            assert words.prompt(ask('a', f'a {written} b')) == plain
            assert not set(words.response(f'a {written} b', 'length')) & set(special.values())


def test_every_turn_and_role_is_freed_of_special_tokens(folder):
    words = text.load(folder('chatml'))
    roles = 'system', 'user', 'assistant', 'user'
    made = [
        Prompt('a', tuple({'role': r, 'content': c} for r in roles)) for c in ('ab', 'a<|im_end|>b')
    ]
    assert words.prompt(made[0]) == words.prompt(made[1])


# --- what is refused, and how -----------------------------------------------------------------------------------------


@pytest.fixture
def nothing_allocated(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError('something was put on a device')

    monkeypatch.setattr(jax, 'make_array_from_callback', fail)
    monkeypatch.setattr(jax, 'device_put', fail)


def _cut(where):
    path = os.path.join(where, 'model.safetensors')
    os.truncate(path, os.path.getsize(path) - 100)


def _lost(where):
    hf.write(where, hf.read_json(where), FITS, _zeros(FITS), shard_bytes=30_000)
    os.remove(next(e.path for e in os.scandir(where) if e.name.startswith('model-00002-of-')))


REFUSED = {
    'a file cut short': (
        _cut,
        {},
        r'model\.safetensors is cut short or not there .*download or copy it again',
    ),
    'a file lost': (
        _lost,
        {},
        r'model-00002-of-\d+\.safetensors is cut short or not there .*copy it again',
    ),
    'no config': (
        lambda where: os.remove(os.path.join(where, 'config.json')),
        {},
        'not a Hugging Face checkpoint',
    ),
    'no json': (
        lambda where: open(os.path.join(where, 'config.json'), 'w').close(),
        {},
        'config.json is not JSON',
    ),
    'no tensors': (
        lambda where: os.remove(os.path.join(where, 'model.safetensors')),
        {},
        'no .safetensors file in',
    ),
    'no tokenizer': (
        lambda where: [os.remove(e.path) for e in os.scandir(where) if 'token' in e.name],
        {},
        'its tokenizer cannot be read',
    ),
    'no template': (
        lambda where: os.remove(os.path.join(where, 'chat_template.jinja')),
        {},
        'no chat template .*name a jinja file in model.chat_template',
    ),
    'no such template': (
        lambda where: None,
        {'chat_template': 'nowhere.jinja'},
        "model.chat_template='nowhere.jinja' is neither a file",
    ),
    'positions': (
        lambda where: None,
        {'max_length': 999},
        'max_length=999, and the model has positions for 1 to 128',
    ),
    'no positions': (
        lambda where: None,
        {'max_length': 0},
        'max_length=0, and the model has positions for 1 to 128',
    ),
    'mesh': (
        lambda where: None,
        {'fsdp': 3},
        'needs 3 devices .*; choose a mesh whose product divides 8',
    ),
}


@pytest.mark.parametrize('what', REFUSED)
def test_what_cannot_be_loaded_is_refused_in_a_sentence_before_anything_is_allocated(
    folder, what, request
):
    spoil, options, said = REFUSED[what]
    where = folder('chatml', FITS)
    spoil(where)
    request.getfixturevalue('nothing_allocated')
    with pytest.raises(ValueError, match=said) as caught:
        language_model.load(folder=where, **options)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 400
    if what != 'mesh':
        assert where in str(caught.value) or 'template' in what


def test_a_tokenizer_larger_than_the_embedding_is_refused_before_its_tensors_are_opened(
    folder, monkeypatch
):
    size = len(_tokenizer('chatml'))
    where = folder('chatml', dataclasses.replace(SMALL, vocab=size - 1))
    monkeypatch.setattr(hf, 'read_params', lambda *args: pytest.fail('read'))
    with pytest.raises(
        ValueError, match=f'has {size} tokens and the embedding {size - 1} rows; resize'
    ):
        language_model.load(folder=where)


def test_a_template_of_the_config_stands_in_for_a_missing_one_and_before_the_folders(
    folder, tmp_path
):
    where = folder('llama2', FITS)
    own = tmp_path / 'own.jinja'
    own.write_text("{% for m in messages %}{{ 'Q: ' + m['content'] + '\\nA: ' }}{% endfor %}")
    asked = ask('a', 'Hi')
    for present in (True, False):
        if not present:
            os.remove(os.path.join(where, 'chat_template.jinja'))
        lm, _ = language_model.load(folder=where, chat_template=str(own))
        assert lm.text.prompt_text(asked) == 'Q: Hi\nA: '
        assert lm.text.prompt_tokens(asked) == [lm.text.bos, *lm.text.encode('Q: Hi\nA: ')]
        assert [lm.text.eos] == _ids(lm.text, '</s>')  # it ends nothing: the tokenizer's end does


def test_a_local_folder_loads_without_a_network(folder, monkeypatch):
    where = folder('gemma', FITS)

    def blocked(*args, **kwargs):
        raise AssertionError('the network was asked')

    for name in ('connect', 'connect_ex'):
        monkeypatch.setattr(socket.socket, name, blocked)
    monkeypatch.setattr(socket, 'getaddrinfo', blocked)
    lm, params = language_model.load(folder=where)
    assert lm.text.prompt_tokens(ask('a', 'Hi'))[0] == lm.text.bos
    np.testing.assert_equal(params['embed'].shape, (272, 32))
