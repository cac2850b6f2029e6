"""Hugging Face folders, in and out: config.json and safetensors, read tensor by tensor, without torch. Layer 1."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfrew.models.decoder import LORA, ModelConfig, Rope

# --- config.json ------------------------------------------------------------------------------------------------------

# family -> the switches that all its members have. An architecture is a family and what it is for.
FAMILIES = {
    'Llama': {},
    'Mistral': {},
    'Qwen2': {'qkv_bias': True},
    'Qwen3': {'qk_norm': 'head'},
    'Gemma2': {'norms': 'both', 'unit_offset': True},
    'Gemma3': {'norms': 'both', 'unit_offset': True, 'qk_norm': 'head'},
    'Phi3': {},
    'Olmo2': {'norms': 'post', 'qk_norm': 'width'},
}
HEADS = {'ForCausalLM': False, 'ForSequenceClassification': True}
ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
ROPES = 'default', 'linear', 'llama3', 'longrope'
# What a family's own class takes for a field that its config.json leaves out, where that differs from Llama's.
DEFAULTS = {
    'Mistral': {'num_key_value_heads': 8, 'sliding_window': 4096, 'max_position_embeddings': 131072},
    'Qwen2': {'num_key_value_heads': 32, 'sliding_window': 4096, 'max_position_embeddings': 32768},
    'Qwen3': {
        'num_key_value_heads': 32, 'head_dim': 128, 'sliding_window': 4096, 'max_position_embeddings': 32768,
    },
    'Gemma2': {
        'head_dim': 256, 'num_key_value_heads': 4, 'query_pre_attn_scalar': 256, 'sliding_window': 4096,
        'attn_logit_softcapping': 50.0, 'final_logit_softcapping': 30.0, 'tie_word_embeddings': True,
        'max_position_embeddings': 8192,
    },
    'Gemma3': {
        'head_dim': 256, 'num_key_value_heads': 4, 'query_pre_attn_scalar': 256, 'sliding_window': 4096,
        'tie_word_embeddings': True, 'rope_theta': 1e6, 'rope_local_base_freq': 1e4, 'sliding_window_pattern': 6,
        'max_position_embeddings': 131072, 'vocab_size': 262208,
    },
    'Phi3': {'rms_norm_eps': 1e-5, 'max_position_embeddings': 4096, 'original_max_position_embeddings': 4096},
    'Olmo2': {'rms_norm_eps': 1e-5},
}  # fmt: skip
# Switches that this decoder does not have, and the values of each at which they do nothing.
FIXED = {
    'attention_bias': (False,), 'mlp_bias': (False,), 'pretraining_tp': (1,), 'attention_dropout': (0, None),
    'resid_pdrop': (0,), 'embd_pdrop': (0,), 'use_bidirectional_attention': (False, None), 'is_decoder': (True, False),
    'add_cross_attention': (False,), 'tie_encoder_decoder': (False,), 'cross_attention_hidden_size': (None,),
    'clip_qkv': (None,), 'num_labels': (1,), 'full_attn_mod': (1,), 'interpolate_factor': (1,),
}  # fmt: skip
# Fields that say nothing about the arithmetic of a forward pass, or are read elsewhere.
HARMLESS = {
    'architectures', 'model_type', 'torch_dtype', 'dtype', 'transformers_version', 'use_cache', 'initializer_range',
    'bos_token_id', 'eos_token_id', 'pad_token_id', 'sep_token_id', '_name_or_path', 'auto_map', 'id2label',
    'label2id', 'problem_type', 'cache_implementation', 'chunk_size_feed_forward', 'output_attentions',
    'output_hidden_states', 'return_dict', 'classifier_dropout', 'initializer_std', 'unsloth_version',
    '_attn_implementation', '_attn_implementation_autoset', 'finetuning_task', 'task_specific_params', 'prefix',
    '_commit_hash', 'is_llama_config', 'transformers.js_config',
    'sliding_window_size',  # Gemma 2's first files say sliding_window twice
    # how to sample, where a generation_config.json has it now
    'max_length', 'max_new_tokens', 'min_length', 'do_sample', 'temperature', 'top_p', 'top_k', 'num_beams',
    'repetition_penalty',
}  # fmt: skip


class _Fields:
    """A config.json that remembers which of its fields were read."""

    def __init__(self, fields: dict, defaults: dict):
        self._fields, self._defaults, self.read = fields, defaults, set()

    def __call__(self, name, default=None):
        self.read.add(name)
        value = self._fields.get(name)
        return self._defaults.get(name, default) if value is None and name not in self._fields else value


def config_of(fields: dict, where: str, max_length: int | None = None) -> ModelConfig:
    """The decoder's shape from the content of a config.json, in the hub's or in transformers 5's form.

    Args:
      where: the file, for messages.
      max_length: the longest context of the run, at most the checkpoint's; None: the checkpoint's (of LongRoPE, the
        context before it was extended: its factors for longer ones are taken only where a longer one is asked for).
    Raises ValueError for an architecture or a switch that is not supported, by name, or a missing field.
    """
    named = (fields.get('architectures') or ['none'])[0]
    head = next((h for h in HEADS if named.endswith(h)), '')
    family = named.removesuffix(head)
    family = 'Gemma3' if named == 'Gemma3TextForSequenceClassification' else family
    if not head or family not in FAMILIES:
        raise ValueError(f'{where}: architecture {named!r} is not supported; supported: '
                         f'{", ".join(FAMILIES)}, each with {" or ".join(HEADS)}')  # fmt: skip
    get = _Fields(fields, DEFAULTS.get(family, {}))

    def need(name):
        if (value := get(name)) is None:
            raise ValueError(f'{where}: {name} is missing')
        return value

    for switch, values in FIXED.items():
        if get(switch, values[0]) not in values:
            raise ValueError(f'{where}: {switch}={fields[switch]!r} is not supported; supported: {values[0]!r}')
    # Without a word on labels there are two, as transformers' classes have it.
    if HEADS[head] and 'num_labels' not in fields and (labels := len(get('id2label') or 'ab')) != 1:
        raise ValueError(f'{where}: {labels} labels (id2label) are not supported; supported: 1, a reward')
    act = get('hidden_activation') or get('hidden_act') or ('gelu_pytorch_tanh' if 'Gemma' in family else 'silu')
    if 'Gemma' in family:
        get('hidden_act')  # stands there for old readers, whatever it says
    if act not in ACTIVATIONS:
        raise ValueError(f'{where}: activation {act!r} is not supported; supported: {", ".join(ACTIVATIONS)}')

    width, heads, layers = need('hidden_size'), need('num_attention_heads'), need('num_hidden_layers')
    positions = get('max_position_embeddings', 2048)
    window, local = _locals(get, family, layers, where)
    rope, local_rope = _ropes(get, family, positions, where)
    limit = positions
    if rope.kind == 'longrope' and max_length is None:
        limit = min(positions, rope.original)
    if max_length is not None and not 1 <= max_length <= positions:
        raise ValueError(f'{where}: max_length={max_length}, and the model has positions for 1 to {positions}')
    scale = get('query_pre_attn_scalar') if 'Gemma' in family else None
    config = ModelConfig(
        vocab=need('vocab_size'), width=width, layers=layers, heads=heads, max_length=max_length or limit,
        kv_heads=get('num_key_value_heads') or heads, head_dim=get('head_dim') or width // heads,
        mlp=need('intermediate_size'), rope=rope, local_rope=local_rope, norm_eps=get('rms_norm_eps', 1e-6),
        tied=bool(get('tie_word_embeddings', False)) or HEADS[head], scalar_head=HEADS[head],
        activation=ACTIVATIONS[act], embed_scale=width**0.5 if 'Gemma' in family else 1.0, window=window, local=local,
        attention_scale=scale**-0.5 if scale else None,
        attention_softcap=get('attn_logit_softcapping') if 'Gemma' in family else None,
        final_softcap=get('final_logit_softcapping') if 'Gemma' in family else None, **FAMILIES[family],
    )  # fmt: skip
    half = int(config.head_dim * rope.partial) // 2
    if rope.kind == 'longrope' and (len(rope.short), len(rope.long)) != (half, half):
        raise ValueError(f'{where}: longrope wants {half} factors, got {len(rope.short)} short, {len(rope.long)} long')
    unread = {k: v for k, v in fields.items() if k not in get.read | HARMLESS and v not in (None, False)}
    if unread:
        shown = ', '.join(f'{k}={v!r}'[:80] for k, v in unread.items())
        raise ValueError(f'{where}: nothing here reads {shown}; a {family} is supported with: '
                         f'{", ".join(sorted(get.read))}')  # fmt: skip
    return config


def _locals(get, family: str, layers: int, where: str):
    """(window, which layers are local)."""
    window, kinds = get('sliding_window'), get('layer_types')
    used, first, pattern = get('use_sliding_window', False), get('max_window_layers', 28), get('sliding_window_pattern')
    get('_sliding_window_pattern')
    if not window or (family in ('Qwen2', 'Qwen3') and not used):
        window = None
    if kinds is not None:
        unknown = set(kinds) - {'full_attention', 'sliding_attention'}
        if unknown or len(kinds) != layers:
            raise ValueError(f'{where}: layer_types {unknown or kinds} is not supported; supported: one of full_attention, '
                             f'sliding_attention for each of {layers} layers')  # fmt: skip
        local = tuple(kind == 'sliding_attention' for kind in kinds)
    elif family in ('Qwen2', 'Qwen3'):
        local = tuple(i >= first for i in range(layers))
    elif family in ('Gemma2', 'Gemma3'):
        every = 2 if family == 'Gemma2' else pattern
        local = tuple((i + 1) % every != 0 for i in range(layers))
    else:
        local = (True,) * layers
    if window is None and family != 'Gemma3':
        local = ()
    return (window, local) if any(local) else (None, ())


def _ropes(get, family: str, positions: int, where: str):
    """(rope, rope of the local layers or None)."""
    new, old = get('rope_parameters'), get('rope_scaling') or {}
    theta, local_theta = get('rope_theta', 10000.0), get('rope_local_base_freq')
    partial, original = get('partial_rotary_factor', 1.0), get('original_max_position_embeddings')

    def rope(d, theta):
        kind = d.get('rope_type', d.get('type', 'default'))
        kind = 'longrope' if family == 'Phi3' and kind in ('su', 'yarn') else kind
        if kind not in ROPES:
            raise ValueError(f'{where}: rope type {kind!r} is not supported; supported: {", ".join(ROPES)}')
        fields = {'theta': float(d.get('rope_theta', theta)), 'partial': float(d.get('partial_rotary_factor', partial))}
        try:
            if kind in ('linear', 'llama3'):
                fields['factor'] = float(d['factor'])
            if kind == 'llama3':
                fields |= {'low': float(d['low_freq_factor']), 'high': float(d['high_freq_factor']),
                           'original': int(d['original_max_position_embeddings'])}  # fmt: skip
            if kind == 'longrope':
                before = int(original or d['original_max_position_embeddings'])
                factor = d.get('factor') or positions / before
                grown = float(np.sqrt(1 + np.log(factor) / np.log(before))) if factor > 1 else 1.0
                fields |= {'short': tuple(map(float, d['short_factor'])), 'long': tuple(map(float, d['long_factor'])),
                           'original': before,
                           'attention_factor': float(d.get('attention_factor') or grown)}  # fmt: skip
        except KeyError as missing:
            raise ValueError(f'{where}: rope type {kind!r} wants {missing}') from None
        return Rope(kind=kind, **fields)

    if family == 'Gemma3':
        both = new or {}
        if new is not None and not {'full_attention', 'sliding_attention'} & set(new):
            both = {'full_attention': new}
        return (rope(both.get('full_attention') or old, theta),
                rope(both.get('sliding_attention') or {}, local_theta))  # fmt: skip
    return rope(new if new is not None else old, theta), None


def read_json(folder: str) -> dict:
    """The content of a folder's config.json. ValueError where there is none, or it is none."""
    path = os.path.join(folder, 'config.json')
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        raise ValueError(f'{folder!r} is not a Hugging Face checkpoint: it has no config.json') from None
    except json.JSONDecodeError as problem:
        raise ValueError(f'{path} is not JSON: {problem}') from None


