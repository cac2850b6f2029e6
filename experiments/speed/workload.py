"""What the speed measurements work on: shapes, pairs, prompts and the count of useful FLOPs.

It needs only numpy, so that every framework can be measured on the same tokens in its own
environment.
"""

import argparse
import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of a Llama-like decoder."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int  # features inside the gated MLP
    tied: bool = False
    qkv_bias: bool = False
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6


SHAPES = {
    'default': Shape(16_384, 384, 6, 6, 2, 64, 1024),
    '0.5b': Shape(151_936, 896, 24, 14, 2, 64, 4864, True, True, 1e6),  # Qwen2.5-0.5B
    # Llama 3.2 1B, without its long context
    '1b': Shape(128_256, 2048, 16, 32, 8, 64, 8192, True, False, 5e5, 1e-5),
    'test': Shape(200, 16, 1, 2, 1, 8, 32),
}
POSITIONS = 1024  # the longest context of all shapes
PAD = 0


class Lengths(NamedTuple):
    """Tokens: `low` and a geometric number more, at most `high`."""

    low: int
    high: int
    mean: int  # of the geometric number

    def draw(self, rng) -> int:
        return min(self.low + int(rng.geometric(1 / self.mean)) - 1, self.high)


PROMPT = Lengths(24, 128, 55)
RESPONSE = Lengths(8, 128, 62)


class Pair(NamedTuple):
    """Tuples of tokens; each response ends with an end token."""

    prompt: tuple
    chosen: tuple
    rejected: tuple


def ends(shape: Shape) -> tuple[int, ...]:
    """The tokens that end a sample: 1 % of the vocabulary.

    A near-uniform model therefore ends a sample with a probability of 1 % a token.
    """
    return tuple(range(1, 1 + max(1, shape.vocab // 100)))


def _words(shape: Shape, rng, count: int) -> tuple[int, ...]:
    """Random tokens that are neither padding nor an end."""
    return tuple(int(token) for token in rng.integers(1 + len(ends(shape)), shape.vocab, count))


def _response(shape: Shape, rng) -> tuple[int, ...]:
    return _words(shape, rng, RESPONSE.draw(rng) - 1) + ends(shape)[:1]


def pairs(shape: Shape, count: int, seed: int = 0) -> list[Pair]:
    """Preference pairs: prompts of 24 to 128 tokens, 70 on average; responses of 8 to 128, 60 on
    average.
    """
    rng = np.random.default_rng([seed, 1])
    drawn = []
    for _ in range(count):
        prompt = _words(shape, rng, PROMPT.draw(rng))
        drawn.append(Pair(prompt, _response(shape, rng), _response(shape, rng)))
    return drawn


def prompts(shape: Shape, count: int, seed: int = 0) -> list[tuple]:
    """Prompts like those of `pairs`, to sample from."""
    rng = np.random.default_rng([seed, 2])
    return [_words(shape, rng, PROMPT.draw(rng)) for _ in range(count)]


def as_text(tokens) -> str:
    """Tokens as text, one word each, for trainers and samplers that tokenise."""
    return ' '.join(f'w{token}' for token in tokens)


def padded(rows, length: int, left: bool):
    """(tokens, mask), both [rows length] int32, padded on the left or on the right."""
    tokens = np.full((len(rows), length), PAD, np.int32)
    mask = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        columns = slice(length - len(row), None) if left else slice(0, len(row))
        tokens[i, columns], mask[i, columns] = row, 1
    return tokens, mask


def produced(tokens, stops) -> int:
    """How many of a sample's tokens count: those up to and with its first end token."""
    return next((i + 1 for i, token in enumerate(tokens) if int(token) in stops), len(tokens))


def real_tokens(work: list[Pair]) -> int:
    """Tokens of an update that does not share prompts: 2·prompt + chosen + rejected."""
    return sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in work)


def matrix_weights(shape: Shape) -> int:
    """Weights of one layer's matrices, without biases, norms and the vocabulary's."""
    attention = shape.width * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return attention + 3 * shape.width * shape.mlp


def parameters(shape: Shape) -> int:
    """Weights that a step of decoding reads: the layers' matrices and the head. It reads few rows
    of the embedding.
    """
    return shape.layers * matrix_weights(shape) + shape.width * shape.vocab


def forward_flops(shape: Shape, prompt: int, responses: list[int]) -> int:
    """Useful FLOPs of one forward pass over a prompt and its responses, given as numbers of tokens.

    They are the least that any implementation needs. Counted are
    - 2 for each weight of a layer's matrices and token. A prompt is read once for all of its
      responses. A response's last token is predicted but never read;
    - 4 in attention for each feature of the query heads and each earlier token or the token itself
      (QK and AV; half of a square);
    - 2 for each weight of the head and token of a response.
    Not counted: norms, activations, softmax, the embedding's look-up, the optimiser, padding,
    anything computed twice.
    """
    read = prompt + sum(n - 1 for n in responses)
    seen = prompt * (prompt + 1) // 2 + sum((n - 1) * prompt + n * (n - 1) // 2 for n in responses)
    body = 2 * matrix_weights(shape) * read + 4 * shape.heads * shape.head_dim * seen
    return shape.layers * body + 2 * shape.width * shape.vocab * sum(responses)


def update_flops(shape: Shape, work: list[Pair]) -> int:
    """Useful FLOPs of an update on pairs, as 4 forward passes: 1 forward, 2 backward, 1 for the
    reference.
    """
    forward = 0
    for pair in work:
        forward += forward_flops(shape, len(pair.prompt), [len(pair.chosen), len(pair.rejected)])
    return 4 * forward


def sample_flops(shape: Shape, prompt_lengths: list[int], lengths: list[list[int]]) -> int:
    """Useful FLOPs of sampling. `lengths[i]`: tokens of each of prompt i's samples."""
    by_prompt = zip(prompt_lengths, lengths, strict=True)
    return sum(forward_flops(shape, prompt, samples) for prompt, samples in by_prompt)


def sample_bytes(
    shape: Shape, prompt_lengths: list[int], lengths: list[list[int]], slots: int, width: int
) -> int:
    """Bytes that decoding must read: the weights at each step, and for each token the keys and
    values before it.

    With `slots` samples at a time there are as many steps as the longest sample has tokens, or as
    the tokens of all need, if that is more. `width`: bytes of a number. What a step writes, and the
    prompts' pass, are not counted.
    """
    total = sum(map(sum, lengths))
    steps = max(max(map(max, lengths)), -(-total // slots))
    cached = 0
    for prompt, samples in zip(prompt_lengths, lengths, strict=True):
        cached += sum((n - 1) * prompt + n * (n - 1) // 2 for n in samples)
    token = 2 * shape.layers * shape.kv_heads * shape.head_dim
    return width * (steps * parameters(shape) + cached * token)


def positive(text: str) -> int:
    """The number of a flag. Raises ArgumentTypeError where it is below 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number}: want at least 1')
    return number
