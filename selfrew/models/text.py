"""Text to tokens and back: tokenizer, chat format (the single source of truth), judge templates.
Layer 1.
"""

import dataclasses
import functools
import json
import os
import re
from typing import Any

from selfrew.types import Prompt

VOCABULARIES = 'tokenizer.json', 'tokenizer.model', 'vocab.json', 'vocab.txt'
CHATS = os.path.join(os.path.dirname(__file__), 'chat_templates')


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A tokenizer with its chat template. Sampling, judging and training all format through here."""

    tokenizer: Any
    bos: int | None
    eos: int  # what ends an assistant's turn, and what responses are taught
    pad: int
    ends: tuple = ()  # tokens at which sampling stops, eos among them

    def __len__(self) -> int:
        return len(self.tokenizer)

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """The tokens a model continues: the chat so far and the opening of the assistant's turn;
        BOS once.
        """
        return self._opened(self.encode(self.prompt_text(prompt)))

    def prompt_text(self, prompt: Prompt) -> str:
        """The text of `prompt(...)`, special tokens spelt out as the chat template has them."""
        return self._said(prompt.messages, add_generation_prompt=True)

    def conversation_tokens(self, prompt: Prompt, response: str) -> list[int]:
        """The tokens of the chat with a response as its last turn, closed as the chat template
        does: for a reward model.
        """
        return self._opened(
            self.encode(self._said([*prompt.messages, {'role': 'assistant', 'content': response}]))
        )

    def _said(self, messages, **options) -> str:
        messages = [m | {'content': self._tame(m['content'])} for m in messages]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def _opened(self, ids: list[int]) -> list[int]:
        return [self.bos, *ids] if self.bos is not None and ids[:1] != [self.bos] else ids

    @functools.cached_property
    def _special(self):
        found = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        return re.compile('|'.join(map(re.escape, sorted(found, key=len, reverse=True))) or r'(?!)')

    def _tame(self, text: str) -> str:
        """The text without spelt-out special tokens: what a user or a judged response writes must
        not end a turn.
        """
        before = None
        while before != text:  # what is left can spell another
            before, text = text, self._special.sub('', text)
        return text

    def encode(self, text: str) -> list[int]:
        """Tokens of bare text: no BOS, no EOS."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def response_tokens(self, text: str, finish: str) -> list[int]:
        """Tokens of a response given as text: EOS once, and only where it ended by itself."""
        return self.encode(self._tame(text)) + ([self.eos] if finish == 'stop' else [])

    def decode(self, tokens) -> str:
        """Text without special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)


def load(folder: str, template: str | None = None) -> Text:
    """The tokenizer and chat template of a Hugging Face folder.

    template: a jinja file in place of the folder's chat template, or the name of one that ships,
      'plain'; or None.

    BOS comes before a prompt where the template or the tokenizer itself puts it. EOS is the special
    token that the template writes after an assistant's words (Qwen's <|im_end|>, Gemma's
    <end_of_turn>), else the tokenizer's; sampling also stops at those of generation_config.json and
    config.json. Without a pad token, 0 fills; masks come from lengths. Raises ValueError without a
    tokenizer, a chat template or an end token.
    """
    os.environ.setdefault(
        'TRANSFORMERS_NO_ADVISORY_WARNINGS', '1'
    )  # "PyTorch was not found": nor is it wanted
    from transformers import AutoTokenizer  # slow to import

    if not any(os.path.exists(os.path.join(folder, name)) for name in VOCABULARIES):
        raise ValueError(
            f'{folder}: its tokenizer cannot be read (none of {", ".join(VOCABULARIES)} is there)'
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as problem:
        said = str(problem).strip().split('\n')[0]
        raise ValueError(f'{folder}: its tokenizer cannot be read ({said})') from None
    shipped = sorted(f.removesuffix('.jinja') for f in os.listdir(CHATS))
    if template is not None:
        path = os.path.join(CHATS, f'{template}.jinja') if template in shipped else template
        if not os.path.isfile(path):
            raise ValueError(
                f'model.chat_template={template!r} is neither a file nor one that ships '
                f'({", ".join(shipped)})'
            )
        with open(path) as file:
            tokenizer.chat_template = file.read()
    if not tokenizer.chat_template:
        raise ValueError(
            f'{folder}: the tokenizer has no chat template (chat_template.jinja or tokenizer_config.json);'
            ' name a jinja file in model.chat_template, or one that ships '
            f'({", ".join(shipped)})'
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f'{folder}: the tokenizer names no end token (eos_token in tokenizer_config.json)'
        )
    eos = _turn_end(tokenizer)
    ends = {eos, tokenizer.eos_token_id}
    for name in ('generation_config.json', 'config.json'):
        if os.path.exists(path := os.path.join(folder, name)):
            with open(path) as file:
                stated = json.load(file).get('eos_token_id')
            ends |= set(stated) if isinstance(stated, list) else {stated} - {None}
    bos, said = (
        tokenizer.bos_token_id,
        _rendered(tokenizer, [{'role': 'user', 'content': 'a'}]) or '',
    )
    opens = bos is not None and (
        tokenizer('').input_ids[:1] == [bos] or said.startswith(tokenizer.bos_token)
    )
    return Text(
        tokenizer, bos if opens else None, eos, tokenizer.pad_token_id or 0, tuple(sorted(ends))
    )


def _rendered(tokenizer, messages) -> str | None:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse any conversation, in its own words
        return None


def _turn_end(tokenizer) -> int:
    """The special token that the chat template writes right after an assistant's words, or the
    tokenizer's EOS.
    """
    words = 'selfrew'
    said = _rendered(
        tokenizer, [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': words}]
    )
    if said and words in said:
        after = tokenizer.encode(said.rpartition(words)[2].lstrip(), add_special_tokens=False)
        known = tokenizer.added_tokens_decoder.get(after[0]) if after else None
        if known is not None and known.special:
            return after[0]
    return tokenizer.eos_token_id
