"""`Lm`: a module, its tokenizer and its mesh, without parameters; and how it is loaded."""

import dataclasses
import os
import re
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp

from selfrew.mesh import processes, sharding
from selfrew.models import (
    attention as attention_backends,
    decoder,
    hf,
    lora as lora_adapters,
    quantization,
    text,
)
from selfrew.models.config import ModelConfig
from selfrew.models.loading import load_all

TINY = os.path.join(os.path.dirname(__file__), 'tiny_base')
DTYPES = 'float32', 'bfloat16'
SAMPLING_DTYPES = *DTYPES, 'int8'
CACHE_DTYPES = *DTYPES, 'float8_e4m3fn'
# Of a hub repository. Some keep a second copy of their weights, which is not downloaded.
HUB_FILES = '*.json', '*.safetensors', '*.jinja', 'tokenizer.model', 'merges.txt', 'vocab.txt'
HUB_COPIES = 'consolidated*', 'original/*', '*/*'


@dataclasses.dataclass(frozen=True, eq=False)
class Lm:
    """A language model without its parameters."""

    module: decoder.Decoder
    text: text.Text
    mesh: jax.sharding.Mesh
    param_dtype: str = 'float32'  # of the stored parameters; adapters are float32
    folder: str | None = None  # the folder or GGUF file that it was loaded from
    cache: str | None = None  # dtype of the KV cache; None: that of the compute
    cache_gib: float | None = None  # GiB of each device that the KV cache may take; None: see load
    adapter: str | None = None  # the PEFT folder that its adapters came from
    only: str | None = None  # the part that updates change alone, see train_state.training_only
    has_fixed_remat: bool = True  # whether updates recompute what module.remat says; else: chosen
    sampling: int | None = None  # `tensor` of the mesh to sample on, see engine.sampling_layout
    sampling_dtype: str | None = None  # see describe

    @property
    def config(self) -> ModelConfig:
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
        """The folder's parameters before any training, M_0. Fresh adapters change nothing yet."""
        if self.module.int8:
            unquantized = dataclasses.replace(self, module=self.module.clone(int8=False))
            return quantization.quantized(unquantized.base_params(), self.abstract_params())
        params = load_all(self.base_param_loaders())
        if self.config.lora:
            params['blocks'] |= self._base_adapters()
        return params

    def base_param_loaders(self) -> dict:
        """`base_params` without adapters, with a function that reads it in each one's place."""
        assert self.folder is not None, 'only a model loaded from a folder has base parameters'
        shapes, shardings = self.abstract_params(), self.param_shardings()
        stored = {name: shape for name, shape in shapes.items() if name != 'value'}
        loaders = hf.param_loaders(self.folder, self.config, stored, shardings)
        if self.config.value_head:
            place = shapes['value'], shardings['value']
            loaders['value'] = hf.value_head_loader(self.folder, *place)
        return loaders

    def base_of(self, params) -> dict:
        """M_0 from the parameters of any round. With adapters these, but for the adapters, so that
        there is no second copy; without, the folder's, read again.
        """
        if not self.config.lora:
            return self.base_params()
        return params | {'blocks': params['blocks'] | self._base_adapters()}

    def _base_adapters(self) -> dict:
        """The adapters before any training, by name, on the mesh."""
        adapters = lora_adapters.init_adapters(self.abstract_params(), jax.random.key(0))
        if self.adapter is not None:
            adapters = hf.read_adapters(self.adapter, self.config, adapters)
        shardings = self.param_shardings()['blocks']
        return {name: processes.place(x, shardings[name]) for name, x in adapters.items()}

    def place_rows(self, tree):
        """Puts host arrays onto the mesh, their first axis sharded as rows."""
        return processes.place(tree, sharding.of(self.mesh, 'rows'))

    def replicate(self, tree):
        """Puts host arrays onto the mesh, replicated."""
        return processes.place(tree, sharding.of(self.mesh))


