"""What the speed measurements work on: shapes, pairs, prompts and the count of useful FLOPs.

Needs numpy alone, so that each framework can be measured in an environment of its own on the same
tokens.
"""

import argparse
import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama-like decoder: `width` features, `mlp` of them inside the gated MLP, `head_dim` in an
    attention head.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    tied: bool = False
    qkv_bias: bool = False
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6


SHAPES = {
    'default': Shape(16_384, 384, 6, 6, 2, 64, 1024),
    '0.5b': Shape(151_936, 896, 24, 14, 2, 64, 4864, True, True, 1e6),  # Qwen2.5-0.5B
    '1b': Shape(
        128_256, 2048, 16, 32, 8, 64, 8192, True, False, 5e5, 1e-5
    ),  # Llama 3.2 1B, without its long context
    'minute': Shape(200, 16, 1, 2, 1, 8, 32),  # for tests
}
POSITIONS = 1024  # the longest context of all shapes
PAD = 0
PROMPT, RESPONSE = (
    (24, 128, 55),
    (8, 128, 62),
)  # tokens: at least, at most, what the geometric part is drawn with


class Pair(NamedTuple):
    """Tuples of tokens; each response ends with an end token."""

    prompt: tuple
    chosen: tuple
    rejected: tuple


def ends(shape: Shape) -> tuple[int, ...]:
    """The tokens that end a sample: 1 % of the vocabulary, so that a near-uniform model ends with 1
    % a token.
    """
    return tuple(range(1, 1 + max(1, shape.vocab // 100)))


def _length(rng, low: int, high: int, mean: int) -> int:
    """Tokens: `low` and a geometric number more, cut at `high`."""
    return min(low + int(rng.geometric(1 / mean)) - 1, high)


def _words(shape: Shape, rng, count: int) -> tuple[int, ...]:
    """Tokens that are neither padding nor an end."""
    return tuple(int(t) for t in rng.integers(1 + len(ends(shape)), shape.vocab, count))


def pairs(shape: Shape, count: int, seed: int = 0) -> list[Pair]:
    """Preference pairs: prompts of 24 to 128 tokens, 70 on average; responses of 8 to 128, 60 on
    average.
    """
    rng, end = np.random.default_rng([seed, 1]), ends(shape)[:1]
    some = lambda: _words(shape, rng, _length(rng, *RESPONSE) - 1) + end
    return [Pair(_words(shape, rng, _length(rng, *PROMPT)), some(), some()) for _ in range(count)]


def prompts(shape: Shape, count: int, seed: int = 0) -> list[tuple]:
    """Prompts like those of `pairs`, to sample from."""
    rng = np.random.default_rng([seed, 2])
    return [_words(shape, rng, _length(rng, *PROMPT)) for _ in range(count)]


def produced(tokens, stops) -> int:
    """How many of a sample's tokens count: those to its first end token, that one included."""
    return next((i + 1 for i, t in enumerate(tokens) if int(t) in stops), len(tokens))


def real_tokens(work: list[Pair]) -> int:
    """Tokens of an update that does not share prompts: 2·prompt + chosen + rejected."""
    return sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in work)


def matrix_weights(shape: Shape) -> int:
    """Weights of one layer's matrices; biases, norms and the vocabulary's are not among them."""
    attention = shape.width * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return attention + 3 * shape.width * shape.mlp


def parameters(shape: Shape) -> int:
    """All that a step of decoding reads: layers' matrices and the head (an embedding's rows are
    few).
    """
    return shape.layers * matrix_weights(shape) + shape.width * shape.vocab


def forward_flops(shape: Shape, prompt: int, responses: list[int]) -> int:
    """Useful FLOPs of one forward pass over a prompt and its responses, given as numbers of tokens.

    The convention, which no implementation can undercut: what is counted is
    - 2 for each weight of a layer's matrices and token. A prompt is read once, however many
      responses it has. A response's last token is predicted but never read;
    - in attention 4 for each feature of the query heads and each earlier token or itself (QK and
      AV; half of a square);
    - 2 for each weight of the head and token of a response, at no other place.
    Not counted: norms, activations, softmax, the embedding's look-up, the optimiser, padding,
      anything computed twice.
    """
    read = prompt + sum(n - 1 for n in responses)
    seen = prompt * (prompt + 1) // 2 + sum((n - 1) * prompt + n * (n - 1) // 2 for n in responses)
    body = 2 * matrix_weights(shape) * read + 4 * shape.heads * shape.head_dim * seen
    return shape.layers * body + 2 * shape.width * shape.vocab * sum(responses)


def update_flops(shape: Shape, work: list[Pair]) -> int:
    """Useful FLOPs of an update on pairs: a forward and a backward pass, 3 forwards, and one more
    as the reference.
    """
    return 4 * sum(
        forward_flops(shape, len(p.prompt), [len(p.chosen), len(p.rejected)]) for p in work
    )


def sample_flops(shape: Shape, prompt_lengths: list[int], lengths: list[list[int]]) -> int:
    """Useful FLOPs of sampling. `lengths[i]`: tokens of each of prompt i's samples."""
    return sum(
        forward_flops(shape, prompt, own)
        for prompt, own in zip(prompt_lengths, lengths, strict=True)
    )


def sample_bytes(
    shape: Shape, prompt_lengths: list[int], lengths: list[list[int]], slots: int, width: int
) -> int:
    """Bytes that decoding must read: the weights at each step, and for each token the keys and
    values before it.

    With `slots` samples at a time there are as many steps as the longest sample has tokens or, if
    that is more, as the tokens of all make. `width`: bytes of a number. What a step writes, and the
    prompts' pass, are not counted.
    """
    flat = [n for own in lengths for n in own]
    steps = max(max(flat), -(-sum(flat) // slots))
    cached = sum(
        (n - 1) * p + n * (n - 1) // 2
        for p, own in zip(prompt_lengths, lengths, strict=True)
        for n in own
    )
    each = 2 * shape.layers * shape.kv_heads * shape.head_dim
    return width * (steps * parameters(shape) + cached * each)


def positive(text: str) -> int:
    """A flag's number."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number}: want at least 1')
    return number
