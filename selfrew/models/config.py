"""The shape of a decoder and the switches of its family."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions: theta, and the fields that each kind of scaling reads.

    See rotary.frequencies.
    """

    theta: float = 10000.0
    kind: str = 'default'  # 'linear', 'llama3', 'longrope'
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 0  # the context length in tokens before it was extended
    short: tuple = ()
    long: tuple = ()
    attention_factor: float = 1.0  # multiplies the rotated queries and keys
    partial: float = 1.0  # the share of a head's features that is rotated


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder and the switches of its family."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    max_length: int  # the longest context in tokens
    rope: Rope = Rope()
    norm_eps: float = 1e-6
    tied: bool = True
    scalar_head: bool = False  # also gives a reward or value at each position
    value_head: bool = False  # also gives, at each position, a value of each next token
    activation: str = 'silu'  # or 'gelu_tanh'
    qkv_bias: bool = False
    qk_norm: str | None = None  # 'head': over each head's features; 'width': over all heads'
    norms: str = 'pre'  # of each half of a block: its input ('pre'), its output ('post') or 'both'
    unit_offset: bool = False  # norms multiply by 1 + scale
    embed_scale: float = 1.0
    attention_scale: float | None = None  # of q·k; None: head_dim ** -0.5
    attention_softcap: float | None = None
    final_softcap: float | None = None
    window: int | None = None  # tokens that a local layer sees, itself included
    local: tuple = ()  # a bool per layer; empty: no layer is local
    local_rope: Rope | None = None  # of local layers, where it differs
    lora: int = 0  # rank of the adapters of every matrix in the blocks; 0: no adapters
    lora_alpha: float = 16.0  # adapters are scaled by alpha / rank
