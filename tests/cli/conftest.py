"""Fixtures for tests of the command line."""

import signal

import pytest
from command_line import TINY
from moving_keys import keys_move as keys_move

from purejaxppo.cli import train_command


@pytest.fixture(autouse=True)
def no_compile_cache(monkeypatch):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", "off")


@pytest.fixture(autouse=True)
def hangups_are_not_ignored():
    """Let tests send SIGHUP under `nohup` too, which makes every process that it starts ignore that signal."""
    before = signal.getsignal(signal.SIGHUP)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def tiny(tmp_path):
    """Settings file of a run that takes a second."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fail if training starts."""
    monkeypatch.setattr(train_command, "run_session", lambda *_: pytest.fail("training began"))
