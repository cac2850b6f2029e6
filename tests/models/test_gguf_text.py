"""The tokenizer of a GGUF file encodes as that of transformers, and a real file loads whole."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tokenizers
import transformers
from real_model import smollm2_or_skip

from selfrew import export
from selfrew.models import decoder, hf, language_model, text
from selfrew.types import Prompt

pytest.importorskip('gguf')
import gguf_files

TEXTS = [
    "It's 3.14159 or 12345678, isn't it?",
    '  two spaces,\ttabs\n\n\nand   runs  ',
    'naïve café, Здравствуй, 日本語のテキスト, 🙂🙃',
    'def f(x):\n    return x ** 2  # CamelCase IT’S HTTPServer\r\n',
    'a/b//c\n/d 1/2 ½ ²',
    '',
    ' ',
    'words only',
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)
CHAT = [{'role': 'user', 'content': 'Say <|im_end|> 123 times.'}]
PRETOKENIZERS = ['gpt-2', 'llama-bpe', 'qwen2', 'tekken', 'gpt-4o', 'dbrx', 'smollm']


def _byte_level(pre, size=500):
    """(keys of a byte-level vocabulary trained on TEXTS, its control tokens first)."""
    control = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<｜end｜>']
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=control,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(bpe.to_str())['model']
    tokens = sorted(model['vocab'], key=model['vocab'].get)
    return {
        'ggml.model': 'gpt2',
        'ggml.pre': pre,
        'ggml.tokens': [*tokens, '<think>'],
        'ggml.token_type': [3] * len(control) + [1] * (len(tokens) - len(control)) + [4],
        'ggml.merges': [' '.join(merge) for merge in model['merges']],
        'ggml.bos_token_id': 1,
        'ggml.eos_token_id': 0,
        'ggml.eot_token_id': 2,
        'ggml.padding_token_id': 0,
        'chat_template': TEMPLATE,
    }


def _sentencepiece(**keys):
    """The keys of a vocabulary of SentencePiece, with a score for each piece and no merges."""
    control = ['<unk>', '<s>', '</s>', '<|im_end|>']
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, show_progress=False)
    bpe.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(bpe.to_str())['model']
    pieces = sorted(model['vocab'], key=model['vocab'].get)
    made = [''.join(merge) for merge in model['merges']]
    pieces = made + [piece for piece in pieces if piece not in made]
    in_bytes = [f'<0x{i:02X}>' for i in range(256)]
    return {
        'ggml.model': 'llama',
        'ggml.pre': 'default',
        'ggml.tokens': control + in_bytes + pieces,
        'ggml.scores': [0.0] * 260 + [-float(i) for i in range(len(pieces))],
        'ggml.token_type': [2, 3, 3, 3] + [6] * 256 + [1] * len(pieces),
        'ggml.bos_token_id': 1,
        'ggml.eos_token_id': 2,
        'ggml.unknown_token_id': 0,
        'chat_template': TEMPLATE.replace('<|im_start|>', ''),
        **{key.replace('__', '.'): value for key, value in keys.items()},
    }


def _write(path, keys, architecture='llama'):
    """A file of this tokenizer, whose model transformers can make a config of."""
    fields = {'block_count': 1, 'context_length': 64, 'embedding_length': 8}
    fields |= {'feed_forward_length': 8, 'attention.head_count': 1, 'attention.head_count_kv': 1}
    fields = {f'{architecture}.{key}': value for key, value in fields.items()}
    fields |= {f'{architecture}.attention.layer_norm_rms_epsilon': 1e-5}
    fields |= {f'tokenizer.{key}': value for key, value in keys.items()}
    embedding = np.zeros((len(keys['ggml.tokens']), 8), np.float32)
    gguf_files.write_raw(path, architecture, fields, {'token_embd.weight': (embedding, None)})


def _theirs(path):
    """The tokenizer that transformers makes of the file."""
    pytest.importorskip('torch')
    return transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


@pytest.mark.parametrize('pre', PRETOKENIZERS)
def test_a_byte_level_vocabulary_encodes_as_in_transformers(tmp_path, pre):
    path = tmp_path / 'x.gguf'
    _write(path, _byte_level(pre), 'qwen2')
    tokenizer, theirs = hf.gguf_tokenizer(str(path)), _theirs(path)
    for words in [*TEXTS, '<|im_start|>user\nhi <think>so</think>']:
        if pre == 'smollm':  # whose digits transformers does not cut off one by one
            words = ''.join(c for c in words if not c.isnumeric())
        tokens = tokenizer.encode(words, add_special_tokens=False)
        assert tokens == theirs.encode(words, add_special_tokens=False), words
        assert tokenizer.decode(tokens) == words


@pytest.mark.parametrize('architecture', ['llama', 'gemma2', 'gemma3', 'phi3'])
def test_a_sentencepiece_vocabulary_encodes_as_in_transformers(tmp_path, architecture):
    path = tmp_path / 'x.gguf'
    keys = _sentencepiece()
    if architecture.startswith('gemma'):  # has runs of spaces, which its files hold as such
        for name, values in {
            'tokens': ['  ', '   '],
            'scores': [-9.0] * 2,
            'token_type': [4] * 2,
        }.items():
            keys[f'ggml.{name}'] = keys[f'ggml.{name}'] + values
    _write(path, keys, architecture)
    tokenizer, theirs = hf.gguf_tokenizer(str(path)), _theirs(path)
    assert len(tokenizer) == len(keys['ggml.tokens'])
    for words in [*TEXTS, '<s>hi<|im_end|>hi']:
        tokens = tokenizer.encode(words, add_special_tokens=False)
        assert tokens == theirs.encode(words, add_special_tokens=False), words
        assert tokenizer.encode(words) == theirs.encode(words), words
        assert tokenizer.decode(tokens) == theirs.decode(tokens), words


def test_a_vocabulary_without_a_space_in_front_adds_none(tmp_path):
    _write(tmp_path / 'x.gguf', _sentencepiece(ggml__add_space_prefix=False))
    tokenizer = hf.gguf_tokenizer(str(tmp_path / 'x.gguf'))
    tokens = tokenizer.encode('words', add_special_tokens=False)
    assert not tokenizer.convert_ids_to_tokens(tokens)[0].startswith('▁')
    assert tokenizer.decode(tokens) == 'words'


def test_digits_are_cut_one_by_one_where_the_vocabulary_says_so(tmp_path):
    _write(tmp_path / 'x.gguf', _byte_level('smollm'))
    tokenizer = hf.gguf_tokenizer(str(tmp_path / 'x.gguf'))
    assert tokenizer.tokenize('12345678') == list('12345678')


@pytest.mark.parametrize(
    'keys, bos',
    [
        (_byte_level('qwen2'), []),
        (_byte_level('llama-bpe'), [1]),
        (_byte_level('llama-bpe') | {'ggml.add_bos_token': False}, []),
        (_byte_level('qwen2') | {'ggml.add_bos_token': True}, [1]),
        (_sentencepiece(), [1]),
    ],
)
def test_bos_opens_a_text_where_the_file_or_its_kind_says_so(tmp_path, keys, bos):
    _write(tmp_path / 'x.gguf', keys)
    assert hf.gguf_tokenizer(str(tmp_path / 'x.gguf')).encode('') == bos


def test_a_chat_stops_at_the_end_of_a_turn_and_of_a_text(tmp_path):
    _write(tmp_path / 'x.gguf', _byte_level('qwen2') | {'ggml.eot_token_id': 3})
    format = text.load(str(tmp_path / 'x.gguf'))
    assert (format.bos, format.eos, format.pad) == (1, 2, 0)  # the template opens with 1
    assert format.stop_tokens == (0, 2, 3)
    tokens = format.prompt_tokens(Prompt('a', CHAT))
    assert tokens.count(2) == 1  # the template's, and not the one that the message spells


def test_a_tokenizer_is_the_same_after_it_was_saved(tmp_path):
    for name, keys in {'bytes': _byte_level('tekken'), 'pieces': _sentencepiece()}.items():
        path, folder = tmp_path / f'{name}.gguf', tmp_path / name
        _write(path, keys)
        tokenizer = hf.gguf_tokenizer(str(path))
        tokenizer.save_pretrained(folder)
        config = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM']}
        (folder / 'config.json').write_text(json.dumps(config))
        again = transformers.AutoTokenizer.from_pretrained(folder)
        for words in TEXTS:
            assert again.encode(words) == tokenizer.encode(words)
        options = {'tokenize': False}
        expected = tokenizer.apply_chat_template(CHAT, **options)
        assert again.apply_chat_template(CHAT, **options) == expected
        for role in ('bos_token', 'eos_token', 'pad_token', 'unk_token'):
            assert getattr(again, role) == getattr(tokenizer, role)


@pytest.mark.parametrize(
    'keys, message',
    [
        (
            {'ggml.pre': 'chameleon'},
            "the pre-tokenizer 'chameleon' is not supported; supported: gpt",
        ),
        (
            {'ggml.model': 'bert'},
            "a vocabulary of kind 'bert' is not supported; supported: gpt2, llama",
        ),
    ],
)
def test_a_tokenizer_that_is_not_known_is_refused_by_name(tmp_path, keys, message):
    _write(tmp_path / 'x.gguf', _byte_level('qwen2') | keys)
    with pytest.raises(ValueError, match=message):
        text.load(str(tmp_path / 'x.gguf'))


def test_a_file_without_a_chat_template_is_refused_and_takes_one(tmp_path):
    keys = _byte_level('qwen2')
    del keys['chat_template']
    _write(tmp_path / 'x.gguf', keys)
    with pytest.raises(ValueError, match='x.gguf: the tokenizer has no chat template'):
        text.load(str(tmp_path / 'x.gguf'))
    assert text.load(str(tmp_path / 'x.gguf'), 'plain').prompt_tokens(Prompt('a', CHAT))


@pytest.mark.slow
def test_a_real_file_is_the_folder_of_the_same_numbers(tmp_path):
    """The folder has the numbers of the quantised file, read by a program of its own."""
    model = smollm2_or_skip()
    lm, params = language_model.load(folder=model.gguf)
    expected_lm, expected = language_model.load(folder=model.folder)
    assert lm.config == expected_lm.config
    _assert_equal(params, expected)
    _assert_equal_text(lm.text, expected_lm.text, f'{model.folder}/tokenizer.json')

    export.save(str(tmp_path / 'out'), lm, params)
    again_lm, again = language_model.load(folder=str(tmp_path / 'out'))
    assert again_lm.config == lm.config
    _assert_equal(again, params)
    _assert_equal_text(again_lm.text, lm.text, str(tmp_path / 'out' / 'tokenizer.json'))
    generation = json.loads((tmp_path / 'out' / 'generation_config.json').read_text())
    assert generation == {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 2}


def _assert_equal(params, expected):
    for (path, x), y in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(expected)):
        assert np.array_equal(x, y), path


def _assert_equal_text(format, expected, tokenizer_json):
    for name in ('bos', 'eos', 'pad', 'stop_tokens'):
        assert getattr(format, name) == getattr(expected, name)
    # A GPT2Tokenizer of transformers 5 cuts by rules of its own, and not by those of the file.
    stated = tokenizers.Tokenizer.from_file(tokenizer_json)
    for words in TEXTS:
        assert format.encode(words) == stated.encode(words, add_special_tokens=False).ids
    assert format.prompt_text(Prompt('a', CHAT)) == expected.prompt_text(Prompt('a', CHAT))
    assert format.prompt_tokens(Prompt('a', CHAT)) == expected.prompt_tokens(Prompt('a', CHAT))


@pytest.mark.slow
def test_a_real_file_is_read_as_transformers_reads_it():
    torch = pytest.importorskip('torch')
    pytest.importorskip('accelerate')
    model = pathlib.Path(smollm2_or_skip().gguf)
    load = transformers.AutoModelForCausalLM.from_pretrained
    theirs = load(str(model.parent), gguf_file=model.name, dtype=torch.float32).eval()
    lm, params = language_model.load(folder=str(model))
    for i, layer in enumerate(theirs.model.layers):
        for name, weight in {'q': layer.self_attn.q_proj, 'down': layer.mlp.down_proj}.items():
            assert np.array_equal(params['blocks'][name][i], weight.weight.detach().numpy().T)
    tokens = np.array([lm.text.prompt_tokens(Prompt('a', CHAT))])
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits[0].numpy()
    length = tokens.shape[1]
    causal = np.tril(np.ones((length, length), bool))[None]
    hidden, _ = jax.jit(lm.module.apply)(
        {'params': params}, tokens, np.arange(length)[None], causal
    )
    logits = np.asarray(decoder.logits(lm.module, params, hidden[0]))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    theirs_text = _theirs(model)
    options = {'tokenize': False}
    assert lm.text.tokenizer.apply_chat_template(CHAT, **options) == (
        theirs_text.apply_chat_template(CHAT, **options)
    )


@pytest.mark.slow
def test_a_file_is_read_without_torch():
    script = (
        'import sys; sys.modules["torch"] = None\n'
        'from selfrew.models import language_model\n'
        f'lm, params = language_model.load(folder={smollm2_or_skip().gguf!r})\n'
        'print(lm.text.encode("hi 12"))'
    )
    result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('[')
