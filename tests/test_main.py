"""The command answers a mistake with what is wrong and the choices, and imports jax late."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
QUICK = '--config=configs/quickstart.py:smoke'


def _python(*arguments):
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _main(*arguments):
    return _python('-m', 'selfrew.main', *arguments)


@pytest.mark.parametrize(
    'module', ['selfrew', 'selfrew.main', 'selfrew.running.refusal', 'configs.quickstart']
)
def test_nothing_heavy_is_loaded_before_there_is_something_to_run(module):
    heavy = "{'jax', 'transformers', 'orbax', 'flax', 'optax', 'matplotlib', 'tensorflow', 'torch'}"
    result = _python('-c', f'import sys, {module}; print(sorted({heavy} & set(sys.modules)))')
    assert result.stdout.strip() == '[]', result.stderr


def test_help_shows_the_flags():
    result = _main('--help')
    assert all(
        word in result.stdout
        for word in ('--config', '--workdir', '--config=configs/quickstart.py')
    )


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--rounds=3',), ("Unknown command line flag 'rounds'",)),
        ((QUICK,), ('want --config=FILE and --workdir=FOLDER',)),
        (('--workdir=W',), ('want --config=FILE and --workdir=FOLDER',)),
        ((QUICK, '--workdir=W', 'stray'), ("unknown argument 'stray'",)),
        (
            ('--config=configs/quickstart.py:tiny', '--workdir=W'),
            ("no variant 'tiny' of this config; there are: smoke",),
        ),
        (
            ('--config=configs/nothing.py', '--workdir=W'),
            ("no config 'configs/nothing.py'", 'quickstart'),
        ),
        ((QUICK, '--workdir=W', '--config.round.train.lrr=1'), ('lrr',)),
        (
            (QUICK, '--workdir=W', '--config.round.sampler.n=many'),
            ('config.round.sampler.n=many', 'int'),
        ),
        (
            (QUICK, '--workdir=W', '--config.round.train.lr=fast'),
            ('config.round.train.lr=fast', 'float'),
        ),
        ((QUICK, '--workdir=W', '--from=nowhere'), ('--from=nowhere is not a run',)),
    ],
    ids=[
        'flag',
        'workdir',
        'config',
        'argument',
        'variant',
        'file',
        'field',
        'whole',
        'number',
        'from',
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path, arguments, words):
    result = _main(*(a.replace('=W', f'={tmp_path}/w') for a in arguments))
    assert result.returncode != 0 and not os.path.exists(tmp_path / 'w')
    output = result.stdout + result.stderr
    assert all(word in output for word in words), output
    assert 'selfrew/main.py", line' not in output, output  # no traceback of ours


def test_every_field_of_a_config_can_be_set_from_the_command_line(tmp_path):
    """`rounds=-1` is refused after the flags were read: all else must have been understood."""
    fields = (
        'round.train.lr=1e-4',
        'round.train.batch=8',
        'round.loss.beta=0.2',
        'round.sampler.top_p=0.5',
        'round.max_unread=0.5',
        'seed=3',
    )
    result = _main(
        QUICK, f'--workdir={tmp_path}/w', *(f'--config.{f}' for f in fields), '--config.rounds=-1'
    )
    assert result.returncode == 1 and 'Traceback' not in result.stderr, result.stderr
    assert 'selfrew: ' in result.stderr and 'rounds=-1' in result.stderr, result.stderr


def test_an_unreadable_model_folder_is_named_without_a_traceback(tmp_path):
    result = _main(QUICK, f'--workdir={tmp_path}/w', '--config.model.folder=no/such/folder')
    assert result.returncode == 1 and "no model folder 'no/such/folder'" in result.stderr
    assert 'Traceback' not in result.stderr and not os.path.exists(tmp_path / 'w')
