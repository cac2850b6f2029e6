"""Byte-level tokenizers in the chat styles of several families, and model folders that have one."""

import dataclasses
import json

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from toys import SMALL
from transformers import PreTrainedTokenizerFast

from selfrew.models import decoder, hf

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
FITS = dataclasses.replace(SMALL, vocab=272)  # has an embedding for each of these tokenizers

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{{ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|head|>' + m['role'] + '<|/head|>\\n\\n' }}"
    "{{ m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    '{{ bos_token }}{% for m in messages %}'
    "{% if m['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
BARE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Style:
    """A chat template and the special tokens of its tokenizer."""

    template: str
    eos: str  # of the tokenizer
    turn_end: str  # ends an assistant's turn
    bos: str | None = None
    pad: str | None = None
    more_special: tuple = ()
    adds_bos: bool = False  # does the tokenizer put BOS before all that it encodes?
    generation_eos: tuple = ()  # eos_token_id of generation_config.json
    opens_with_bos: bool = True  # does a prompt?


STYLES = {
    'chatml': Style(
        CHATML,
        '<|endoftext|>',
        '<|im_end|>',
        pad='<|endoftext|>',
        more_special=('<|im_start|>', '<|im_end|>'),
        generation_eos=('<|im_end|>', '<|endoftext|>'),
    ),
    'llama2': Style(LLAMA2, '</s>', '</s>', '<s>', adds_bos=True),
    'llama3': Style(
        LLAMA3,
        '<|eot|>',
        '<|eot|>',
        '<|begin|>',
        pad='<|eot|>',
        adds_bos=True,
        more_special=('<|head|>', '<|/head|>', '<|eom|>', '<|end|>'),
        generation_eos=('<|end|>', '<|eom|>', '<|eot|>'),
    ),
    'gemma': Style(
        GEMMA,
        '<eos>',
        '<end_of_turn>',
        '<bos>',
        '<pad>',
        more_special=('<start_of_turn>', '<end_of_turn>'),
        adds_bos=True,
        generation_eos=('<eos>', '<end_of_turn>'),
    ),
    'adds': Style(BARE, '</s>', '</s>', '<s>', pad='</s>', adds_bos=True),
    # A BOS that neither the tokenizer nor the template puts anywhere.
    'never': Style(BARE, '</s>', '</s>', '<s>', opens_with_bos=False),
}


def make_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a style: a token for each byte, and the special ones."""
    style = STYLES[name]
    core = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(ALPHABET)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=style.bos,
        eos_token=style.eos,
        pad_token=style.pad,
        additional_special_tokens=list(style.more_special),
    )
    if style.adds_bos:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f'{style.bos} $A',
            pair=f'{style.bos} $A {style.bos} $B',
            special_tokens=[(style.bos, tokenizer.bos_token_id)],
        )
    tokenizer.chat_template = style.template
    return tokenizer


def zero_params(config):
    """Host parameters of a config, all zero."""
    shapes, _ = decoder.abstract_params(decoder.make_module(config))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def write_folder(parent, name: str, config=None) -> str:
    """The path of a new folder with a style's tokenizer and, of a config, a checkpoint of zeros."""
    tokenizer, folder = make_tokenizer(name), parent / name
    tokenizer.save_pretrained(folder)
    if STYLES[name].generation_eos:
        eos = [tokenizer.convert_tokens_to_ids(token) for token in STYLES[name].generation_eos]
        (folder / 'generation_config.json').write_text(json.dumps({'eos_token_id': eos}))
    if config is not None:
        fields = hf.llama_fields(config, bos=0, eos=tokenizer.eos_token_id, pad=0)
        hf.write(str(folder), fields, config, zero_params(config))
    return str(folder)
