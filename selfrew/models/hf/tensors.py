"""The tensors of Hugging Face folders, in and out: safetensors, read tensor by tensor, without
torch.
"""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfrew.models.decoder import LORA, ModelConfig

# --- tensors ----------------------------------------------------------------------------------------------------------

# ours -> theirs; `{}` is the layer. Matrices are stored [out, in] there and [in, out] here.
OUTER = {
    'embed': 'model.embed_tokens.weight',
    'norm': 'model.norm.weight',
    'head': 'lm_head.weight',
    'scalar': 'score.weight',
}
LAYER = {
    'q': 'self_attn.q_proj.weight',
    'k': 'self_attn.k_proj.weight',
    'v': 'self_attn.v_proj.weight',
    'o': 'self_attn.o_proj.weight',
    'gate': 'mlp.gate_proj.weight',
    'up': 'mlp.up_proj.weight',
    'down': 'mlp.down_proj.weight',
    'q_bias': 'self_attn.q_proj.bias',
    'k_bias': 'self_attn.k_proj.bias',
    'v_bias': 'self_attn.v_proj.bias',
    'q_norm': 'self_attn.q_norm.weight',
    'k_norm': 'self_attn.k_norm.weight',
}
NORMS = {
    'pre': {'attention_norm': 'input_layernorm', 'mlp_norm': 'post_attention_layernorm'},
    'post': {
        'attention_post': 'post_attention_layernorm',
        'mlp_post': 'post_feedforward_layernorm',
    },
    'both': {
        'attention_norm': 'input_layernorm',
        'attention_post': 'post_attention_layernorm',
        'mlp_norm': 'pre_feedforward_layernorm',
        'mlp_post': 'post_feedforward_layernorm',
    },
}
FUSED = {'self_attn.qkv_proj.weight': ('q', 'k', 'v'), 'mlp.gate_up_proj.weight': ('gate', 'up')}
SKIPPED = '.self_attn.rotary_emb.inv_freq'  # a constant that old writers stored


def layout(config: ModelConfig, fused: bool) -> dict:
    """The tensors of a block: their name, with the layer as `{}` -> our leaves that lie in it, one
    after the other.
    """
    names = LAYER | {ours: f'{theirs}.weight' for ours, theirs in NORMS[config.norms].items()}
    split = [ours for parts in FUSED.values() for ours in parts] if fused else []
    out = {theirs: (ours,) for ours, theirs in names.items() if ours not in split} | (
        FUSED if fused else {}
    )
    return {f'model.layers.{{}}.{theirs}': ours for theirs, ours in out.items()}


def _files(folder: str) -> dict:
    """Tensor name -> the safetensors file that holds it. ValueError names a file that is cut or not
    there.
    """
    found = {}
    index, names = os.path.join(folder, 'model.safetensors.index.json'), {'model.safetensors'}
    if os.path.exists(index):
        with open(index) as file:
            names = set(json.load(file)['weight_map'].values())
    elif not os.path.exists(os.path.join(folder, 'model.safetensors')):
        names = {name for name in os.listdir(folder) if name.endswith('.safetensors')}
    for name in sorted(names):
        path = os.path.join(folder, name)
        try:
            with safe_open(path, framework='np') as file:
                found.update(dict.fromkeys(file.keys(), path))
        except (SafetensorError, FileNotFoundError) as problem:
            raise ValueError(
                f'{path} is cut short or not there ({problem}); download or copy it again'
            ) from None
    if not found:
        raise ValueError(
            f'no .safetensors file in {folder!r}; weights in another format are not supported'
        )
    return found


def read_params(folder: str, config: ModelConfig, shapes, shardings) -> dict:
    """The parameters, in the structure of `shapes` (see decoder.abstract_params), each on its
    devices. Adapters are left out.

    A tensor is read, put where it belongs and let go before the next one: the host holds one at a
    time, and a process only the parts that its devices want.
    Raises ValueError that names missing, extra or misshapen tensors, before anything is put on a
    device.
    """
    files = _files(folder)
    blocks = {n: leaf for n, leaf in shapes['blocks'].items() if not n.endswith(LORA)}
    fused = any(name.endswith(tuple(FUSED)) for name in files)
    # ours -> (their name, first row in it)
    where = {}
    for theirs, ours in layout(config, fused).items():
        at = 0
        for name in [n for n in ours if n in blocks]:
            where[name] = theirs, at
            at += blocks[name].shape[-1]
    opened = {path: safe_open(path, framework='np') for path in set(files.values())}
    part = lambda name: opened[files[name]].get_slice(name)
    _check(folder, config, shapes, blocks, files, part, fused)

    def put(name, first, shape, sharding):
        """The rows of a tensor from `first` on, of this shape (theirs), sharded."""
        rows = lambda s: slice(
            first + (s.start or 0), first + (shape[0] if s.stop is None else s.stop)
        )
        read = lambda index: np.ascontiguousarray(part(name)[(rows(index[0]), *index[1:])])
        return jax.make_array_from_callback(shape, sharding, read)

    def turned(sharding, shape):
        """How a matrix of ours lies while it is still the other way round."""
        spec = tuple(sharding.spec) + (None,) * (len(shape) - len(sharding.spec))
        return NamedSharding(sharding.mesh, PartitionSpec(*reversed(spec[-len(shape) :])))

    params = {'blocks': {}}
    for name, leaf in shapes.items():
        if name == 'blocks':
            continue
        flip = len(leaf.shape) == 2 and name != 'embed'
        shape = leaf.shape[::-1] if flip else leaf.shape
        sharding = turned(shardings[name], shape) if flip else shardings[name]
        params[name] = _settle(
            put(OUTER[name], 0, shape, sharding), flip, leaf.dtype, shardings[name]
        )
    for name, leaf in blocks.items():
        sharding, (theirs, first) = shardings['blocks'][name], where[name]
        stack = jax.jit(
            functools.partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=sharding
        )()
        one = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
        for i in range(leaf.shape[0]):
            layer = put(theirs.format(i), first, leaf.shape[:0:-1], turned(one, leaf.shape[1:]))
            stack = _write(stack, layer, i, sharding)
            stack.block_until_ready()  # or the host runs ahead, with more than one tensor in hand
        params['blocks'][name] = stack
    return params


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _settle(array, flip, dtype, sharding):
    return jax.lax.with_sharding_constraint((array.T if flip else array).astype(dtype), sharding)


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def _write(stack, layer, i, sharding):
    stack = jax.lax.dynamic_update_index_in_dim(stack, layer.T.astype(stack.dtype), i, 0)
    return jax.lax.with_sharding_constraint(stack, sharding)