def resolve_folder(folder: str) -> str:
    """The local folder of a path, of 'tiny' (the base that ships) or of a hub name, downloading it.

    The path of a GGUF file stands for a folder, here and in whatever takes a folder. Raises
    FileNotFoundError where there is none.
    """
    if folder == 'tiny':
        return TINY
    if os.path.isdir(folder) or (hf.is_gguf(folder) and os.path.isfile(folder)):
        return folder
    if hf.is_gguf(folder) or not re.fullmatch(r'[\w.-]+/[\w.-]+', folder):
        raise FileNotFoundError(
            f'no model folder {folder!r}; give a Hugging Face folder, a GGUF file, a hub name such '
            f'as "Qwen/Qwen2.5-0.5B-Instruct", or "tiny"'
        )
    try:
        return huggingface_hub.snapshot_download(
            folder, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_COPIES)
        )
    except Exception as problem:
        reason = str(problem).strip().split('\n')[0]
        raise FileNotFoundError(
            f'{folder!r} is not a local folder, and as a hub name it could not be downloaded '
            f'({reason})'
        ) from None


def context_length(*, folder: str, max_length: int | None = None, **_) -> int:
    """The longest context in tokens of the model that `describe` gives with these arguments.

    Raises as `resolve_folder` and `hf.read_config` do.
    """
    return hf.read_config(resolve_folder(folder), max_length).max_length


def load(**fields) -> tuple[Lm, dict]:
    """(lm, params) of a Hugging Face folder, a hub name or 'tiny', the base that ships.

    fields: see `describe`, which also says what is raised, before anything is put on a device.
    """
    lm = describe(**fields)
    return lm, lm.base_params()


def describe(
    *,
    folder: str,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    sampling: int | None = None,
    dtype: str = 'float32',
    sampling_dtype: str | None = None,
    params: str = 'float32',
    max_length: int | None = None,
    attention: str | None = None,
    remat: str | None = None,
    cache: str | None = None,
    cache_gib: float | None = None,
    chat_template: str | None = None,
    fold_system: bool = False,
    lora: int = 0,
    lora_alpha: float = 16.0,
    adapter: str | None = None,
    value_head: bool = False,
    shape: dict[str, Any] | None = None,
) -> Lm:
    """The model of a Hugging Face folder, a GGUF file, a hub name or 'tiny', the base that ships,
    without its parameters.

    Args:
      folder: of a family in hf.FAMILIES. shape: its config.json as a preset states it; the folder's
        must say the same.
      data, fsdp, tensor: the mesh.
      sampling: the `tensor` of the mesh on which a run samples, with replicas over the other
        devices. None: the least with which the weights fit, see engine.sampling_layout. 0: a run
        samples on the mesh that it trains on.
      dtype: of the compute, 'float32' or 'bfloat16'; softmax, norms and log-probs are float32.
      sampling_dtype: of the copy of the parameters with which a run samples and judges, and of its
        compute: 'float32' or 'bfloat16'; or 'int8', for matrices in int8, see quantization, and a
        compute in `dtype`. None: `dtype`. The gap to the update's log-probs is measured, see
        trainer.train, and where these are its reference, held to `max_gap`.
      params: dtype of the stored parameters; for 'bfloat16' the optimizer holds a float32 copy
        while it trains.
      max_length: the longest context, at most the checkpoint's; None: see hf.config_of.
      attention: 'xla', 'cudnn' (GPU), 'cudnn_paged' (GPU; decoding by a kernel that reads each page
        of the cache once) or 'splash' (TPU; decoding by such a kernel). None: see
        attention.default_backend.
      remat: what the backward pass recomputes to save memory: 'none', 'full' (whole blocks) or
        'dots' (all but matrix products). None: chosen for each turn by the device's memory, see
        engine.trainer.train.
      cache: dtype of the KV cache, 'float32', 'bfloat16' or 'float8_e4m3fn'; None: that of the
        compute. The gap of what is sampled to the update's log-probs is measured, as above.
      cache_gib: GiB of each device that the cache may take; None: 0.3 of its memory.
      chat_template: a jinja file or 'plain', in place of the folder's template.
      fold_system: whether a system turn becomes the opening of the first user turn, for templates
        that know no system turn.
      lora: rank of the adapters; 0 trains all parameters. They are scaled by lora_alpha / lora.
      adapter: a PEFT folder or hub name, whose adapters training begins with; it sets their rank
        and scale, and `lora` is 0 or that rank. A matrix without an adapter there gets a fresh one.
      value_head: whether the model also values each next token (losses.cd_q, losses.cd_fudge): with
        the head that a run was exported with (value_head.safetensors), or else one of zeros.
    Raises FileNotFoundError or ValueError before anything is put on a device.
    """
    check_dtype(dtype)
    check_dtype(params)
    _check_choice('sampling_dtype', sampling_dtype or dtype, SAMPLING_DTYPES)
    _check_choice('remat', remat or 'none', decoder.REMAT)
    _check_choice('attention', attention or 'xla', attention_backends.BACKENDS)
    _check_choice('cache', cache or dtype, CACHE_DTYPES)
    if cache_gib is not None and cache_gib <= 0:
        raise ValueError(f'cache_gib={cache_gib}: want more than 0, or None')
    if lora < 0:
        raise ValueError(f'lora={lora}: want a rank of at least 0')
    mesh = sharding.make_mesh(data, fsdp, tensor)
    _check_sampling(sampling, mesh)
    _check_platform(attention, mesh)
    folder = resolve_folder(folder)
    config = hf.read_config(folder, max_length)
    attention = attention or attention_backends.default_backend(config, mesh)
    if shape is not None:
        _check_shape(hf.config_of(shape, 'model.shape', max_length), config, folder)
    _check_cudnn(attention, dtype, config, folder)
    if sampling_dtype in DTYPES:
        _check_cudnn(attention, sampling_dtype, config, folder)
    config = dataclasses.replace(config, lora=lora, lora_alpha=lora_alpha, value_head=value_head)
    if adapter is not None:
        adapter = resolve_folder(adapter)
        config = with_adapter(adapter, config)
    tokenizer = text.load(folder, chat_template, fold_system=fold_system, vocab=config.vocab)
    recomputed = remat or 'none'
    module = decoder.make_module(config, dtype, attention=attention, remat=recomputed, mesh=mesh)
    is_fixed = remat is not None
    return Lm(
        module,
        tokenizer,
        mesh,
        params,
        folder,
        cache,
        cache_gib,
        adapter,
        has_fixed_remat=is_fixed,
        sampling=sampling,
        sampling_dtype=sampling_dtype,
    )


