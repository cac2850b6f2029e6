"""Reads and writes Hugging Face folders, config.json and safetensors, and reads GGUF files.

All without torch.

Import from it: the functions below; `hf` is imported whole.
It imports: nothing of selfrew. Modules of its own package aside.
"""

from selfrew.models.hf.adapters import read_adapter_config, read_adapters, write_adapters
from selfrew.models.hf.config import (
    config_of,
    llama_fields,
    read_config,
    read_fields,
    read_optional,
)
from selfrew.models.hf.families import FAMILIES
from selfrew.models.hf.gguf_config import gguf_stop_tokens
from selfrew.models.hf.gguf_file import is_gguf
from selfrew.models.hf.gguf_tokenizer import gguf_tokenizer
from selfrew.models.hf.reader import param_loaders, read_params
from selfrew.models.hf.tokenizer_files import write_tokenizer
from selfrew.models.hf.value_head import has_value_head, value_head_loader, write_value_head
from selfrew.models.hf.writer import set_usual_mode, write, write_json

__all__ = [
    'FAMILIES',
    'config_of',
    'gguf_stop_tokens',
    'gguf_tokenizer',
    'has_value_head',
    'is_gguf',
    'llama_fields',
    'param_loaders',
    'read_adapter_config',
    'read_adapters',
    'read_config',
    'read_fields',
    'read_optional',
    'read_params',
    'set_usual_mode',
    'value_head_loader',
    'write',
    'write_adapters',
    'write_json',
    'write_tokenizer',
    'write_value_head',
]
