"""One decoder-only transformer for all families: what differs between them are switches of
`ModelConfig`. Layer 1.

The same parameters serve three uses: packed rows (training), prefill and decode (with a cache).
What a token may see is the caller's mask; the module knows nothing of documents or branches. Dense
layers run on `[tokens, features]`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from selfrew.mesh import sharding
from selfrew.models import attention

REMAT = 'none', 'full', 'dots'
LORA = '_lora_a', '_lora_b'  # how adapters are named, after the matrix that they add to


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions. Beside theta, what the kinds of scaling need: see `frequencies`."""

    theta: float = 10000.0
    kind: str = 'default'  # 'linear', 'llama3', 'longrope'
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 0  # the context before it was extended
    short: tuple = ()
    long: tuple = ()
    attention_factor: float = 1.0  # multiplies the rotated queries and keys
    partial: float = 1.0  # the share of a head's features that is rotated


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder and the switches of its family. `max_length` is the longest context in
    tokens.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    max_length: int
    rope: Rope = Rope()
    norm_eps: float = 1e-6
    tied: bool = True
    scalar_head: bool = False  # a reward or value per position beside the vocabulary
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
    lora: int = 0  # rank of the adapters beside every matrix of the blocks, 0 for none
    lora_alpha: float = 16.0  # adapters are scaled by alpha / rank


def frequencies(rope: Rope, head_dim: int, max_length: int) -> np.ndarray:
    """Radians per position [features rotated / 2], float32.

    'linear' divides all by the factor; 'llama3' the slow ones, with a ramp between; 'longrope' each
    by its own: by `short` where contexts are at most `original`, else by `long`. That follows
      `max_length`, the longest context of the
    run, and not each sequence: a row's result must not depend on how long it, or its batch mates,
      will be.
    """
    dim = int(head_dim * rope.partial)
    inverse = 1.0 / rope.theta ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    if rope.kind == 'linear':
        inverse = inverse / rope.factor
    elif rope.kind == 'llama3':
        wavelength = 2 * math.pi / inverse
        ramp = (rope.original / wavelength - rope.low) / (rope.high - rope.low)  # 0: slow, 1: fast
        ramp = np.clip(ramp, 0.0, 1.0)
        inverse = ramp * inverse + (1 - ramp) * inverse / rope.factor
    elif rope.kind == 'longrope':
        inverse = inverse / np.array(
            rope.long if max_length > rope.original else rope.short, np.float32
        )
    return inverse.astype(np.float32)


def _normal(fan_in: int, *names):
    return nn.with_logical_partitioning(nn.initializers.normal(fan_in**-0.5), names)


