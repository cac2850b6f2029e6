"""Lm: a module, its tokenizer and its mesh, without parameters. Layer 2."""

import dataclasses
import os

import jax

from selfrew import sharding, text
from selfrew.models import decoder, hf

TINY = os.path.join(os.path.dirname(__file__), 'tiny_base')


@dataclasses.dataclass(frozen=True, eq=False)
class Lm:
    module: decoder.Decoder
    text: text.Text
    mesh: jax.sharding.Mesh

    @property
    def config(self) -> decoder.ModelConfig:
        return self.module.config

    def shardings(self):
        """The sharding of each parameter."""
        return sharding.of_params(self.mesh, *decoder.abstract(self.module))

    def rows(self, tree):
        """Puts host arrays whose first axis is rows onto the mesh."""
        return jax.device_put(tree, sharding.of(self.mesh, 'rows'))

    def whole(self, tree):
        """Puts host arrays onto the mesh, replicated."""
        return jax.device_put(tree, sharding.of(self.mesh))


def load(*, folder: str, data: int = 1, fsdp: int = 1, tensor: int = 1, dtype: str = 'float32'):
    """(lm, params) of a Hugging Face folder, or of 'tiny', the base that ships with the package.

    Args:
      folder: a path; see models.hf for what is supported.
      data, fsdp, tensor: the mesh.
      dtype: of the compute, 'float32' or 'bfloat16'; parameters are float32.
    Raises FileNotFoundError or ValueError that names what is wrong with the folder, the mesh or the dtype.
    """
    if dtype not in ('float32', 'bfloat16'):
        raise ValueError(f'no dtype {dtype!r}; there are: float32, bfloat16')
    folder = TINY if folder == 'tiny' else folder
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'no model folder {folder!r}; give a Hugging Face folder, or "tiny"')
    module = decoder.module_of(hf.read_config(folder), dtype)
    lm = Lm(module, text.load(folder), sharding.make(data, fsdp, tensor))
    shardings = lm.shardings()

    def place(array, path):
        where = shardings
        for part in path:
            where = where[part]
        return jax.device_put(array, where)

    return lm, hf.read_params(folder, decoder.abstract(module)[0], place)
