"""Reads GGUF files, llama.cpp's one-file checkpoints: metadata, and tensors as floats.

The package gguf turns quantised blocks into floats; the header is read here, since its reader makes
an object of each token of the vocabulary.
"""

import dataclasses
import functools
import os
import re
from typing import Any

import numpy as np

SUFFIX = '.gguf'
MAGIC, VERSIONS = b'GGUF', (2, 3)
ALIGNMENT = 32  # of the tensors, in bytes, where the metadata says nothing else
# Code of a type of metadata -> its NumPy type.
NUMBERS: dict[int, str] = dict(enumerate(('u1', 'i1', '<u2', '<i2', '<u4', '<i4', '<f4', '?')))
NUMBERS |= {10: '<u8', 11: '<i8', 12: '<f8'}
STRING, ARRAY = 8, 9
SPLIT_NAME = re.compile(r'-\d{5}-of-(?!00001)\d{5}\.gguf$')


def is_gguf(folder: str) -> bool:
    """Whether the path of a model names a GGUF file."""
    return folder.endswith(SUFFIX)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as the file's header describes it."""

    shape: tuple[int, ...]  # the outermost axis first, as in a safetensors file
    kind: int  # the code of its type, a gguf.GGMLQuantizationType
    offset: int  # its first byte in the file
    row_bytes: int  # of its innermost axis