def rms_norm(x, scale, eps: float, unit_offset: bool = False):
    """Root-mean-square normalisation over the last axis, in float32, times the scale or, with the
    offset, 1 + scale.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def normed(x, scale):
        x32, scale = x.astype(jnp.float32), scale.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
        return (
            x32 * (1.0 + scale if unit_offset else scale).reshape((1,) * (x.ndim - 1) + (-1,))
        ).astype(x.dtype)

    return normed(x, scale)


def rotary_angles(rope: Rope, config: ModelConfig, position_RL):
    """(cos, sin) [R L 1 features/2] of the positions, float32. Positions count from 0."""
    frequency = jnp.asarray(frequencies(rope, config.head_dim, config.max_length))
    angle = position_RL[:, :, None, None].astype(jnp.float32) * frequency[None, None, None, :]
    return jnp.cos(angle) * rope.attention_factor, jnp.sin(angle) * rope.attention_factor


def apply_rotary(x_RLNH, cos, sin):
    """Rotary position embedding in the half-split layout of Llama checkpoints; features beyond the
    angles' stay.
    """
    cos, sin, half = cos.astype(x_RLNH.dtype), sin.astype(x_RLNH.dtype), cos.shape[-1]
    a, b, rest = x_RLNH[..., :half], x_RLNH[..., half : 2 * half], x_RLNH[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


class Block(nn.Module):
    config: ModelConfig
    dtype: Any
    attention: str
    mesh: Any

    @nn.compact
    def __call__(self, carry, scanned, whole):
        c = self.config
        (x_RLD, cache), (layer, local, shared), (sees, angles, start) = carry, scanned, whole
        R, L, D = x_RLD.shape
        wide, narrow = c.heads * c.head_dim, c.kv_heads * c.head_dim
        if c.local and len(set(c.local)) > 1:  # layers take turns: each picks its mask and angles
            mask_RLC = jnp.where(local, sees[1], sees[0])
            cos, sin = (jnp.where(local, b, a) for a, b in zip(*angles))
        else:
            mask_RLC, (cos, sin) = sees[c.local[:1] == (True,)], angles[c.local[:1] == (True,)]

        def dense(name, x, fan_in, fan_out, *axes):
            y = x @ self.param(name, _normal(fan_in, *axes), (fan_in, fan_out)).astype(self.dtype)
            if c.lora:
                zeros = nn.with_logical_partitioning(nn.initializers.zeros, (None, axes[1]))
                down = self.param(name + LORA[0], _normal(fan_in, axes[0], None), (fan_in, c.lora))
                up = self.param(name + LORA[1], zeros, (c.lora, fan_out))
                y = y + (x @ down.astype(self.dtype)) @ up.astype(self.dtype) * (
                    c.lora_alpha / c.lora
                )
            if c.qkv_bias and name in ('q', 'k', 'v'):
                zeros = nn.with_logical_partitioning(nn.initializers.zeros, axes[1:])
                y = y + self.param(f'{name}_bias', zeros, (fan_out,)).astype(self.dtype)[None]
            return y

        def norm(name, x):
            scale = self.param(name, _norm_init(c), x.shape[-1:])
            return rms_norm(x, scale, c.norm_eps, c.unit_offset)

        def heads(name, y, count, *axes):
            y = norm(f'{name}_norm', y) if c.qk_norm == 'width' else y
            y = y.reshape(R, L, count, c.head_dim)
            y = norm(f'{name}_norm', y) if c.qk_norm == 'head' else y
            return apply_rotary(sharding.constrain(self.mesh, y, 'rows', None, *axes), cos, sin)

        x = x_RLD.reshape(R * L, D)
        y = x if c.norms == 'post' else norm('attention_norm', x)
        q = heads('q', dense('q', y, D, wide, 'embed', 'heads'), c.heads, 'heads', None)
        k = heads('k', dense('k', y, D, narrow, 'embed', 'kv'), c.kv_heads, 'kv', None)
        v = dense('v', y, D, narrow, 'embed', 'kv').reshape(R, L, c.kv_heads, c.head_dim)
        k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
        how = {
            'scale': c.attention_scale or c.head_dim**-0.5,
            'softcap': c.attention_softcap,
            'mesh': self.mesh,
        }
        if isinstance(start, attention.Pages):
            out, cache = attention.paged_attention(
                q, {'k': k, 'v': v}, cache, layer, start, mask_RLC, shared, **how
            )
        else:
            if cache is not None:
                cache = attention.append_to_cache(cache, {'k': k, 'v': v}, layer, start, self.mesh)
                k, v = (
                    jax.lax.dynamic_index_in_dim(cache[name], layer, keepdims=False)
                    for name in 'kv'
                )
            out = attention.attend(
                q, k, v, mask_RLC, shared, backend=self.attention, cached=cache is not None, **how
            )
        out = dense('o', out.reshape(R * L, wide), wide, D, 'heads', 'embed')
        x = x + (out if c.norms == 'pre' else norm('attention_post', out))
        y = x if c.norms == 'post' else norm('mlp_norm', x)
        act = {'silu': nn.silu, 'gelu_tanh': functools.partial(nn.gelu, approximate=True)}[
            c.activation
        ]
        # Here and in rms_norm: what is cheap to compute again is not kept for the backward pass.
        gated = jax.checkpoint(lambda gate, up: act(gate) * up, prevent_cse=False)(
            dense('gate', y, D, c.mlp, 'embed', 'mlp'), dense('up', y, D, c.mlp, 'embed', 'mlp')
        )
        out = dense(
            'down', sharding.constrain(self.mesh, gated, 'rows', 'mlp'), c.mlp, D, 'mlp', 'embed'
        )
        x = x + (out if c.norms == 'pre' else norm('mlp_post', out))
        return (sharding.constrain(self.mesh, x.reshape(R, L, D), 'rows', None, None), cache), None


def _norm_init(config):
    init = nn.initializers.zeros if config.unit_offset else nn.initializers.ones
    return nn.with_logical_partitioning(init, ('norm',))


class Decoder(nn.Module):
    """Tokens to final hidden states; the head is applied by those who need it (`logits`), where they
    need it.
    """

    config: ModelConfig
    dtype: Any = jnp.float32  # of the compute; parameters keep their own
    attention: str = 'xla'  # see attention.BACKENDS
    remat: str = 'none'  # what the backward pass computes again: nothing, whole blocks, all but matrix products
    mesh: Any = None  # where activations lie; None: wherever
    stacked: bool = True  # the layers' arrays in one each, looped over; False: each layer's its own, see `unstacked`

    @nn.compact
    def __call__(self, tokens_RL, position_RL, mask_RLC, cache=None, start=None, shared=None):
        """Returns hidden states [R L D] after the last norm, and the cache with these tokens, None
        without one.

        mask: [R L C] bool; its columns are these L tokens, or with a cache those that are shared
          and then the cache's.
        cache: a tuple of {'k' [X R K H C], 'v' [X R K C H]}: of all layers, or unstacked one for
          each, X = 1.
        start: the cache's column that the first of these tokens goes to; or attention.Pages, for
          one token a row, where the cache's rows are pages.
        shared: for each part of the cache {'k' [X K H P], 'v' [X K P H]}, tokens with which all
          rows begin, or None.
        Columns stand in the order of positions: with a cache, position p is column p, those that
          are shared counted.
        """
        c = self.config
        table = self.param('embed', _normal(c.width, 'vocab', 'embed'), (c.vocab, c.width))
        x = jnp.take(table, tokens_RL, axis=0).astype(self.dtype)
        x = sharding.constrain(self.mesh, x, 'rows', None, None)
        x = x * jnp.asarray(c.embed_scale, self.dtype) if c.embed_scale != 1.0 else x
        sees, angles = (mask_RLC,), (rotary_angles(c.rope, c, position_RL),)
        if c.local:
            seen_RC = position_RL if cache is None else jnp.arange(mask_RLC.shape[2])[None, :]
            near = position_RL[:, :, None] - seen_RC[:, None, :] < (
                c.window or jnp.iinfo(jnp.int32).max
            )
            sees, angles = (
                (mask_RLC, mask_RLC & near),
                (*angles, rotary_angles(c.local_rope or c.rope, c, position_RL)),
            )
        policy = (
            jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            if self.remat == 'dots'
            else None
        )
        block = Block if self.remat == 'none' else nn.remat(Block, prevent_cse=False, policy=policy)
        # A single token a row is cheap to compute and dear to loop over.
        unroll = min(c.layers, 8) if tokens_RL.shape[1] == 1 else 1
        some = lambda i: (None, None) if cache is None else (cache[i], shared and shared[i])
        whole = sees, angles, start
        if self.stacked:
            blocks = nn.scan(
                block,
                variable_axes={'params': 0},
                split_rngs={'params': True},
                length=c.layers,
                unroll=unroll,
                in_axes=(0, nn.broadcast),
                metadata_params={nn.PARTITION_NAME: 'layers'},
            )
            blocks, (held, common) = (
                blocks(c, self.dtype, self.attention, self.mesh, name='blocks'),
                some(0),
            )
            each = jnp.arange(c.layers), jnp.array(c.local, bool) if c.local else None, common
            (x, held), _ = blocks((x, held), each, whole)
            cache = cache and (held,)
        else:
            parts = []
            for i in range(c.layers):
                one, (held, common) = (
                    block(c, self.dtype, self.attention, self.mesh, name=f'blocks_{i}'),
                    some(i),
                )
                common = common and {name: y[0] for name, y in common.items()}
                (x, held), _ = one((x, held), (0, bool(c.local) and c.local[i], common), whole)
                parts.append(held)
            cache = cache and tuple(parts)
        scale = self.param('norm', _norm_init(c), (c.width,))
        if not c.tied:
            self.param('head', _normal(c.width, 'embed', 'vocab'), (c.width, c.vocab))
        if c.scalar_head:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('embed', None))
            self.param('scalar', zeros, (c.width, 1))
        return rms_norm(x, scale, c.norm_eps, c.unit_offset), cache


def logits(module, params, hidden_XD):
    """Logits [X V] in float32 of hidden states [X D], through the tied or the own head, soft-capped
    where it is.
    """
    own = params['head'] if 'head' in params else params['embed'].T
    logits = jnp.matmul(hidden_XD, own.astype(hidden_XD.dtype), preferred_element_type=jnp.float32)
    cap = module.config.final_softcap
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def scalar_value(params, hidden_XD):
    """The scalar head's value [X] of hidden states [X D], float32. KeyError without a scalar head."""
    return jnp.matmul(
        hidden_XD, params['scalar'].astype(hidden_XD.dtype), preferred_element_type=jnp.float32
    )[:, 0]


