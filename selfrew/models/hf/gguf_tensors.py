"""The tensors of a GGUF file under the names and in the form of a Hugging Face folder."""

import re

import numpy as np

from selfrew.models.hf.families import FAMILIES
from selfrew.models.hf.gguf_config import architecture_of, gguf_fields, rope_tensors
from selfrew.models.hf.gguf_file import open_file
from selfrew.models.hf.tensors import BLOCK, NORMS, OUTER

# Parameter -> tensor of the file.
GGUF_OUTER = {'embed': 'token_embd', 'norm': 'output_norm', 'head': 'output'}
# Parameter of a block -> tensor of the file, after the prefix of its layer.
GGUF_BLOCK = {
    'q': 'attn_q',
    'k': 'attn_k',
    'v': 'attn_v',
    'o': 'attn_output',
    'gate': 'ffn_gate',
    'up': 'ffn_up',
    'down': 'ffn_down',
    'q_norm': 'attn_q_norm',
    'k_norm': 'attn_k_norm',
    'attention_norm': 'attn_norm',
    'attention_post': 'post_attention_norm',
    'mlp_norm': 'ffn_norm',
    'mlp_post': 'post_ffw_norm',
}
GGUF_BIASES = {'q_bias': 'attn_q', 'k_bias': 'attn_k', 'v_bias': 'attn_v'}
# Tensor of Phi 3 that holds several matrices -> tensor of the file.
GGUF_FUSED = {'self_attn.qkv_proj.weight': 'attn_qkv', 'mlp.gate_up_proj.weight': 'ffn_up'}
LAYER = re.compile(r'blk\.(\d+)\.(.+)')


class GgufCheckpoint:
    """The tensors of a GGUF file, by their names in a Hugging Face folder.

    What llama.cpp changes in them is undone: it orders the rows of a Llama's q and k so that a
    rotation turns neighbours, and stores Gemma's norms with their 1 added.
    """

    config_name = 'metadata'

    def __init__(self, path: str):
        self.folder = path
        self._file = open_file(path)
        _, self._family, _ = architecture_of(self._file)
        fields = gguf_fields(path)
        # Parameter whose rows are reordered -> its heads.
        self._reordered = {}
        if self._family == 'Llama':
            heads, kv_heads = fields['num_attention_heads'], fields['num_key_value_heads']
            self._reordered = {'q': heads, 'k': kv_heads}
        tensors = _tensors(self._family)
        skipped = rope_tensors(self._family)
        # A tensor that has no name in a folder keeps its own.
        self._names = {
            _folder_name(name, tensors): name for name in self._file.tensors if name not in skipped
        }
        self.paths = dict.fromkeys(self._names, path)
        self._last: tuple[object, np.ndarray] | None = None  # what was read last, and its floats

    def open_slice(self, tensor: str) -> 'GgufSlice':
        """A tensor, of which the rows that are indexed are read."""
        return GgufSlice(self, tensor)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._file.tensors[self._names[tensor]].shape

    def read(self, tensor: str, rows: slice) -> np.ndarray:
        """The rows of a tensor in float32. They are kept until others are read."""
        key = tensor, rows.start, rows.stop
        if self._last is None or self._last[0] != key:
            self._last = None  # so that the host holds one
            self._last = key, self._read(tensor, rows)
        return self._last[1]

    def _read(self, tensor: str, rows: slice) -> np.ndarray:
        name = self._names[tensor]
        if len(self.shape(tensor)) == 1:
            values = self._file.read(name)[rows]
            is_offset = FAMILIES[self._family].get('unit_offset') and name.endswith('norm.weight')
            return values - np.float32(1.0) if is_offset else values
        for parameter, heads in self._reordered.items():
            if tensor.endswith(BLOCK[parameter]):
                return self._file.read(name, _rows_by_half(self.shape(tensor)[0], heads)[rows])
        return self._file.read(name, rows)


class GgufSlice:
    """A tensor of a GGUF file, with the interface of a slice of a safetensors file."""

    def __init__(self, checkpoint: GgufCheckpoint, tensor: str):
        self._checkpoint, self._tensor = checkpoint, tensor

    def get_shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self._checkpoint.shape(self._tensor)

    def get_dtype(self) -> str:
        """The dtype in which it is read, as safetensors calls it."""
        return 'F32'

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        rows, *columns = index
        return self._checkpoint.read(self._tensor, rows)[(slice(None), *columns)]


def _rows_by_half(rows: int, heads: int) -> np.ndarray:
    """The stored row of each row of q or k [rows].

    llama.cpp stores the halves of a head interleaved, where transformers rotates whole halves.
    """
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _tensors(family: str) -> dict[str, str]:
    """Tensor of a block of the file, after the prefix of its layer -> that of a folder."""
    norms = NORMS[FAMILIES[family].get('norms', 'pre')]
    tensor_of = BLOCK | {name: f'{norm}.weight' for name, norm in norms.items()}
    weights = {
        f'{stored}.weight': tensor_of[name]
        for name, stored in GGUF_BLOCK.items()
        if name in tensor_of
    }
    biases = {f'{stored}.bias': BLOCK[name] for name, stored in GGUF_BIASES.items()}
    fused = {f'{stored}.weight': tensor for tensor, stored in GGUF_FUSED.items()}
    return weights | biases | (fused if family == 'Phi3' else {})


def _folder_name(name: str, tensors: dict[str, str]) -> str:
    """The name in a folder of a tensor of the file; its own where a folder has none."""
    outer = {f'{stored}.weight': OUTER[parameter] for parameter, stored in GGUF_OUTER.items()}
    if name in outer:
        return outer[name]
    layer = LAYER.fullmatch(name)
    if layer is None or layer[2] not in tensors:
        return name
    return f'model.layers.{layer[1]}.{tensors[layer[2]]}'
