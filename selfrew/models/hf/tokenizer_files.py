"""Writes the tokenizer of a model that was loaded, so that transformers 4 and 5 both load them."""

import os
import shutil

from selfrew.models.hf.config import read_object
from selfrew.models.hf.gguf_file import is_gguf
from selfrew.models.hf.writer import write_json

CONFIG, TEMPLATE = 'tokenizer_config.json', 'chat_template.jinja'
FILES = (
    'tokenizer.json',
    'tokenizer.model',
    CONFIG,
    'special_tokens_map.json',
    'added_tokens.json',
    'vocab.json',
    'merges.txt',
    'vocab.txt',
    TEMPLATE,
    'chat_template.json',
)
TEMPLATES = 'additional_chat_templates'  # a folder of templates by name


def write_tokenizer(source: str, folder: str, tokenizer, template: str | None = None) -> None:
    """Writes the tokenizer of the model `source`, with its chat template, into `folder`.

    The files of a folder are copied byte for byte. Only tokenizer_config.json is written anew,
    where it holds what transformers 4 does not load, names code that is not in the folder, or
    repeats a template that was replaced. Of a GGUF file, `tokenizer` is saved.

    template: a chat template in place of the source's.
    """
    if is_gguf(source):
        tokenizer.save_pretrained(folder)
        source, template = folder, None
    else:
        _copy_files(source, folder, template)
    path = os.path.join(source, CONFIG)
    if os.path.exists(path):
        fields = read_object(path)
        kept = _loadable(fields)
        if template is not None:
            kept.pop('chat_template', None)
        if kept != fields:
            write_json(folder, CONFIG, kept)


def _copy_files(source: str, folder: str, template: str | None) -> None:
    names = [name for name in FILES if os.path.isfile(os.path.join(source, name))]
    for name in names:
        if template is None or name not in (TEMPLATE, 'chat_template.json'):
            shutil.copyfile(os.path.join(source, name), os.path.join(folder, name))
    if template is not None:
        with open(os.path.join(folder, TEMPLATE), 'w', encoding='utf-8') as file:
            file.write(template)
    elif os.path.isdir(os.path.join(source, TEMPLATES)):
        shutil.copytree(os.path.join(source, TEMPLATES), os.path.join(folder, TEMPLATES))


def _loadable(fields: dict) -> dict:
    """The content of a tokenizer_config.json in the form that transformers 4 loads, as 5 does."""
    kept = {name: value for name, value in fields.items() if name != 'auto_map'}
    if kept.get('tokenizer_class') == 'TokenizersBackend':  # its name in transformers 5
        kept['tokenizer_class'] = 'PreTrainedTokenizerFast'
    extra = kept.get('extra_special_tokens')
    if isinstance(extra, list):  # in transformers 4 a dict
        del kept['extra_special_tokens']
        if extra:
            kept['additional_special_tokens'] = extra
    return kept
