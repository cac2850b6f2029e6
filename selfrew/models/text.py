"""Text to tokens and back: the tokenizer and the chat format, their single source of truth."""

import dataclasses
import datetime
import functools
import re
from typing import Any

import jinja2

from selfrew.models import tokenizer_folder
from selfrew.types import Prompt

# Private-use characters stand for special tokens that a message spells, until it is rendered.
FIRST_MARK, LAST_MARK = 0xF0000, 0xFFFFD
DATE_FORMAT = re.compile(r'(?<=[\'"])[^\'"\n]*%[^\'"\n]*(?=[\'"])')
MARKS = re.compile(f'[{chr(FIRST_MARK)}-{chr(LAST_MARK)}]')


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A tokenizer with its chat template. Sampling, judging and training all format through it.

    A special token that a message or a response spells is text and no token: it neither opens nor
    ends a turn.
    """

    tokenizer: Any
    bos: int | None  # the token that a prompt opens with, if any
    eos: int  # the token that ends an assistant's turn, which responses are trained to end with
    pad: int
    stop_tokens: tuple[int, ...] = ()  # the tokens at which sampling stops, eos among them
    fold_system: bool = False  # whether a system turn becomes the opening of the first user turn
    now: datetime.datetime | None = None  # what a template takes for today; None: the clock
    vocab: int | None = None  # rows of the embedding, which a token in use must have; None: any
    template: str | None = None  # the chat template, if it is not that of the tokenizer's folder

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a turn, the one that is taught first."""
        return (self.eos, *(token for token in self.stop_tokens if token != self.eos))

    @property
    def tells_time(self) -> bool:
        """Whether the chat template writes the date."""
        return 'strftime_now' in self.tokenizer.get_chat_template()

    def at(self, now: datetime.datetime | None) -> 'Text':
        """The same with `now` for today, if its template writes the date."""
        return self if now is None or not self.tells_time else dataclasses.replace(self, now=now)

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """The tokens a model continues: BOS once, the chat, the opening of the assistant's turn.

        Raises ValueError if the chat template refuses the prompt, or if the embedding has no row
        for one of the tokens.
        """
        rendered = self._render(prompt.messages, prompt.id, add_generation_prompt=True)
        return self._embedded(self._prepend_bos(self._encode_rendered(rendered)))

    def prompt_text(self, prompt: Prompt) -> str:
        """The text of `prompt_tokens`, with special tokens spelt out as the template has them.

        Raises ValueError if the chat template refuses the prompt.
        """
        rendered = self._render(prompt.messages, prompt.id, add_generation_prompt=True)
        return self._without_marks(rendered)

    def check_prompt(self, prompt: Prompt) -> None:
        """Raises ValueError as `prompt_tokens` does, mostly without the time that tokens take."""
        if self.vocab is not None and len(self) > self.vocab:
            self.prompt_tokens(prompt)
        else:
            self.prompt_text(prompt)

    def conversation_tokens(self, prompt: Prompt, response: str) -> list[int]:
        """The tokens of the chat with a response as its closed last turn, for a reward model.

        Raises ValueError as `prompt_tokens` does.
        """
        answer = {'role': 'assistant', 'content': response}
        rendered = self._render([*prompt.messages, answer], prompt.id)
        return self._embedded(self._prepend_bos(self._encode_rendered(rendered)))

    def encode(self, text: str) -> list[int]:
        """The tokens of bare text: no BOS, no EOS, no special tokens.

        Raises ValueError if the embedding has no row for one of the tokens.
        """
        marked = self._mark(text)
        if not MARKS.search(marked):
            return self._embedded(self._encode(marked))
        plain = self._encode_plain(self._without_marks(marked))
        return self._embedded(self._encode(MARKS.sub('', marked)) if plain is None else plain)

    def response_tokens(self, text: str, finish: str) -> list[int]:
        """The tokens of a response given as text: EOS once, and only if `finish` is 'stop'."""
        tokens = self.encode(text)
        return [*tokens, self.eos] if finish == 'stop' else tokens

    def decode(self, tokens) -> str:
        """The text of tokens, without special tokens and without those that end a turn."""
        shown = [token for token in tokens if token not in self._hidden]
        return self.tokenizer.decode(
            shown, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _render(self, messages, id: str, **options) -> str:
        """The chat as the template writes it, with a mark for each special token that it spells."""
        if self.fold_system:
            messages = fold_system_turn(messages)
        messages = [m | {'content': self._mark(m['content'])} for m in messages]
        options |= {'tokenize': False, 'chat_template': self._dated_template}
        try:
            return self.tokenizer.apply_chat_template(messages, **options)
        except (jinja2.TemplateError, TypeError, KeyError, IndexError) as refusal:
            raise ValueError(
                f'prompt {id!r}: the chat template refuses the turns '
                f'{", ".join(m["role"] for m in messages)}: {refusal}'
                + ('; model.fold_system=True may help' if messages[0]['role'] == 'system' else '')
            ) from None

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _encode_plain(self, text: str) -> list[int] | None:
        """The tokens of text in which special tokens are text; None if the tokenizer cannot."""
        if not self.tokenizer.is_fast:
            return None
        tokens = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return None if self._special_ids.intersection(tokens) else tokens

    def _encode_rendered(self, rendered: str) -> list[int]:
        """The tokens of a rendered chat, in which marked special tokens are text."""
        without = MARKS.sub('', rendered)
        whole = self._encode(without)
        if without == rendered:
            return whole
        # The text is cut at the template's own special tokens, where a tokenizer cuts anyway; if
        # this one does not, the spelt tokens are left out.
        plain = self._encode_pieces(rendered)
        return plain if plain is not None and self._encode_pieces(without) == whole else whole

    def _encode_pieces(self, rendered: str) -> list[int] | None:
        tokens = []
        for piece in self._control_pattern.split(rendered):
            if piece in self._control:
                tokens.append(self._control[piece])
            elif piece:
                plain = self._encode_plain(self._without_marks(piece))
                if plain is None:
                    return None
                tokens += plain
        return tokens

    def _embedded(self, tokens: list[int]) -> list[int]:
        """The tokens as they are. ValueError names the first for which the embedding has no row."""
        if self.vocab is not None and max(tokens, default=0) >= self.vocab:
            beyond = next(token for token in tokens if token >= self.vocab)
            raise ValueError(
                f'the token {self.tokenizer.convert_ids_to_tokens(beyond)!r} has the id {beyond}, '
                f'and the embedding {self.vocab} rows; resize the embedding, or take the tokenizer '
                f'that belongs to it'
            )
        return tokens

    def _prepend_bos(self, tokens: list[int]) -> list[int]:
        if self.bos is None or tokens[:1] == [self.bos]:
            return tokens
        return [self.bos, *tokens]

    @functools.cached_property
    def _dated_template(self) -> str | None:
        """The chat template with `now` for its `strftime_now`; None if it is used as it is."""
        if self.now is None or not self.tells_time:
            return None
        template = self.tokenizer.get_chat_template()
        dates = {text: self.now.strftime(text) for text in DATE_FORMAT.findall(template)}
        macro = f'{{%- macro strftime_now(format) -%}}{{{{ {dates!r}[format] }}}}{{%- endmacro -%}}'
        return macro + template

    @functools.cached_property
    def _hidden(self) -> frozenset[int]:
        """Tokens that end a turn; one that is not special would show in the text."""
        return frozenset(self.stop_tokens) | {self.eos}

    @functools.cached_property
    def _control(self) -> dict[str, int]:
        """Text -> id of the tokens that are no text: special ones and those that form turns."""
        added = self.tokenizer.added_tokens_decoder.items()
        written = tokenizer_folder.literal_text(self.tokenizer)
        return {
            token.content: id
            for id, token in added
            if token.special or id in self._hidden or token.content in written
        }

    @functools.cached_property
    def _special_texts(self) -> frozenset[str]:
        """The control tokens that a tokenizer can take as text."""
        added = self.tokenizer.added_tokens_decoder
        return frozenset(token for token, id in self._control.items() if added[id].special)

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self._control.values()) - {self.tokenizer.unk_token_id}

    @functools.cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._control, key=len, reverse=True)
        return re.compile(f'({"|".join(map(re.escape, longest_first)) or "(?!)"})')

    @functools.cached_property
    def _spelt(self) -> list[str]:
        """The control tokens by the number of their mark."""
        return list(self._control)[: LAST_MARK - FIRST_MARK]

    def _mark(self, text: str) -> str:
        """The text with a mark in place of each control token that it spells.

        One that is not special, which a tokenizer cannot take as text, is left out.
        """
        text, before = MARKS.sub('', text), None
        special = self._special_texts
        while before != text:  # leaving one out may leave text that spells another
            before = text
            text = self._control_pattern.sub(
                lambda m: chr(FIRST_MARK + self._spelt.index(m[0])) if m[0] in special else '', text
            )
        return text

    def _without_marks(self, text: str) -> str:
        """The text with each mark as the token that it stands for."""
        return MARKS.sub(lambda mark: self._spelt[ord(mark[0]) - FIRST_MARK], text)


