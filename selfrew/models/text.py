"""Text to tokens and back: the tokenizer and the chat format, their single source of truth."""

import dataclasses
import functools
import json
import os
import re
from typing import Any

from selfrew.types import Prompt

VOCABULARIES = 'tokenizer.json', 'tokenizer.model', 'vocab.json', 'vocab.txt'
TEMPLATES = os.path.join(os.path.dirname(__file__), 'chat_templates')


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A tokenizer with its chat template. Sampling, judging and training all format through it."""

    tokenizer: Any
    bos: int | None  # the token that a prompt opens with, if any
    eos: int  # the token that ends an assistant's turn, which responses are trained to end with
    pad: int
    stop_tokens: tuple[int, ...] = ()  # the tokens at which sampling stops, eos among them

    def __len__(self) -> int:
        return len(self.tokenizer)

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """The tokens a model continues: BOS once, the chat, the opening of the assistant's turn."""
        return self._prepend_bos(self.encode(self.prompt_text(prompt)))

    def prompt_text(self, prompt: Prompt) -> str:
        """The text of `prompt_tokens`, with special tokens spelt out as the template has them."""
        return self._render(prompt.messages, add_generation_prompt=True)

    def conversation_tokens(self, prompt: Prompt, response: str) -> list[int]:
        """The tokens of the chat with a response as its closed last turn, for a reward model."""
        answer = {'role': 'assistant', 'content': response}
        return self._prepend_bos(self.encode(self._render([*prompt.messages, answer])))

    def encode(self, text: str) -> list[int]:
        """The tokens of bare text: no BOS, no EOS."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def response_tokens(self, text: str, finish: str) -> list[int]:
        """The tokens of a response given as text: EOS once, and only if `finish` is 'stop'."""
        tokens = self.encode(self._strip_special(text))
        return [*tokens, self.eos] if finish == 'stop' else tokens

    def decode(self, tokens) -> str:
        """The text of tokens, without special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def _render(self, messages, **options) -> str:
        messages = [m | {'content': self._strip_special(m['content'])} for m in messages]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def _prepend_bos(self, tokens: list[int]) -> list[int]:
        if self.bos is None or tokens[:1] == [self.bos]:
            return tokens
        return [self.bos, *tokens]

    @functools.cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        special = sorted((token.content for token in added if token.special), key=len, reverse=True)
        return re.compile('|'.join(map(re.escape, special)) or r'(?!)')

    def _strip_special(self, text: str) -> str:
        """The text without spelt-out special tokens, so that no user or response can end a turn."""
        before = None
        while before != text:  # removing one may leave text that spells another
            before, text = text, self._special_pattern.sub('', text)
        return text


def load(folder: str, template: str | None = None) -> Text:
    """The tokenizer and chat template of a Hugging Face folder.

    BOS opens a prompt if the template or the tokenizer itself puts it there. EOS is the special
    token that the template writes after an assistant's words (Qwen's <|im_end|>, Gemma's
    <end_of_turn>), else the tokenizer's. Sampling stops at both, and at the EOS tokens of
    generation_config.json and config.json. Without a pad token, 0 fills: masks come from lengths.

    Args:
      template: a jinja file, or the name of one that ships ('plain'), in place of the folder's.
    Raises ValueError without a tokenizer, a chat template or an EOS token.
    """
    tokenizer = _load_tokenizer(folder)
    shipped = sorted(name.removesuffix('.jinja') for name in os.listdir(TEMPLATES))
    if template is not None:
        tokenizer.chat_template = _read_template(template, shipped)
    if not tokenizer.chat_template:
        raise ValueError(
            f'{folder}: the tokenizer has no chat template (chat_template.jinja or '
            'tokenizer_config.json); name a jinja file in model.chat_template, or one that ships '
            f'({", ".join(shipped)})'
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f'{folder}: the tokenizer names no end token (eos_token in tokenizer_config.json)'
        )
    eos = _turn_end(tokenizer)
    stop_tokens = {eos, tokenizer.eos_token_id} | _config_eos_tokens(folder)
    bos = tokenizer.bos_token_id if _opens_with_bos(tokenizer) else None
    return Text(tokenizer, bos, eos, tokenizer.pad_token_id or 0, tuple(sorted(stop_tokens)))


def _load_tokenizer(folder: str) -> Any:
    """The folder's tokenizer. ValueError where it has none, or one that cannot be read."""
    # Silences "PyTorch was not found", which is not needed.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    from transformers import AutoTokenizer  # noqa: PLC0415 — takes five seconds to import

    if not any(os.path.exists(os.path.join(folder, name)) for name in VOCABULARIES):
        raise ValueError(
            f'{folder}: its tokenizer cannot be read: it has none of {", ".join(VOCABULARIES)}'
        )
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().split('\n')[0]
        raise ValueError(f'{folder}: its tokenizer cannot be read ({reason})') from None


def _read_template(template: str, shipped: list[str]) -> str:
    """The chat template of a jinja file, or of the name of one that ships."""
    path = os.path.join(TEMPLATES, f'{template}.jinja') if template in shipped else template
    if not os.path.isfile(path):
        raise ValueError(
            f'model.chat_template={template!r} is neither a file nor one that ships '
            f'({", ".join(shipped)})'
        )
    with open(path) as file:
        return file.read()


def _config_eos_tokens(folder: str) -> set[int]:
    """The EOS tokens of generation_config.json and config.json, each a token or a list."""
    tokens = set()
    for name in ('generation_config.json', 'config.json'):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path) as file:
                eos = json.load(file).get('eos_token_id')
            tokens |= set(eos) if isinstance(eos, list) else {eos} - {None}
    return tokens


def _opens_with_bos(tokenizer) -> bool:
    """Does the tokenizer or the chat template put BOS first?"""
    if tokenizer.bos_token_id is None:
        return False
    rendered = _try_render(tokenizer, [{'role': 'user', 'content': 'a'}]) or ''
    is_added = tokenizer('').input_ids[:1] == [tokenizer.bos_token_id]
    return is_added or rendered.startswith(tokenizer.bos_token)


def _try_render(tokenizer, messages) -> str | None:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse any conversation, with an error of its own
        return None


def _turn_end(tokenizer) -> int:
    """The special token that the template writes after an assistant's words, or else the EOS."""
    words = 'selfrew'
    chat = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': words}]
    rendered = _try_render(tokenizer, chat)
    if rendered and words in rendered:
        rest = rendered.rpartition(words)[2].lstrip()
        tokens = tokenizer.encode(rest, add_special_tokens=False)
        added = tokenizer.added_tokens_decoder.get(tokens[0]) if tokens else None
        if added is not None and added.special:
            return tokens[0]
    return tokenizer.eos_token_id
