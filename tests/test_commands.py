"""The command `selfrew` works from any folder, also where it was installed without its checkout."""

import os
import pathlib
import subprocess
import sys

import pytest

from selfrew import __main__ as command
from selfrew.running import config_files

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """A folder with the package as `pip install` puts it, without the checkout."""
    pytest.importorskip('setuptools')
    folder = tmp_path_factory.mktemp('installed')
    build = [sys.executable, 'setup.py', '-q', 'build', '--build-base', str(folder / 'build')]
    build += ['--build-lib', str(folder / 'lib'), 'egg_info', '--egg-base', str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return folder / 'lib'


def _selfrew(*arguments, cwd, path):
    environment = os.environ | {'PYTHONPATH': str(path), 'JAX_PLATFORMS': 'cpu'}
    return subprocess.run(
        [sys.executable, '-m', 'selfrew', *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
def test_an_installed_command_finds_the_configs_from_any_folder(installed, tmp_path):
    help_text = _selfrew('--help', cwd=tmp_path, path=installed).stdout
    assert all(name in help_text for name in (*command.COMMANDS, 'quickstart', 'self_rewarding'))
    mine = 'from configs import quickstart\n\nget_config = lambda: quickstart.get_config("smoke")\n'
    (tmp_path / 'mine.py').write_text(mine)
    for name in ('quickstart:smoke', 'configs/quickstart.py:smoke', 'mine.py'):
        result = _selfrew(
            *('run', name, '--workdir=w', '--config.rounds=-1'), cwd=tmp_path, path=installed
        )
        assert 'rounds=-1: want 0' in result.stderr, result.stderr
    assert not os.path.exists(tmp_path / 'w')


@pytest.mark.slow
def test_a_config_is_evaluated_without_training(tmp_path):
    fields = ['--config.evals.accuracy.prompts.n=4', '--config.evals.judge.prompts.n=2']
    result = _selfrew(
        *('eval', 'quickstart:smoke', '--workdir=w', '--tensorboard=no', *fields),
        cwd=tmp_path,
        path=ROOT,
    )
    assert result.returncode == 0, result.stderr
    assert os.listdir(tmp_path / 'w' / 'rounds') == ['00']
    assert not os.path.exists(tmp_path / 'w' / 'tensorboard')
    report = _selfrew('report', 'w', cwd=tmp_path, path=ROOT).stdout
    assert 'accuracy' in report and 'it is finished' in report
    assert _selfrew('check', 'w', cwd=tmp_path, path=ROOT).returncode == 0


@pytest.mark.parametrize(
    ('arguments', 'code', 'words'),
    [
        (('nothing',), 2, "no command 'nothing'"),
        (('run', 'quickstrat', '--workdir=w'), 1, 'did you mean quickstart?'),
        (('run',), 1, 'want --config=FILE and --workdir=FOLDER'),
        (('check', 'none'), 1, 'is not a run'),
        (('report', 'none'), 1, 'is not a run'),
        (('check',), 2, 'workdir'),
        (('run', 'quickstart', '--workdir=w', '--tensorboard=maybe'), 1, 'yes|no'),
        (('--config.seed=3',), 1, 'of which config?'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_told(tmp_path, arguments, code, words):
    result = _selfrew(*arguments, cwd=tmp_path, path=ROOT)
    assert result.returncode == code and words in result.stderr + result.stdout
    assert 'Traceback' not in result.stderr and os.listdir(tmp_path) == []


def test_each_command_shows_its_help(tmp_path):
    for name in command.COMMANDS:
        result = _selfrew(name, '--help', cwd=tmp_path, path=ROOT)
        assert result.returncode == 0 and '--' in result.stdout, name


def test_a_checkout_has_the_configs_beside_the_package():
    assert 'quickstart' in config_files.shipped() and 'base' not in config_files.shipped()
    assert config_files.resolve('quickstart') == str(ROOT / 'configs' / 'quickstart.py')
