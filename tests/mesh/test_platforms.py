"""jax looks for no TPU where there is none, and is told nothing where there may be one."""

import fnmatch
import importlib.util
import os
import subprocess
import sys

import pytest

from selfrew.mesh import platforms


@pytest.mark.parametrize(
    ('is_installed', 'files', 'user', 'expected'),
    [
        (True, [], None, 'cpu'),
        (True, ['/dev/accel0'], None, None),
        (True, ['/dev/vfio/0'], None, None),
        (True, ['/dev/nvidia0'], None, None),
        (False, [], None, None),
        (True, [], 'tpu', 'tpu'),
        (True, [], '', 'cpu'),
    ],
)
def test_the_search_is_skipped_only_without_any_accelerator(
    monkeypatch, is_installed, files, user, expected
):
    spec = object() if is_installed else None
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: spec)
    monkeypatch.setattr(platforms.glob, 'glob', lambda pattern: fnmatch.filter(files, pattern))
    monkeypatch.delenv('JAX_PLATFORMS')
    if user is not None:
        monkeypatch.setenv('JAX_PLATFORMS', user)
    platforms.skip_absent_tpu()
    assert os.environ.get('JAX_PLATFORMS') == expected


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='wants the TPU compiler')
def test_a_command_prints_no_error_of_a_search_for_a_tpu(tmp_path):
    code = 'import selfrew; lm, _ = selfrew.load("tiny"); print(lm.mesh.size)'
    environment = {k: v for k, v in os.environ.items() if k not in ('JAX_PLATFORMS', 'XLA_FLAGS')}
    command = [sys.executable, '-c', code]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert result.stdout == '1\n' and 'TPU' not in result.stderr, result.stderr
