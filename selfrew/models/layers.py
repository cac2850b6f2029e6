"""One transformer layer: its norms, attention and MLP, and the initializers of its parameters.

Axis letters beside those of selfrew.types: N = K·G query heads, E = N·H, X tokens of all rows laid
end to end, J see rotary. A dense layer has I input and O output features, its adapter the rank A.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from selfrew.mesh import sharding
from selfrew.models import (
    attention,
    cpu_products,
    lora,
    paged_attention,
    quantization,
    rotary,
)
from selfrew.models.config import ModelConfig

ACTIVATIONS = {'silu': nn.silu, 'gelu_tanh': functools.partial(nn.gelu, approximate=True)}


class View(NamedTuple):
    """What tokens see in one kind of layer, global or local, and the angles of their positions."""

    mask: Any  # [R L C] bool
    cos: Any  # [R L 1 J] float32
    sin: Any  # [R L 1 J] float32


def _partitioned(init, *names) -> jax.nn.initializers.Initializer:
    # The stubs know only the box that holds an initialized parameter; self.param unboxes it.
    return cast(jax.nn.initializers.Initializer, nn.with_logical_partitioning(init, names))


def normal_init(fan_in: int, *names):
    """Normal with variance 1 / fan_in; names: the logical axes of the parameter."""
    return _partitioned(nn.initializers.normal(fan_in**-0.5), *names)


def zeros_init(*names):
    """Zeros; names: the logical axes of the parameter."""
    return _partitioned(nn.initializers.zeros, *names)


def ones_init(*names):
    """Ones; names: the logical axes of the parameter."""
    return _partitioned(nn.initializers.ones, *names)


def norm_scale_init(config: ModelConfig):
    """The scale at which a norm only normalises."""
    init = nn.initializers.zeros if config.unit_offset else nn.initializers.ones
    return _partitioned(init, 'norm')


def rms_norm(x, scale, eps: float, unit_offset: bool = False):
    """Root-mean-square normalisation over the last axis, in float32, returned in the dtype of x.

    It multiplies by the scale or, with `unit_offset`, by 1 + scale. x: of any shape. scale: of the
    last axis.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)  # cheap to compute again
    def normed(x, scale):
        x32, scale = x.astype(jnp.float32), scale.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
        factor = (1.0 + scale if unit_offset else scale).reshape((1,) * (x.ndim - 1) + (-1,))
        return (x32 * factor).astype(x.dtype)

    return normed(x, scale)


