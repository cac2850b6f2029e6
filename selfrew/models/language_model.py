"""Lm: a module, its tokenizer and its mesh, without parameters. Layer 2."""

import dataclasses
import os
import re

import jax
import jax.numpy as jnp

from selfrew.mesh import processes, sharding
from selfrew.models import attention as attention_backends, decoder, hf, text

TINY = os.path.join(os.path.dirname(__file__), 'tiny_base')
DTYPES = 'float32', 'bfloat16'
# Of a hub repository; some keep their weights twice.
WANTED = '*.json', '*.safetensors', '*.jinja', 'tokenizer.model', 'merges.txt', 'vocab.txt'
TWICE = 'consolidated*', 'original/*', '*/*'


@dataclasses.dataclass(frozen=True, eq=False)
class Lm:
    module: decoder.Decoder
    text: text.Text
    mesh: jax.sharding.Mesh
    param_dtype: str = 'float32'  # how parameters are kept, adapters aside
    folder: str | None = None  # where it came from
    cache: str | None = (
        None  # how keys and values are kept while sampling; None: as they are computed
    )
    cache_gib: float | None = (
        None  # what they may take of a device; None: see generate.layout.budget
    )

    @property
    def config(self) -> decoder.ModelConfig:
        return self.module.config

    @property
    def cache_dtype(self):
        return jnp.dtype(self.cache or self.module.dtype)

    def abstract_params(self):
        """The shape and dtype of each parameter."""
        return decoder.abstract_params(self.module, self.param_dtype)[0]

    def param_shardings(self):
        """The sharding of each parameter."""
        return sharding.of_params(self.mesh, *decoder.abstract_params(self.module))

    def base_params(self) -> dict:
        """The parameters as the folder has them, before any training: M_0. Adapters, if any, change
        nothing yet.
        """
        values = hf.read_params(self.folder, self.config, self.abstract_params(), self.param_shardings())
        if self.config.lora:
            fresh, lie = (
                decoder.init_adapters(self.module, jax.random.key(0)),
                self.param_shardings()['blocks'],
            )
            values['blocks'] |= {name: processes.place(x, lie[name]) for name, x in fresh.items()}
        return values

    def place_rows(self, tree):
        """Puts host arrays whose first axis is rows onto the mesh."""
        return processes.place(tree, sharding.of(self.mesh, 'rows'))

    def replicate(self, tree):
        """Puts host arrays onto the mesh, replicated."""
        return processes.place(tree, sharding.of(self.mesh))


def resolve_folder(folder: str) -> str:
    """The local folder of a path, of 'tiny' (the base that ships), or of a hub name, which is
    downloaded.

    Raises FileNotFoundError where there is none.
    """
    if folder == 'tiny' or os.path.isdir(folder):
        return TINY if folder == 'tiny' else folder
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', folder):
        raise FileNotFoundError(
            f'no model folder {folder!r}; give a Hugging Face folder, a hub name such as '
            f'"Qwen/Qwen2.5-0.5B-Instruct", or "tiny"'
        )
    from huggingface_hub import snapshot_download  # slow to import

    try:
        return snapshot_download(folder, allow_patterns=list(WANTED), ignore_patterns=list(TWICE))
    except Exception as problem:
        said = str(problem).strip().split('\n')[0]
        raise FileNotFoundError(
            f'{folder!r} is not a folder here, and as a hub name it could not be downloaded '
            f'({said})'
        ) from None


def context_length(*, folder: str, max_length: int | None = None, **_) -> int:
    """The longest context of the model that `load` with these fields would give. Raises as `load`
    does.
    """
    return hf.read_config(resolve_folder(folder), max_length).max_length


def load(
    *,
    folder: str,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    dtype: str = 'float32',
    params: str = 'float32',
    max_length: int | None = None,
    attention: str = 'xla',
    remat: str = 'none',
    cache: str | None = None,
    cache_gib: float | None = None,
    chat_template: str | None = None,
    lora: int = 0,
    lora_alpha: float = 16.0,
    shape: dict | None = None,
):
    """(lm, params) of a Hugging Face folder or hub name, or of 'tiny', the base that ships with the
    package.

    Args:
      folder: see models.hf for what is supported.
      data, fsdp, tensor: the mesh.
      dtype: of the compute, 'float32' or 'bfloat16'; softmax, norms and log-probabilities are
        float32 in either.
      params: how parameters are kept; for 'bfloat16' the optimiser holds a float32 copy while it
        trains.
      max_length: the longest context, at most the checkpoint's; None: the checkpoint's (see
        hf.config_of).
      attention: 'xla', 'cudnn' (GPU) or 'splash' (TPU). remat: what the backward pass computes
        again to save memory, 'none', 'full' (whole blocks) or 'dots' (all but matrix products).
      cache: how keys and values are kept while sampling, 'float32' or 'bfloat16'; None: in dtype.
      cache_gib: what they may take of each device's memory; None: 0.3 of it, on a CPU 4 GiB.
      chat_template: a jinja file or 'plain', the chat template where the folder has none, or
        instead of it.
      lora: rank of adapters; 0 trains all parameters. lora_alpha: adapters count alpha / rank.
      shape: config.json's content as a preset states it; the folder's must say the same.
    Raises FileNotFoundError or ValueError that names what is wrong, before anything is put on a
    device.
    """
    choices = {
        'dtype': (dtype, DTYPES),
        'params': (params, DTYPES),
        'remat': (remat, decoder.REMAT),
        'attention': (attention, attention_backends.BACKENDS),
        'cache': (cache or dtype, DTYPES),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f'no {name} {value!r}; there are: {", ".join(known)}')
    if cache_gib is not None and cache_gib <= 0:
        raise ValueError(f'cache_gib={cache_gib}: want more than 0, or None')
    if lora < 0:
        raise ValueError(f'lora={lora}: want a rank, or 0')
    mesh = sharding.make_mesh(data, fsdp, tensor)
    needed = {'cudnn': 'gpu', 'splash': 'tpu'}.get(attention)
    if needed and mesh.devices.flat[0].platform != needed:
        raise ValueError(
            f'attention={attention!r} runs on a {needed.upper()} only; here there is '
            f'{mesh.devices.flat[0].device_kind}: use xla'
        )
    folder = resolve_folder(folder)
    config = hf.read_config(folder, max_length)
    if shape is not None and (stated := hf.config_of(shape, 'model.shape', max_length)) != config:
        pairs = zip(dataclasses.asdict(stated).items(), dataclasses.asdict(config).values())
        raise ValueError(
            f'model.shape is not that of {folder}: '
            + '; '.join(
                f'{name} {here!r}, there {there!r}'
                for (name, here), there in pairs
                if here != there
            )
        )
    if attention == 'cudnn' and (dtype == 'float32' or config.attention_softcap):
        raise ValueError(
            "attention='cudnn' computes in bfloat16 and without soft-capping: use xla, or dtype bfloat16"
        )
    config = dataclasses.replace(config, lora=lora, lora_alpha=lora_alpha)
    words = text.load(folder, chat_template)
    if len(words) > config.vocab:
        raise ValueError(
            f'{folder}: the tokenizer has {len(words)} tokens and the embedding {config.vocab} rows; '
            'resize the embedding, or take the tokenizer that belongs to it'
        )
    module = decoder.make_module(config, dtype, attention=attention, remat=remat, mesh=mesh)
    lm = Lm(module, words, mesh, params, folder, cache, cache_gib)
    return lm, lm.base_params()