def read_config(folder: str, max_length: int | None = None) -> ModelConfig:
    """The decoder's shape from a folder's config.json. Raises as `config_of` and `read_json` do."""
    return config_of(read_json(folder), os.path.join(folder, 'config.json'), max_length)


# --- tensors ----------------------------------------------------------------------------------------------------------

# ours -> theirs; `{}` is the layer. Matrices are stored [out, in] there and [in, out] here.
OUTER = {'embed': 'model.embed_tokens.weight', 'norm': 'model.norm.weight', 'head': 'lm_head.weight',
         'scalar': 'score.weight'}  # fmt: skip
LAYER = {
    'q': 'self_attn.q_proj.weight', 'k': 'self_attn.k_proj.weight', 'v': 'self_attn.v_proj.weight',
    'o': 'self_attn.o_proj.weight', 'gate': 'mlp.gate_proj.weight', 'up': 'mlp.up_proj.weight',
    'down': 'mlp.down_proj.weight', 'q_bias': 'self_attn.q_proj.bias', 'k_bias': 'self_attn.k_proj.bias',
    'v_bias': 'self_attn.v_proj.bias', 'q_norm': 'self_attn.q_norm.weight', 'k_norm': 'self_attn.k_norm.weight',
}  # fmt: skip
NORMS = {
    'pre': {'attention_norm': 'input_layernorm', 'mlp_norm': 'post_attention_layernorm'},
    'post': {'attention_post': 'post_attention_layernorm', 'mlp_post': 'post_feedforward_layernorm'},
    'both': {'attention_norm': 'input_layernorm', 'attention_post': 'post_attention_layernorm',
             'mlp_norm': 'pre_feedforward_layernorm', 'mlp_post': 'post_feedforward_layernorm'},
}  # fmt: skip
FUSED = {'self_attn.qkv_proj.weight': ('q', 'k', 'v'), 'mlp.gate_up_proj.weight': ('gate', 'up')}
SKIPPED = '.self_attn.rotary_emb.inv_freq'  # a constant that old writers stored


