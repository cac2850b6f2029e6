"""A command ends on a mistake with its message and status 1, or with a traceback if asked."""

import pytest

from selfrew.running import refusal


@pytest.mark.parametrize('kind', refusal.MISTAKES)
def test_a_mistake_is_told_without_a_traceback(monkeypatch, capsys, kind):
    monkeypatch.delenv('SELFREW_TRACEBACK', raising=False)
    with pytest.raises(SystemExit) as ended:
        refusal.exit_with(kind("no task named 'x'"))
    assert ended.value.code == 1
    output = capsys.readouterr()
    assert "selfrew: no task named 'x'\n" in output.err and not output.out


def test_the_traceback_is_shown_if_asked(monkeypatch):
    monkeypatch.setenv('SELFREW_TRACEBACK', '1')
    with pytest.raises(KeyError, match='no task'):
        refusal.exit_with(KeyError('no task'))
