"""One decoder-only transformer for all families, which differ in the switches of `ModelConfig`.

The same parameters serve three uses: packed rows (training), prefill and decode (with a cache).
The caller's mask says what a token may see; the module knows nothing of documents or branches.
Dense layers run on [X D], X the tokens of all rows.
"""

import functools
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from selfrew.mesh import sharding
from selfrew.models import cpu_products, layers, lora, quantization, rotary
from selfrew.models.config import ModelConfig

REMAT = 'none', 'full', 'dots'


def _views(config: ModelConfig, position_RL, mask_RLC, is_cached: bool) -> tuple[layers.View, ...]:
    """The view of global layers and, if the config has local ones, theirs."""
    global_view = layers.View(mask_RLC, *rotary.cos_sin(config.rope, config, position_RL))
    if not config.local:
        return (global_view,)
    column_RC = jnp.arange(mask_RLC.shape[2])[None, :] if is_cached else position_RL
    window = config.window or jnp.iinfo(jnp.int32).max
    is_near_RLC = position_RL[:, :, None] - column_RC[:, None, :] < window
    local_angles = rotary.cos_sin(config.local_rope or config.rope, config, position_RL)
    return global_view, layers.View(mask_RLC & is_near_RLC, *local_angles)


class Decoder(nn.Module):
    """Tokens to final hidden states; callers apply a head where they need it (see `logits`)."""

    config: ModelConfig
    dtype: Any = jnp.float32  # of the compute; parameters keep their own
    attention: str = 'xla'  # see attention.BACKENDS
    # What the backward pass computes again: nothing, whole blocks, or all but matrix products.
    remat: str = 'none'
    mesh: Mesh | None = None  # shards activations; None: unsharded
    # True: each parameter is one array of all layers, scanned over; False: see `unstack`.
    stacked: bool = True
    int8: bool = False  # whether matrices are stored in int8, see quantization

    if TYPE_CHECKING:  # linen makes modules hashable; its stubs do not say so

        def __hash__(self) -> int: ...

    @nn.compact
    def __call__(self, tokens_RL, position_RL, mask_RLC, cache=None, start=None, prefix=None):
        """Returns hidden states [R L D] after the last norm, and the updated cache (None without).

        mask: [R L C] bool. Its columns are these L tokens; with a cache, those of the prefix and
          then the cache's.
        cache: a tuple of {'k' [X R K H C], 'v' [X R K C H]}: one of all X layers or, unstacked,
          one for each layer, X = 1.
        start: the cache column of the first of these tokens; or paged_attention.Pages, for one
          token a row, where the cache's rows are pages.
        prefix: for each part of the cache {'k' [X K H P], 'v' [X K P H]}, the tokens with which
          all rows begin; or None.
        With a cache, columns stand in the order of positions: position p is column p, the prefix
        counted.
        """
        config, normal = self.config, layers.normal_init
        shape = config.vocab, config.width
        embed_VD = self.param('embed', normal(config.width, 'vocab', 'embed'), shape)
        x_RLD = jnp.take(embed_VD, tokens_RL, axis=0).astype(self.dtype)
        if self.int8:
            scale_V = self.param(
                'embed' + quantization.SUFFIX, layers.ones_init('vocab'), shape[:1]
            )
            x_RLD = (x_RLD * jnp.take(scale_V, tokens_RL)[..., None]).astype(self.dtype)
        x_RLD = sharding.constrain(self.mesh, x_RLD, 'rows', None, None)
        if config.embed_scale != 1.0:
            x_RLD = x_RLD * jnp.asarray(config.embed_scale, self.dtype)
        broadcast = _views(config, position_RL, mask_RLC, cache is not None), start
        run_blocks = self._scan_blocks if self.stacked else self._loop_blocks
        x_RLD, cache = run_blocks(x_RLD, cache, prefix, broadcast)
        scale_D = self.param('norm', layers.norm_scale_init(config), (config.width,))
        if not config.tied:
            self.param('head', normal(config.width, 'embed', 'vocab'), shape[::-1])
            if self.int8:
                self.param('head' + quantization.SUFFIX, layers.ones_init('vocab'), shape[:1])
        if config.scalar_head:
            self.param('scalar', layers.zeros_init('embed', None), (config.width, 1))
        if config.value_head:
            self.param('value', layers.zeros_init('embed', 'vocab'), shape[::-1])
        return layers.rms_norm(x_RLD, scale_D, config.norm_eps, config.unit_offset), cache

    def _block_class(self):
        if self.remat == 'none':
            return layers.Block
        dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        policy = dots if self.remat == 'dots' else None
        return nn.remat(layers.Block, prevent_cse=False, policy=policy)

    def _unroll(self, tokens: int) -> int:
        """How many layers of the scan are one step of its loop, for so many tokens a row."""
        # A single token is cheap to compute and expensive to loop over; but on a TPU the parameters
        # of several layers would be copied for it.
        is_unrolled = tokens == 1 and sharding.platform(self.mesh) != 'tpu'
        return min(self.config.layers, 8) if is_unrolled else 1

    def _scan_blocks(self, x_RLD, cache, prefix, broadcast):
        """(x_RLD, cache) after one Block scanned over the stacked layers."""
        config = self.config
        scan = nn.scan(
            self._block_class(),
            variable_axes={'params': 0},
            split_rngs={'params': True},
            length=config.layers,
            unroll=self._unroll(x_RLD.shape[1]),
            in_axes=cast(Any, (0, nn.broadcast)),  # the stubs say int
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )
        blocks = scan(config, self.dtype, self.attention, self.mesh, self.int8, name='blocks')
        is_local = jnp.array(config.local, bool) if config.local else None
        scanned = jnp.arange(config.layers), is_local, prefix[0] if prefix else None
        (x_RLD, stack), _ = blocks((x_RLD, cache[0] if cache else None), scanned, broadcast)
        return x_RLD, (stack,) if cache else None

    def _loop_blocks(self, x_RLD, cache, prefix, broadcast):
        """(x_RLD, cache) after one Block for each layer, which has its own parameters and cache."""
        config = self.config
        block_class, new_cache = self._block_class(), []
        for i in range(config.layers):
            block = block_class(
                config, self.dtype, self.attention, self.mesh, self.int8, name=f'blocks_{i}'
            )
            layer_prefix = {name: x[0] for name, x in prefix[i].items()} if prefix else None
            scanned = 0, bool(config.local) and config.local[i], layer_prefix
            (x_RLD, layer), _ = block((x_RLD, cache[i] if cache else None), scanned, broadcast)
            new_cache.append(layer)
        return x_RLD, tuple(new_cache) if cache else None