def _check(folder, config, shapes, blocks, files, part, fused) -> None:
    """ValueError that names the tensors that are missing, extra or of another shape than the config
    says.
    """
    wanted = {}
    for name, leaf in shapes.items():
        if name != 'blocks':
            wanted[OUTER[name]] = leaf.shape if name == 'embed' else leaf.shape[::-1]
    for theirs, ours in layout(config, fused).items():
        leaves = [blocks[n] for n in ours if n in blocks]
        for i in range(config.layers if leaves else 0):
            wanted[theirs.format(i)] = (
                sum(leaf.shape[-1] for leaf in leaves),
                *leaves[0].shape[1:-1],
            )
    wrong = [f'missing: {name}' for name in wanted if name not in files]
    for name, shape in wanted.items():
        if name in files and (found := tuple(part(name).get_shape())) != shape:
            wrong.append(f'misshapen: {name} is {found}, expected {shape}')
    # Some writers store a tied head again.
    ignored = {OUTER['head']} if 'head' not in shapes else set()
    extra = set(files) - set(wanted) - ignored
    wrong += [f'extra: {name}' for name in sorted(extra) if not name.endswith(SKIPPED)]
    if wrong:
        more = f'; and {len(wrong) - 20} more' if len(wrong) > 20 else ''
        raise ValueError(
            f'{folder}: the tensors are not those of its config.json: '
            + '; '.join(wrong[:20])
            + more
        )


def write(
    folder: str,
    fields: dict,
    config: ModelConfig,
    params,
    *,
    dtype: str = 'float32',
    shard_bytes: int = 4 << 30,
) -> None:
    """config.json and safetensors of `params` without adapters (see decoder.merge_adapters). The
    tokenizer is the caller's.

    Args:
      fields: the content of config.json; its dtype is replaced.
      dtype: of the stored tensors. shard_bytes: a file is closed before it grows beyond that.
    Raises ValueError for parameters that such a checkpoint has no tensor for.
    """
    if unknown := set(params) - set(OUTER) - {'blocks'}:
        raise ValueError(
            f'a checkpoint of {fields["architectures"][0]} has no tensor for {", ".join(sorted(unknown))}'
        )
    os.makedirs(folder, exist_ok=True)
    blocks, kind = params['blocks'], jnp.dtype(dtype)
    if left := [n for n in blocks if n.endswith(LORA)]:
        raise ValueError(f'a checkpoint has no tensor for {left[0]}: merge the adapters first')

    def tensors():
        for name in [n for n in OUTER if n in params]:
            array = np.asarray(jax.device_get(params[name]))
            yield (
                OUTER[name],
                np.ascontiguousarray(array if name == 'embed' else array.T, dtype=kind),
            )
        fused = fields['architectures'][0].startswith('Phi3')
        for theirs, ours in layout(config, fused).items():
            mine = [blocks[n] for n in ours if n in blocks]
            for i in range(config.layers if mine else 0):
                parts = [np.asarray(_layer(leaf, i)).T for leaf in mine]
                yield theirs.format(i), np.ascontiguousarray(np.concatenate(parts), dtype=kind)

    files, held, size = [], {}, 0

    def close():
        path = os.path.join(folder, f'{len(files)}.safetensors.partial')
        save_file(held, path, metadata={'format': 'pt'})
        files.append((path, {name: array.nbytes for name, array in held.items()}))

    for name, array in tensors():
        if held and size + array.nbytes > shard_bytes:
            close()
            held, size = {}, 0
        held[name] = array
        size += array.nbytes
    close()
    for old in os.listdir(folder):
        if old.endswith('.safetensors') or old == 'model.safetensors.index.json':
            os.remove(os.path.join(folder, old))
    index = {}
    for i, (path, mine) in enumerate(files):
        name = (
            'model.safetensors'
            if len(files) == 1
            else f'model-{i + 1:05d}-of-{len(files):05d}.safetensors'
        )
        os.replace(path, os.path.join(folder, name))
        index |= dict.fromkeys(mine, name)
    if len(files) > 1:
        total = sum(sum(mine.values()) for _, mine in files)
        dump(
            folder,
            'model.safetensors.index.json',
            {'metadata': {'total_size': total}, 'weight_map': index},
        )
    dump(
        folder,
        'config.json',
        {k: v for k, v in fields.items() if k != 'torch_dtype'} | {'dtype': dtype},
    )


@jax.jit
def _layer(stack, i):
    return jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)


def dump(folder: str, name: str, content: dict) -> None:
    """A JSON file of a checkpoint."""
    with open(os.path.join(folder, name), 'w') as file:
        json.dump(content, file, indent=2)
        file.write('\n')