def with_adapter(adapter: str, config: ModelConfig) -> ModelConfig:
    """`config` with the rank and scale of a PEFT folder. ValueError where `lora` is another."""
    adapted = hf.read_adapter_config(adapter, config)
    if config.lora not in (0, adapted.lora):
        raise ValueError(
            f'lora={config.lora}, and the adapters of {adapter} have the rank {adapted.lora}; '
            f'leave lora at 0'
        )
    return adapted


def check_dtype(dtype: str) -> None:
    """Raises ValueError if a model does not compute, or is not stored, in a dtype."""
    _check_choice('dtype', dtype, DTYPES)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f'no {name} {value!r}; there are: {", ".join(choices)}')


def _check_platform(attention: str | None, mesh: jax.sharding.Mesh) -> None:
    """ValueError where the attention back end does not run on the mesh's devices."""
    device = mesh.devices.flat[0]
    platform = {'cudnn': 'gpu', 'cudnn_paged': 'gpu', 'splash': 'tpu'}.get(attention or '')
    if platform is not None and device.platform != platform:
        raise ValueError(
            f'attention={attention!r} runs on a {platform.upper()} only, '
            f'and this machine has {device.device_kind}: use xla'
        )


def _check_sampling(tensor: int | None, mesh: jax.sharding.Mesh) -> None:
    """ValueError where the mesh's devices cannot form replicas of so many."""
    if tensor is not None and (tensor < 0 or (tensor and mesh.size % tensor)):
        raise ValueError(
            f'mesh.sampling={tensor}: want a number that divides the {mesh.size} devices of the '
            f'mesh, 0 (to sample as it trains) or None (to choose it)'
        )


def _check_shape(preset: ModelConfig, config: ModelConfig, folder: str) -> None:
    """ValueError naming the fields in which the preset's shape differs from the folder's."""
    if preset != config:
        folder_values = dataclasses.asdict(config)
        differences = '; '.join(
            f'{name} {value!r}, there {folder_values[name]!r}'
            for name, value in dataclasses.asdict(preset).items()
            if value != folder_values[name]
        )
        raise ValueError(f'model.shape is not that of {folder}: {differences}')


def _check_cudnn(attention: str, dtype: str, config: ModelConfig, folder: str) -> None:
    """ValueError where attention is cuDNN's and cannot compute this model."""
    if not attention.startswith('cudnn'):
        return
    if config.attention_softcap:
        raise ValueError(
            f'attention={attention!r} cannot soft-cap, and {folder} has '
            f'attn_logit_softcapping={config.attention_softcap}: use xla'
        )
    if dtype == 'float32':
        raise ValueError(
            f'attention={attention!r} computes in bfloat16, not {dtype}: use xla, or dtype bfloat16'
        )