def make_module(config: ModelConfig, dtype: str = 'float32', **fields) -> Decoder:
    """The module of a config, computing in `dtype`; fields: attention, remat, mesh."""
    return Decoder(config, jnp.dtype(dtype), **fields)


def count_weights(module: Decoder) -> int:
    """How many weights of the blocks' matrices a token is multiplied with."""
    return sum(x.size for x in abstract_params(module)[0]['blocks'].values() if x.ndim == 3)


def _init(module: Decoder, key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return module.clone(mesh=None, attention='xla').init(
        key, tokens, tokens, jnp.ones((1, 2, 2), bool)
    )['params']


def init_params(module: Decoder, key):
    """Random parameters, a plain pytree of float32 arrays."""
    return nn.unbox(_init(module, key))


@functools.cache
def abstract_params(module: Decoder, dtype: str = 'float32'):
    """(shapes, logical axis names) of the parameters: two pytrees of the same structure.

    dtype: of the stored parameters; adapters are float32 whatever it is.
    """
    boxed = jax.eval_shape(functools.partial(_init, module), jax.random.key(0))
    is_spec = lambda s: isinstance(s, jax.sharding.PartitionSpec)
    names = jax.tree.map(tuple, nn.get_partition_spec(boxed), is_leaf=is_spec)
    kind = lambda path: jnp.float32 if is_adapter(path) else jnp.dtype(dtype)
    shapes = jax.tree.map_with_path(
        lambda p, x: jax.ShapeDtypeStruct(x.shape, kind(p)), nn.unbox(boxed)
    )
    return shapes, names


@functools.partial(jax.jit, static_argnums=0)
def unstack(module: Decoder, params) -> dict:
    """The parameters of `module.clone(stacked=False)`: a copy in which each layer's lie by
    themselves.

    On a CPU a slice of a stacked array is copied before a product reads it, which costs a decode
    step more than the product does.
    """
    each = {
        f'blocks_{i}': {n: x[i] for n, x in params['blocks'].items()}
        for i in range(module.config.layers)
    }
    return {name: x for name, x in params.items() if name != 'blocks'} | each


def is_adapter(path) -> bool:
    """Whether a leaf at this path of the parameters is LoRA's."""
    return path[-1].key.endswith(LORA)


def init_adapters(module: Decoder, key) -> dict:
    """Fresh adapters of the blocks, name -> array: one factor random, the other 0, so that they
    change nothing yet.
    """
    out = {}
    for i, (name, leaf) in enumerate(sorted(abstract_params(module)[0]['blocks'].items())):
        if name.endswith(LORA[0]):
            out[name] = (
                jax.random.normal(jax.random.fold_in(key, i), leaf.shape) * leaf.shape[1] ** -0.5
            )
        elif name.endswith(LORA[1]):
            out[name] = jnp.zeros(leaf.shape)
    return out


def merge_adapters(module: Decoder, params) -> dict:
    """The parameters without adapters: each matrix with its adapter's product added."""
    blocks, scale = params['blocks'], module.config.lora_alpha / max(module.config.lora, 1)

    def one(name, w):
        if name + LORA[0] not in blocks:
            return w
        delta = (
            jnp.matmul(blocks[name + LORA[0]], blocks[name + LORA[1]], precision='highest') * scale
        )
        return (w.astype(jnp.float32) + delta).astype(w.dtype)

    return params | {'blocks': {n: one(n, w) for n, w in blocks.items() if not n.endswith(LORA)}}