def logits(module: Decoder, params, hidden_XD):
    """Logits [X V] in float32 of hidden states [X D], soft-capped if the config says so.

    They come from the model's own head or, without one, from the embedding.
    """
    head_DV = params['head'] if 'head' in params else params['embed'].T
    head_DV = head_DV.astype(hidden_XD.dtype)
    if cpu_products.suit(hidden_XD.dtype, module.mesh):
        logits_XV = cpu_products.product(hidden_XD, head_DV)
    else:
        logits_XV = jnp.matmul(hidden_XD, head_DV, preferred_element_type=jnp.float32)
    if module.int8:
        of_head, of_embed = (name + quantization.SUFFIX for name in ('head', 'embed'))
        logits_XV = logits_XV * params.get(of_head, params[of_embed])[None]
    cap = module.config.final_softcap
    return logits_XV if cap is None else cap * jnp.tanh(logits_XV / cap)


def values(head_DV, hidden_XD):
    """The value [X V] of each next token by a value head, float32, of hidden states [X D]."""
    head_DV = head_DV.astype(hidden_XD.dtype)
    return jnp.matmul(hidden_XD, head_DV, preferred_element_type=jnp.float32)


def scalar_value(params, hidden_XD):
    """The scalar head's value [X] of hidden states [X D], float32. KeyError without that head."""
    if 'scalar' not in params:
        raise KeyError(
            "the parameters have no 'scalar' head; checkpoints named …ForSequenceClassification "
            'have one'
        )
    head_D1 = params['scalar'].astype(hidden_XD.dtype)
    return jnp.matmul(hidden_XD, head_D1, preferred_element_type=jnp.float32)[:, 0]


def make_module(config: ModelConfig, dtype: str = 'float32', **fields) -> Decoder:
    """The module of a config, computing in `dtype`; fields: attention, remat, mesh."""
    return Decoder(config, jnp.dtype(dtype), **fields)


def count_weights(module: Decoder) -> int:
    """How many weights a token is multiplied with in the blocks' matrices."""
    return sum(x.size for x in abstract_params(module)[0]['blocks'].values() if x.ndim == 3)


def _init_boxed(module: Decoder, key):
    """Random parameters, each boxed with its logical axis names."""
    tokens_RL, mask_RLC = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2, 2), bool)
    plain = module.clone(mesh=None, attention='xla')
    return plain.init(key, tokens_RL, tokens_RL, mask_RLC)['params']


def init_params(module: Decoder, key):
    """Random parameters, a plain pytree of float32 arrays."""
    return nn.unbox(_init_boxed(module, key))


@functools.cache
def abstract_params(module: Decoder, dtype: str = 'float32'):
    """(shapes, logical axis names) of the parameters: two pytrees of the same structure.

    dtype: of the stored parameters; adapters, and scales of int8, are always float32.
    """

    def with_dtype(path, leaf):
        name = path[-1].key
        is_float32 = lora.is_adapter(name) or quantization.is_scale(name)
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32 if is_float32 else jnp.dtype(dtype))

    boxed = jax.eval_shape(functools.partial(_init_boxed, module), jax.random.key(0))
    names = jax.tree.map(
        tuple,
        nn.get_partition_spec(boxed),
        is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec),
    )
    return jax.tree.map_with_path(with_dtype, nn.unbox(boxed)), names


@functools.partial(jax.jit, static_argnums=0)
def unstack(module: Decoder, params) -> dict:
    """The parameters for `module.clone(stacked=False)`: a copy with separate arrays per layer, and
    matrices in the dtype of the compute.

    On a CPU a slice of a stacked array is copied before a product reads it, which costs a decode
    step more than the product does; so does a conversion, and in bfloat16 a transposed matrix.
    """

    def converted(x):
        return x.astype(module.dtype) if x.ndim > 1 else x

    unstacked = {name: converted(x) for name, x in params.items() if name != 'blocks'}
    if module.dtype == jnp.bfloat16 and 'head' not in params:
        unstacked['head'] = unstacked['embed'].T
    blocks = params['blocks']
    for i in range(module.config.layers):
        unstacked[f'blocks_{i}'] = {name: converted(x[i]) for name, x in blocks.items()}
    return unstacked
