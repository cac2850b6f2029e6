"""Makes the tokenizer that a GGUF file describes: its vocabulary, merges and special tokens.

A file does not hold the rules by which text is cut before merges apply. It names them
(`tokenizer.ggml.pre`), and what they are is stated here.
"""

from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from selfrew.models.hf.gguf_config import architecture_of
from selfrew.models.hf.gguf_file import GgufFile, open_file

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # types of tokens
SPACE = '▁'  # stands for a space in a SentencePiece vocabulary
# What transformers calls a special token -> its role in the file.
ROLES = {'bos': 'bos', 'eos': 'eos', 'unk': 'unknown', 'pad': 'padding'}
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r'[^\r\n\p{L}\p{N}]?\p{L}+'
_REST = r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
_SLASHED_REST = r' ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+'
_UPPER = r'\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}'
_LOWER = r'\p{Ll}\p{Lm}\p{Lo}\p{M}'
_CASED = (
    rf'[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+',
    rf'[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*',
)
# How a byte-level vocabulary cuts text; each name is a rule's, or that of a pattern.
LLAMA3 = f'{_CONTRACTION}|{_WORD}|\\p{{N}}{{1,3}}|{_REST}'
QWEN2 = f'{_CONTRACTION}|{_WORD}|\\p{{N}}|{_REST}'
TEKKEN = f'{_CASED[0]}|{_CASED[1]}|\\p{{N}}|{_SLASHED_REST}'
GPT4O = f'{_CASED[0]}{_CONTRACTION}?|{_CASED[1]}{_CONTRACTION}?|\\p{{N}}{{1,3}}|{_SLASHED_REST}'
GPT2 = None  # what tokenizers' ByteLevel does itself
PATTERNS = {
    **dict.fromkeys(('gpt-2', 'olmo', 'smollm'), GPT2),
    **dict.fromkeys(('llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'dbrx', 'smaug-bpe'), LLAMA3),
    **dict.fromkeys(('qwen2', 'deepseek-r1-qwen', 'megrez'), QWEN2),
    'tekken': TEKKEN,
    'gpt-4o': GPT4O,
}
SINGLE_DIGITS = {'smollm'}  # each digit is cut off first
COMPOSED = {'qwen2'}  # text is brought into the form NFC first
# A word that is a token is taken whole, whatever the merges give; BOS opens a text by default.
WHOLE_WORDS = {'llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'tekken'}


def gguf_tokenizer(path: str) -> Any:
    """The tokenizer of a GGUF file, a fast one of transformers, with its chat template if any.

    Raises ValueError as `open_file` does, and for a vocabulary or a pre-tokenizer that is not
    supported, by name.
    """
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 — takes seconds to import

    file = open_file(path)
    kind, tokens = file.require('tokenizer.ggml.model'), file.require('tokenizer.ggml.tokens')
    types = file.get('tokenizer.ggml.token_type') or [NORMAL] * len(tokens)
    if kind == 'gpt2':
        tokenizer = _byte_level(file, tokens)
    elif kind == 'llama':
        tokenizer = _sentencepiece(file, tokens, types)
    else:
        raise ValueError(
            f'{path}: a vocabulary of kind {kind!r} is not supported; supported: gpt2, llama'
        )
    tokenizer.add_special_tokens(_added(tokenizer, tokens, types, CONTROL))
    tokenizer.add_tokens(_added(tokenizer, tokens, types, USER_DEFINED))
    special = {}
    for name, role in ROLES.items():
        token = file.special_token(role)
        special[f'{name}_token'] = None if token is None else tokens[token]
    _frame(tokenizer, file, special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=file.get('tokenizer.chat_template'),
        clean_up_tokenization_spaces=False,
        **special,
    )


def _added(
    tokenizer: Tokenizer, tokens: list[str], types: list[int], kind: int
) -> list[AddedToken]:
    """The tokens of this type, which are found whole in a text; Gemma's runs of spaces are not."""
    return [
        AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, token_type in zip(tokens, types, strict=True)
        if token_type == kind and tokenizer.token_to_id(token) is not None
    ]


def _pre(file: GgufFile) -> str:
    """The name of a byte-level vocabulary's rules. ValueError for one that is not supported."""
    pre = file.get('tokenizer.ggml.pre', 'default')
    if pre not in PATTERNS:
        raise ValueError(
            f'{file.path}: the pre-tokenizer {pre!r} is not supported; '
            f'supported: {", ".join(PATTERNS)}'
        )
    return pre


def _byte_level(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """Byte-level BPE, as in GPT-2."""
    pre = _pre(file)
    merges = [_pair(merge) for merge in file.require('tokenizer.ggml.merges')]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in WHOLE_WORDS))
    if pre in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = []
    if pre in SINGLE_DIGITS:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if (pattern := PATTERNS[pre]) is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior='isolated'))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is GPT2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(' ')
    return left, right


def _sentencepiece(file: GgufFile, tokens: list[str], types: list[int]) -> Tokenizer:
    """BPE as SentencePiece has it: `▁` for a space, and bytes for what the vocabulary lacks."""
    _, family, _ = architecture_of(file)
    is_gemma = family in ('Gemma2', 'Gemma3')
    if is_gemma:  # its runs of spaces are stored as such
        tokens = [SPACE * len(token) if set(token) == {' '} else token for token in tokens]
        scores = [-float(i) for i in range(len(tokens))]  # its merges follow the tokens' order
    else:
        scores = file.require('tokenizer.ggml.scores')
    merges = file.get('tokenizer.ggml.merges')
    pairs = _derived_merges(tokens, types, scores) if merges is None else map(_pair, merges)
    unknown = file.special_token('unknown')
    tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)},
            list(pairs),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    opens_with_space = not is_gemma and file.get('tokenizer.ggml.add_space_prefix', True)
    to_mark = normalizers.Replace(' ', SPACE)
    if family == 'Phi3' and opens_with_space:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), to_mark])
    elif opens_with_space:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            SPACE, prepend_scheme='first', split=False
        )
    else:
        tokenizer.normalizer = to_mark
    steps = [decoders.Replace(SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
    if opens_with_space:
        steps.append(decoders.Strip(' ', 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _derived_merges(tokens: list[str], types: list[int], scores) -> list[tuple[str, str]]:
    """The merges of a vocabulary that lists none, best first.

    SentencePiece merges the two neighbours whose union has the highest score. So each token is a
    merge of any two others that spell it; control tokens and bytes are not merged.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, token_type, score in zip(tokens, types, scores, strict=True):
        if token_type not in (NORMAL, USER_DEFINED):
            continue
        pairs = [
            (token[:i], token[i:])
            for i in range(1, len(token))
            if token[:i] in vocabulary and token[i:] in vocabulary
        ]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(score, len(left), len(right), left, right) for left, right in pairs]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in merges]


def _frame(tokenizer: Tokenizer, file: GgufFile, special: dict[str, str | None]) -> None:
    """Makes the tokenizer put BOS before a text and EOS after it, where the file says so."""
    is_opened = file.get('tokenizer.ggml.model') == 'llama'
    is_opened |= file.get('tokenizer.ggml.pre') in WHOLE_WORDS
    bos, eos = special['bos_token'], special['eos_token']
    opening = [bos] if bos and file.get('tokenizer.ggml.add_bos_token', is_opened) else []
    closing = [eos] if eos and file.get('tokenizer.ggml.add_eos_token', False) else []
    if not opening + closing:
        return
    second = [*opening, '$B', *closing]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*opening, '$A', *closing],
        pair=[*opening, '$A', *closing, *(f'{piece}:1' for piece in second)],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*opening, *closing}],
    )
