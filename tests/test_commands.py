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
    for name in ('configs/quickstart.py:smoke', 'mine.py'):
        result = _selfrew(
            *('run', name, '--workdir=w', '--config.rounds=-1'), cwd=tmp_path, path=installed
        )
        assert 'rounds=-1: want 0' in result.stderr, result.stderr
    assert not os.path.exists(tmp_path / 'w')


@pytest.fixture
def called(tmp_path, monkeypatch, capsys):
    """called(*arguments): (status, what was printed) of the command, in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['selfrew', *arguments])
        code = 0
        try:
            command.cli()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        return code, ''.join(capsys.readouterr())

    monkeypatch.setattr(command.stopping, 'listen', lambda: None)
    monkeypatch.chdir(tmp_path)
    return call


@pytest.mark.slow
def test_a_config_is_evaluated_without_training(called, tmp_path):
    fields = ['--config.evals.accuracy.prompts.n=4', '--config.evals.judge.prompts.n=2']
    result = _selfrew(
        *('eval', 'quickstart:smoke', '--workdir=w', '--tensorboard=no', *fields),
        cwd=tmp_path,
        path=ROOT,
    )
    assert result.returncode == 0, result.stderr
    assert os.listdir(tmp_path / 'w' / 'rounds') == ['00']
    assert not os.path.exists(tmp_path / 'w' / 'tensorboard')
    _, report = called('report', 'w')
    assert 'accuracy' in report and 'it is finished' in report
    status, told = called('check', 'w')
    assert status == 0 and 'all files are as they were written' in told


@pytest.mark.parametrize(
    ('arguments', 'code', 'words'),
    [
        (('nothing',), 2, "no command 'nothing'"),
        (('run', 'quickstrat', '--workdir=w'), 1, 'did you mean quickstart?'),
        (('check', 'none'), 1, 'is not a run'),
        (('report', 'none'), 1, 'is not a run'),
        (('check',), 2, 'workdir'),
        (('--config.seed=3',), 1, 'of which config?'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_told(called, tmp_path, arguments, code, words):
    status, printed = called(*arguments)
    assert status == code and words in printed and 'Traceback' not in printed
    assert os.listdir(tmp_path) == []


def test_each_command_shows_its_help(called):
    for name in command.COMMANDS:
        if name != 'plan':  # which sets what jax reads from the environment
            status, printed = called(name, '--help')
            assert status == 0 and '--' in printed, name


def test_a_checkout_has_the_configs_beside_the_package():
    assert 'quickstart' in config_files.shipped() and 'base' not in config_files.shipped()
    assert config_files.resolve('quickstart') == str(ROOT / 'configs' / 'quickstart.py')