class Block(nn.Module):
    """One layer: attention, then the MLP, each with its norms and a residual connection."""

    config: ModelConfig
    dtype: Any
    attention: str
    mesh: Mesh | None
    int8: bool = False  # whether its matrices are, see quantization

    @nn.compact
    def __call__(self, carry, scanned, broadcast):
        """Returns ((x_RLD, cache), None), in the form of a step of nn.scan.

        carry: (x_RLD, cache). scanned: (the layer's index in the cache, whether it is local, its
        prefix cache). broadcast: (the views of global and local layers, start). See Decoder.
        """
        x_RLD, cache = carry
        _, is_local, _ = scanned
        views, start = broadcast
        view = _select_view(self.config, views, is_local)
        R, L, D = x_RLD.shape
        x_XD = x_RLD.reshape(R * L, D)
        q_RLNH, k_RKHL, v_RKLH = self._project(x_XD, R, L, view)
        out_RLE, cache = self._attend(q_RLNH, k_RKHL, v_RKLH, view, cache, scanned, start)
        out_XD = self._dense('o', out_RLE.reshape(R * L, -1), D, 'heads', 'embed')
        x_XD = x_XD + self._output_norm('attention_post', out_XD)
        x_XD = x_XD + self._output_norm('mlp_post', self._mlp(self._input_norm('mlp_norm', x_XD)))
        x_RLD = sharding.constrain(self.mesh, x_XD.reshape(R, L, D), 'rows', None, None)
        return (x_RLD, cache), None

    def _dense(self, name: str, x_XI, features: int, *axes):
        """x times a matrix [I O], plus its adapter and bias if the config has them. Returns [X O].

        features: O. axes: the logical names of the matrix's two axes.
        """
        rank, fan_in = self.config.lora, x_XI.shape[-1]
        matrix_IO = self.param(name, normal_init(fan_in, *axes), (fan_in, features))
        out_XO = self._product(x_XI, matrix_IO)
        if self.int8:
            scale_O = self.param(name + quantization.SUFFIX, ones_init(axes[1]), (features,))
            out_XO = (out_XO * scale_O[None]).astype(self.dtype)
        if rank:
            name_a, name_b = name + lora.SUFFIXES[0], name + lora.SUFFIXES[1]
            down_IA = self.param(name_a, normal_init(fan_in, axes[0], None), (fan_in, rank))
            up_AO = self.param(name_b, zeros_init(None, axes[1]), (rank, features))
            delta_XO = self._product(self._product(x_XI, down_IA), up_AO)
            out_XO = out_XO + delta_XO * (self.config.lora_alpha / rank)
        if self.config.qkv_bias and name in ('q', 'k', 'v'):
            bias_O = self.param(f'{name}_bias', zeros_init(axes[1]), (features,))
            out_XO = out_XO + bias_O.astype(self.dtype)[None]
        return out_XO

    def _product(self, x_XI, matrix_IO):
        """x times a matrix, [X O], in the dtype of the compute."""
        matrix_IO = matrix_IO.astype(self.dtype)
        if cpu_products.suit(self.dtype, self.mesh):
            return cpu_products.product(x_XI, matrix_IO).astype(self.dtype)
        return x_XI @ matrix_IO

    def _norm(self, name: str, x):
        """rms_norm of x, of any shape, with the scale of this name."""
        scale = self.param(name, norm_scale_init(self.config), x.shape[-1:])
        return rms_norm(x, scale, self.config.norm_eps, self.config.unit_offset)

    def _input_norm(self, name: str, x_XD):
        return x_XD if self.config.norms == 'post' else self._norm(name, x_XD)

    def _output_norm(self, name: str, x_XD):
        return x_XD if self.config.norms == 'pre' else self._norm(name, x_XD)

    def _project(self, x_XD, R: int, L: int, view: View):
        """Queries [R L N H], keys [R K H L] and values [R K L H]; queries and keys are rotated."""
        N, K, H = self.config.heads, self.config.kv_heads, self.config.head_dim
        x_XD = self._input_norm('attention_norm', x_XD)
        q_RLNH = self._rotated_heads('q', x_XD, (R, L, N, H), 'heads', view)
        k_RLKH = self._rotated_heads('k', x_XD, (R, L, K, H), 'kv', view)
        v_RLKH = self._dense('v', x_XD, K * H, 'embed', 'kv').reshape(R, L, K, H)
        return q_RLNH, k_RLKH.transpose(0, 2, 3, 1), v_RLKH.transpose(0, 2, 1, 3)

    def _rotated_heads(self, name: str, x_XD, shape, axis: str, view: View):
        """The projection `name` as heads of this shape, normalised and rotated.

        shape: R, L, the number of these heads (N here), H. axis: the logical name of their axis.
        """
        heads_XE = self._dense(name, x_XD, shape[2] * shape[3], 'embed', axis)
        if self.config.qk_norm == 'width':
            heads_XE = self._norm(f'{name}_norm', heads_XE)
        heads_RLNH = heads_XE.reshape(shape)
        if self.config.qk_norm == 'head':
            heads_RLNH = self._norm(f'{name}_norm', heads_RLNH)
        heads_RLNH = sharding.constrain(self.mesh, heads_RLNH, 'rows', None, axis, None)
        return rotary.rotate(heads_RLNH, view.cos, view.sin)

    def _attend(self, q_RLNH, k_RKHL, v_RKLH, view: View, cache, scanned, start):
        """(what the queries see [R L N·H], the cache with the new keys and values)."""
        layer, is_local, prefix = scanned
        options: dict[str, Any] = {
            'scale': self.config.attention_scale or self.config.head_dim**-0.5,
            'softcap': self.config.attention_softcap,
            'mesh': self.mesh,
        }
        new, mask = {'k': k_RKHL, 'v': v_RKLH}, view.mask
        if isinstance(start, paged_attention.Pages):
            window = self.config.window if any(self.config.local) else None
            return paged_attention.attend(
                q_RLNH,
                new,
                cache,
                layer,
                start,
                mask,
                prefix,
                is_local=is_local is not None and is_local,
                window=window,
                **options,
            )
        options['backend'] = self.attention
        if cache is None:
            return attention.attend(q_RLNH, k_RKHL, v_RKLH, mask, prefix, **options), None
        cache = attention.append_to_cache(cache, new, layer, start, self.mesh)
        k_RKHC, v_RKCH = attention.read_cache(cache, layer)
        out_RLE = attention.attend(q_RLNH, k_RKHC, v_RKCH, mask, prefix, is_cached=True, **options)
        return out_RLE, cache

    def _mlp(self, x_XD):
        width, activation = self.config.mlp, ACTIVATIONS[self.config.activation]

        @functools.partial(jax.checkpoint, prevent_cse=False)  # cheap to compute again
        def gated(gate_XF, up_XF):
            return activation(gate_XF) * up_XF

        hidden_XF = gated(
            self._dense('gate', x_XD, width, 'embed', 'mlp'),
            self._dense('up', x_XD, width, 'embed', 'mlp'),
        )
        hidden_XF = sharding.constrain(self.mesh, hidden_XF, 'rows', 'mlp')
        return self._dense('down', hidden_XF, self.config.width, 'mlp', 'embed')


def _select_view(config: ModelConfig, views: tuple[View, ...], is_local) -> View:
    """A layer's view. `is_local` is read only where a config has layers of both kinds."""
    if not any(config.local):
        return views[0]
    if all(config.local):
        return views[1]
    return View(*(jnp.where(is_local, near, far) for far, near in zip(*views)))