def fold_system_turn(messages) -> list[dict]:
    """The chat with a system turn at its start put before the text of the first user turn."""
    if messages[0]['role'] != 'system' or len(messages) < 2 or messages[1]['role'] != 'user':
        return list(messages)
    content = f'{messages[0]["content"]}\n\n{messages[1]["content"]}'
    return [{'role': 'user', 'content': content}, *messages[2:]]


def load(
    folder: str,
    template: str | None = None,
    *,
    fold_system: bool = False,
    vocab: int | None = None,
) -> Text:
    """The tokenizer and chat template of a Hugging Face folder.

    BOS opens a prompt if the template or the tokenizer itself puts it there. EOS is the added token
    that the template writes after an assistant's words (Qwen's <|im_end|>, Gemma's <end_of_turn>),
    special or not, else the tokenizer's. Sampling stops at both, and at the EOS tokens of
    generation_config.json and config.json. Without a pad token, 0 fills: masks come from lengths.

    Args:
      template: a jinja file, or the name of one that ships ('plain'), in place of the folder's.
      fold_system: whether a system turn becomes the opening of the first user turn.
      vocab: rows of the embedding. A tokenizer may have more tokens, as long as none of these is
        used. None: not checked.
    Raises ValueError without a tokenizer, a chat template that parses, or an EOS token; or if the
    embedding has no row for a token that opens, forms or ends a turn.
    """
    tokenizer = tokenizer_folder.load_tokenizer(folder)
    given_template = None if template is None else tokenizer_folder.read_template(template)
    if given_template is not None:
        tokenizer.chat_template = given_template
    if not tokenizer.chat_template:
        raise ValueError(
            f'{folder}: the tokenizer has no chat template (chat_template.jinja or '
            'tokenizer_config.json); name a jinja file in model.chat_template, or one that ships '
            f'({", ".join(tokenizer_folder.shipped_templates())})'
        )
    tokenizer_folder.check_template(tokenizer, template or folder)
    eos = tokenizer_folder.turn_end(tokenizer, folder)
    if eos is None:
        raise ValueError(
            f'{folder}: the tokenizer names no end token (eos_token in tokenizer_config.json)'
        )
    stop_tokens = ({eos, tokenizer.eos_token_id} - {None}) | tokenizer_folder.config_eos_tokens(
        folder
    )
    bos = tokenizer.bos_token_id if tokenizer_folder.opens_with_bos(tokenizer) else None
    rows = len(tokenizer) if vocab is None else vocab
    pad = tokenizer.pad_token_id or 0
    stops = tuple(sorted(token for token in stop_tokens if token < rows or token == eos))
    text = Text(
        tokenizer,
        bos,
        eos,
        pad if pad < rows else 0,
        stops,
        fold_system=fold_system,
        vocab=vocab,
        template=given_template,
    )
    _check_turn_tokens(text, folder)
    return text


def _check_turn_tokens(text: Text, folder: str) -> None:
    """Raises ValueError if the embedding has no row for a token of every turn."""
    try:
        text._embedded([text.eos])
        text._embedded([] if text.bos is None else [text.bos])
        rendered = tokenizer_folder.try_render(text.tokenizer, [{'role': 'user', 'content': 'a'}])
        text._embedded(text._encode_rendered(rendered or ''))
    except ValueError as problem:
        raise ValueError(f'{folder}: {problem}') from None
