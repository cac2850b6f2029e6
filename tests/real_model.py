"""SmolLM2-135M-Instruct as a Hugging Face folder and as a GGUF file, made once in a cache.

It is made from what a package of PyPI ships, by `../shared/real/make_smollm2.py` beside the clone.
Tests skip where that is absent or the package cannot be had.
"""

import functools
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import pytest

MAKER = pathlib.Path(__file__).parents[2] / 'shared' / 'real' / 'make_smollm2.py'
CACHE = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'selfrew-tests'


class RealModel(NamedTuple):
    """Where the model lies; the floats of both are the same."""

    folder: str  # config.json, safetensors in float32, tokenizer
    gguf: str  # a file of Q4_1 matrices and a Q8_0 embedding


@functools.cache
def smollm2() -> tuple[RealModel | None, str]:
    """(the model, ''), or (None, the reason) where it cannot be made."""
    place = CACHE / 'smollm2-135m'
    model = RealModel(str(place / 'folder'), str(place / 'model.gguf'))
    if place.is_dir():
        return model, ''
    if not MAKER.exists():
        return None, f'{MAKER} is absent'
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(dir=CACHE))
    try:
        (partial / 'model.gguf').write_bytes(_maker().download())
        command = [sys.executable, MAKER, partial / 'folder', '--gguf', partial / 'model.gguf']
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        partial.chmod(0o755)
        partial.rename(place)
    except (subprocess.SubprocessError, OSError, ValueError, KeyError) as problem:
        if not place.is_dir():  # else another process was faster
            return None, f'SmolLM2 could not be made: {problem}'
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return model, ''


def smollm2_or_skip() -> RealModel:
    """The model; skips the test where it cannot be made."""
    model, reason = smollm2()
    if model is None:
        pytest.skip(reason)
    return model


def _maker():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location('make_smollm2', MAKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
