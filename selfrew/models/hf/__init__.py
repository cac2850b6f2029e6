"""Hugging Face folders, in and out: config.json and safetensors, without torch."""

from selfrew.models.hf.config import FAMILIES, config_of, llama, read_config, read_json
from selfrew.models.hf.tensors import dump, read_params, write

__all__ = [
    'FAMILIES',
    'config_of',
    'dump',
    'llama',
    'read_config',
    'read_json',
    'read_params',
    'write',
]