def layout(config: ModelConfig, fused: bool) -> dict:
    """The tensors of a block: their name, with the layer as `{}` -> our leaves that lie in it, one after the other."""
    names = LAYER | {ours: f'{theirs}.weight' for ours, theirs in NORMS[config.norms].items()}
    split = [ours for parts in FUSED.values() for ours in parts] if fused else []
    out = {theirs: (ours,) for ours, theirs in names.items() if ours not in split} | (FUSED if fused else {})
    return {f'model.layers.{{}}.{theirs}': ours for theirs, ours in out.items()}


def _files(folder: str) -> dict:
    """Tensor name -> the safetensors file that holds it. ValueError names a file that is cut or not there."""
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
            raise ValueError(f'{path} is cut short or not there ({problem}); download or copy it again') from None
    if not found:
        raise ValueError(f'no .safetensors file in {folder!r}; weights in another format are not supported')
    return found


def read_params(folder: str, config: ModelConfig, shapes, shardings) -> dict:
    """The parameters, in the structure of `shapes` (see decoder.abstract), each on its devices. Adapters are left out.

    A tensor is read, put where it belongs and let go before the next one: the host holds one at a time, and a process
    only the parts that its devices want.
    Raises ValueError that names missing, extra or misshapen tensors, before anything is put on a device.
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
    part = lambda name: opened[files[name]].get_slice(name)  # noqa: E731
    _check(folder, config, shapes, blocks, files, part, fused)

    def put(name, first, shape, sharding):
        """The rows of a tensor from `first` on, of this shape (theirs), sharded."""
        rows = lambda s: slice(first + (s.start or 0), first + (shape[0] if s.stop is None else s.stop))  # noqa: E731
        read = lambda index: np.ascontiguousarray(part(name)[(rows(index[0]), *index[1:])])  # noqa: E731
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
        params[name] = _settle(put(OUTER[name], 0, shape, sharding), flip, leaf.dtype, shardings[name])
    for name, leaf in blocks.items():
        sharding, (theirs, first) = shardings['blocks'][name], where[name]
        stack = jax.jit(functools.partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=sharding)()
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
    """ValueError that names the tensors that are missing, extra or of another shape than the config says."""
    wanted = {}
    for name, leaf in shapes.items():
        if name != 'blocks':
            wanted[OUTER[name]] = leaf.shape if name == 'embed' else leaf.shape[::-1]
    for theirs, ours in layout(config, fused).items():
        leaves = [blocks[n] for n in ours if n in blocks]
        for i in range(config.layers if leaves else 0):
            wanted[theirs.format(i)] = (sum(leaf.shape[-1] for leaf in leaves), *leaves[0].shape[1:-1])
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
        raise ValueError(f'{folder}: the tensors are not those of its config.json: ' + '; '.join(wrong[:20]) + more)


def write(folder: str, fields: dict, config: ModelConfig, params, *, dtype: str = 'float32',
          shard_bytes: int = 4 << 30) -> None:  # fmt: skip
    """config.json and safetensors of `params` without adapters (see decoder.merged). The tokenizer is the caller's.

    Args:
      fields: the content of config.json; its dtype is replaced.
      dtype: of the stored tensors. shard_bytes: a file is closed before it grows beyond that.
    Raises ValueError for parameters that such a checkpoint has no tensor for.
    """
    if unknown := set(params) - set(OUTER) - {'blocks'}:
        raise ValueError(f'a checkpoint of {fields["architectures"][0]} has no tensor for {", ".join(sorted(unknown))}')
    os.makedirs(folder, exist_ok=True)
    blocks, kind = params['blocks'], jnp.dtype(dtype)
    if left := [n for n in blocks if n.endswith(LORA)]:
        raise ValueError(f'a checkpoint has no tensor for {left[0]}: merge the adapters first')

    def tensors():
        for name in [n for n in OUTER if n in params]:
            array = np.asarray(jax.device_get(params[name]))
            yield OUTER[name], np.ascontiguousarray(array if name == 'embed' else array.T, dtype=kind)
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
        name = 'model.safetensors' if len(files) == 1 else f'model-{i + 1:05d}-of-{len(files):05d}.safetensors'
        os.replace(path, os.path.join(folder, name))
        index |= dict.fromkeys(mine, name)
    if len(files) > 1:
        total = sum(sum(mine.values()) for _, mine in files)
        dump(folder, 'model.safetensors.index.json', {'metadata': {'total_size': total}, 'weight_map': index})
    dump(folder, 'config.json', {k: v for k, v in fields.items() if k != 'torch_dtype'} | {'dtype': dtype})


@jax.jit
def _layer(stack, i):
    return jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)


def dump(folder: str, name: str, content: dict) -> None:
    """A JSON file of a checkpoint."""
    with open(os.path.join(folder, name), 'w') as file:
        json.dump(content, file, indent=2)
        file.write('\n')


def llama(config: ModelConfig, *, bos: int, eos: int, pad: int) -> dict:
    """The config.json of a decoder that has no switch set."""
    return {
        'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'vocab_size': config.vocab,
        'hidden_size': config.width, 'num_hidden_layers': config.layers, 'num_attention_heads': config.heads,
        'num_key_value_heads': config.kv_heads, 'head_dim': config.head_dim, 'intermediate_size': config.mlp,
        'max_position_embeddings': config.max_length, 'rope_theta': config.rope.theta,
        'rms_norm_eps': config.norm_eps, 'tie_word_embeddings': config.tied, 'hidden_act': 'silu',
        'attention_bias': False, 'mlp_bias': False, 'bos_token_id': bos, 'eos_token_id': eos, 'pad_token_id': pad,
    }  # fmt: skip
