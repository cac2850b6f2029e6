"""Text to tokens and back: tokenizer, chat format (the single source of truth), judge templates. Layer 1."""

import dataclasses
import functools
import os
from typing import Any

from selfrew.types import Prompt

TEMPLATES = os.path.join(os.path.dirname(__file__), 'templates')


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A tokenizer with its chat template. Sampling, judging and training all format through here."""

    tokenizer: Any
    bos: int | None
    eos: int
    pad: int

    def prompt(self, prompt: Prompt) -> list[int]:
        """The tokens a model continues: the chat so far and the opening of the assistant's turn; BOS once."""
        ids = self.encode(self.rendered(prompt))
        return [self.bos, *ids] if self.bos is not None and ids[:1] != [self.bos] else ids

    def rendered(self, prompt: Prompt) -> str:
        """The text of `prompt(...)`, special tokens spelt out as the chat template has them."""
        messages = [m | {'content': self._tame(m['content'])} for m in prompt.messages]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _tame(self, text: str) -> str:
        """The text without spelt-out special tokens: what a user or a judged response writes must not end a turn."""
        before = None
        while before != text:  # what is left can spell another
            before = text
            for token in self.tokenizer.added_tokens_decoder.values():
                text = text.replace(token.content, '') if token.special else text
        return text

    def encode(self, text: str) -> list[int]:
        """Tokens of bare text: no BOS, no EOS."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def response(self, text: str, finish: str) -> list[int]:
        """Tokens of a response given as text: EOS once, and only where it ended by itself."""
        return self.encode(self._tame(text)) + ([self.eos] if finish == 'stop' else [])

    def decode(self, tokens) -> str:
        """Text without special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)


def load(folder: str) -> Text:
    """The tokenizer and chat template of a Hugging Face folder.

    Raises ValueError without a chat template or an end token. Without a pad token, 0 fills; masks come from lengths.
    """
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')  # "PyTorch was not found": nor is it wanted
    from transformers import AutoTokenizer  # slow to import

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise ValueError(f'{folder}: the tokenizer has no chat template (chat_template.jinja or tokenizer_config.json)')
    if tokenizer.eos_token_id is None:
        raise ValueError(f'{folder}: the tokenizer names no end token (eos_token in tokenizer_config.json)')
    return Text(tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id or 0)


@functools.cache
def template(name: str):
    """The jinja template in that file, or of that name among the ones that ship. FileNotFoundError names them."""
    import jinja2

    path = name if os.path.isfile(name) else os.path.join(TEMPLATES, f'{name}.jinja')
    if not os.path.isfile(path):
        shipped = ', '.join(sorted(f.removesuffix('.jinja') for f in os.listdir(TEMPLATES)))
        raise FileNotFoundError(f'no template {name!r}: not a file, and not one that ships ({shipped})')
    with open(path) as file:
        return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(file.read().strip())


def fill(name: str, **fields) -> str:
    """A judge's prompt: the template's text with `fields` (prompt, response) put in as they are."""
    return template(name).render(**fields)