class GgufFile:
    """The metadata of a GGUF file, and its tensors, which are read when they are asked for."""

    def __init__(self, path: str, metadata: dict[str, Any], tensors: dict[str, StoredTensor]):
        self.path, self.metadata, self.tensors = path, metadata, tensors

    def get(self, key: str, default=None) -> Any:
        """The value of a key of the metadata."""
        return self.metadata.get(key, default)

    def require(self, key: str) -> Any:
        """The value of a key of the metadata. ValueError where it is missing."""
        if key not in self.metadata:
            raise ValueError(f'{self.path}: the metadata has no {key}')
        return self.metadata[key]

    def special_token(self, role: str) -> int | None:
        """The token of a role (bos, eos, eot, unknown, padding); None where it has none."""
        token = self.get(f'tokenizer.ggml.{role}_token_id')
        tokens = self.get('tokenizer.ggml.tokens', ())
        return token if token is not None and 0 <= token < len(tokens) else None

    def read(self, name: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """A tensor's rows of this index, in float32. Of a tensor of one axis: all of it."""
        import gguf  # noqa: PLC0415 — an extra

        tensor = self.tensors[name]
        count = int(np.prod(tensor.shape[:-1]))
        stored = np.memmap(
            self.path, np.uint8, 'r', tensor.offset, shape=(count, tensor.row_bytes)
        ).reshape(*tensor.shape[:-1], tensor.row_bytes)
        if len(tensor.shape) > 1:
            stored = stored[rows]
        kind = gguf.GGMLQuantizationType(tensor.kind)
        return np.asarray(gguf.dequantize(np.ascontiguousarray(stored), kind), np.float32)


def open_file(path: str) -> GgufFile:
    """The GGUF file at this path, its header read; of the last file, it is read once.

    Raises ValueError for a file that is missing, damaged, cut short, split in parts or of another
    version, for types of tensors that cannot be read, and where the package gguf is missing.
    """
    try:
        import gguf  # noqa: F401, PLC0415 — an extra
    except ImportError:
        raise ValueError(
            f"reading {path} needs the package gguf: pip install 'selfrew[gguf]'"
        ) from None
    try:
        status = os.stat(path)
    except OSError as problem:
        raise ValueError(f'{path} cannot be read: {problem.strerror}') from None
    return _open(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)
def _open(path: str, modified: int, size: int) -> GgufFile:
    """The file, as long as it is the same: see `open_file`."""
    del modified
    if SPLIT_NAME.search(path):
        raise ValueError(_split_message(path))
    with open(path, 'rb') as file:
        header = _Header(file)
        try:
            metadata, stored = header.read()
        except (_Damage, UnicodeDecodeError) as damage:
            raise ValueError(_damage_message(path, damage)) from None
        first = header.position
    if metadata.get('split.count', 1) > 1:
        raise ValueError(_split_message(path))
    first += -first % metadata.get('general.alignment', ALIGNMENT)
    tensors = {}
    for name, (shape, kind, offset) in stored.items():
        row_bytes = _row_bytes(path, name, shape, kind)
        tensors[name] = StoredTensor(shape, kind, first + offset, row_bytes)
        end = first + offset + int(np.prod(shape[:-1])) * row_bytes
        if end > size:
            damage = f'the tensor {name} ends at byte {end:,} of {size:,}'
            raise ValueError(_damage_message(path, damage))
    return GgufFile(path, metadata, tensors)


def _row_bytes(path: str, name: str, shape: tuple[int, ...], kind: int) -> int:
    """The bytes of a tensor's innermost axis. ValueError for a type that cannot be read."""
    try:
        block, block_bytes = _block(kind)
    except (ValueError, KeyError, NotImplementedError):
        raise ValueError(
            f'{path}: the tensor {name} has type {kind}, which this version of the package gguf '
            'does not turn into floats'
        ) from None
    if not shape or shape[-1] % block:
        raise ValueError(_damage_message(path, f'the tensor {name} has the shape {shape}'))
    return shape[-1] // block * block_bytes


@functools.cache
def _block(kind: int) -> tuple[int, int]:
    """(numbers, bytes) of a block of this type, one of which the package can read."""
    import gguf  # noqa: PLC0415 — an extra

    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    gguf.dequantize(np.zeros((1, block_bytes), np.uint8), gguf.GGMLQuantizationType(kind))
    return block, block_bytes


def _damage_message(path: str, damage) -> str:
    return f'{path} is damaged or cut short ({damage}); download or copy it again'


def _split_message(path: str) -> str:
    return (
        f'{path} is a part of a split model, which is not supported; '
        'join the parts with llama-gguf-split --merge'
    )


class _Damage(Exception):
    """What is wrong with a header."""


class _Header:
    """The header of an open file, from its first byte on."""

    def __init__(self, file):
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    @property
    def position(self) -> int:
        """The number of bytes read."""
        return self._file.tell()

    def read(self) -> tuple[dict[str, Any], dict[str, tuple]]:
        """(metadata, tensor -> (shape, type, offset after the header)).

        Raises ValueError for a file of another kind or version, _Damage for one that is cut.
        """
        if self._take(4) != MAGIC:
            raise ValueError(f'{self._file.name} is not a GGUF file')
        version = self._number('<u4')
        if version not in VERSIONS:
            raise ValueError(
                f'{self._file.name}: GGUF version {version} is not supported; '
                f'supported: {", ".join(map(str, VERSIONS))}, little-endian'
            )
        tensor_count, field_count = self._number('<u8'), self._number('<u8')
        metadata = {}
        for _ in range(field_count):
            key = self._string()
            metadata[key] = self._value(self._number('<u4'))
        tensors = {}
        for _ in range(tensor_count):
            name = self._string()
            shape = tuple(self._numbers('<u8', self._number('<u4')).tolist())[::-1]
            tensors[name] = shape, self._number('<u4'), self._number('<u8')
        return metadata, tensors

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            item_kind, count = self._number('<u4'), self._number('<u8')
            if item_kind in (STRING, ARRAY):
                return [self._value(item_kind) for _ in range(count)]
            return self._numbers(self._dtype(item_kind), count).tolist()
        (value,) = self._numbers(self._dtype(kind), 1)
        return shortest(value) if value.dtype == np.float32 else value.item()

    def _dtype(self, kind: int) -> str:
        if kind not in NUMBERS:
            raise _Damage(f'its metadata has a value of type {kind}')
        return NUMBERS[kind]

    def _string(self) -> str:
        return self._take(self._number('<u8')).decode()

    def _number(self, dtype: str) -> int:
        return self._numbers(dtype, 1).item()

    def _numbers(self, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self._take(count * np.dtype(dtype).itemsize), dtype)

    def _take(self, count: int) -> bytes:
        if count > self._size - self.position:
            raise _Damage('its header ends early')
        return self._file.read(count)


def shortest(value) -> float:
    """The shortest decimal number that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
