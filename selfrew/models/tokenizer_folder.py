"""What a folder says of text: its tokenizer, and how its chat template opens and ends turns."""

import importlib.util
import logging
import os
from typing import Any

import jinja2

from selfrew.models import hf

VOCABULARIES = 'tokenizer.json', 'tokenizer.model', 'vocab.json', 'vocab.txt'
TEMPLATES = os.path.join(os.path.dirname(__file__), 'chat_templates')


def check_template(tokenizer, where: str) -> None:
    """Raises ValueError if the chat template does not parse."""
    try:
        tokenizer.apply_chat_template([{'role': 'user', 'content': 'a'}], tokenize=False)
    except jinja2.TemplateSyntaxError as problem:
        message = f'{where}: the chat template does not parse (line {problem.lineno}): {problem}'
        raise ValueError(message) from None
    except Exception:  # it may refuse a conversation, with an error of its own
        pass


def load_tokenizer(folder: str) -> Any:
    """The folder's tokenizer. ValueError where it has none, or one that cannot be read."""
    # Silences "PyTorch was not found", which is not needed.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    from transformers import AutoTokenizer  # noqa: PLC0415 — takes five seconds to import

    if hf.is_gguf(folder):
        return hf.gguf_tokenizer(folder)
    found = [name for name in VOCABULARIES if os.path.exists(os.path.join(folder, name))]
    if not found:
        raise ValueError(
            f'{folder}: its tokenizer cannot be read: it has none of {", ".join(VOCABULARIES)}'
        )
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as problem:  # the library of fast tokenizers raises no narrower one
        if found == ['tokenizer.model'] and importlib.util.find_spec('sentencepiece') is None:
            raise ValueError(
                f'{folder}: reading tokenizer.model needs the package sentencepiece: '
                "pip install 'selfrew[sentencepiece]'"
            ) from None
        reason = str(problem).strip().split('\n')[0]
        raise ValueError(f'{folder}: its tokenizer cannot be read ({reason})') from None


def shipped_templates() -> list[str]:
    """The names of the chat templates that ship."""
    return sorted(name.removesuffix('.jinja') for name in os.listdir(TEMPLATES))


def read_template(template: str) -> str:
    """The chat template of a jinja file, or of one that ships by name. ValueError for neither."""
    shipped = shipped_templates()
    path = os.path.join(TEMPLATES, f'{template}.jinja') if template in shipped else template
    if not os.path.isfile(path):
        raise ValueError(
            f'model.chat_template={template!r} is neither a file nor one that ships '
            f'({", ".join(shipped)})'
        )
    with open(path) as file:
        return file.read()


def config_eos_tokens(folder: str) -> set[int]:
    """The EOS tokens of generation_config.json and config.json, each a token or a list.

    Of a GGUF file, the tokens that end a text and a turn.
    """
    if hf.is_gguf(folder):
        return hf.gguf_stop_tokens(folder)
    tokens = set()
    for name in ('generation_config.json', 'config.json'):
        eos = hf.read_optional(folder, name).get('eos_token_id')
        tokens |= set(eos) if isinstance(eos, list) else {eos} - {None}
    return tokens


def opens_with_bos(tokenizer) -> bool:
    """Does the tokenizer or the chat template put BOS first?"""
    if tokenizer.bos_token_id is None:
        return False
    rendered = try_render(tokenizer, [{'role': 'user', 'content': 'a'}]) or ''
    is_added = tokenizer('').input_ids[:1] == [tokenizer.bos_token_id]
    return is_added or rendered.startswith(tokenizer.bos_token)


def try_render(tokenizer, messages) -> str | None:
    """The chat as the template writes it; None if it refuses the chat."""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse any conversation, with an error of its own
        return None


CONTENTS = 'selfrew-system', 'selfrew-user', 'selfrew-assistant'


def literal_text(tokenizer) -> str:
    """What the chat template itself writes into a chat, whatever is said in it."""
    system, user, assistant = (
        {'role': content.removeprefix('selfrew-'), 'content': content} for content in CONTENTS
    )
    chats = [[user, assistant, user], [system, user, assistant], [system, user]]
    return '\n'.join(try_render(tokenizer, chat) or '' for chat in chats)


def turn_end(tokenizer, folder: str) -> int | None:
    """The added token that the template writes after an assistant's words, or else the EOS."""
    words = 'selfrew'
    chat = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': words}]
    rendered = try_render(tokenizer, chat)
    rest = rendered.rpartition(words)[2].strip() if rendered and words in rendered else ''
    if not rest:
        return tokenizer.eos_token_id
    tokens = tokenizer.encode(rest, add_special_tokens=False)
    if tokens and tokens[0] in tokenizer.added_tokens_decoder:
        return tokens[0]
    logging.warning(
        "%s: the chat template ends an assistant's turn with %r, which is no token of its own; "
        'responses are taught to end with %r instead',
        folder,
        rest[:40],
        tokenizer.eos_token,
    )
    return tokenizer.eos_token_id
