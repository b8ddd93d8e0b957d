"""Only capable terminals get escape codes."""

import io
import os
import pty

import pytest

from purejaxppo.tracking.terminal import is_capable, make_console


@pytest.fixture
def terminal():
    """Open a pseudo-terminal; yield a function (encoding) -> text stream."""
    master, slave = pty.openpty()
    streams = []

    def opened(encoding):
        streams.append(open(slave, "w", encoding=encoding, closefd=False))  # noqa: SIM115 - closed below
        return streams[-1]

    yield opened
    for stream in streams:
        stream.close()
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("term", "encoding", "capable"),
    [
        ("xterm-256color", "utf-8", True),
        ("dumb", "utf-8", False),
        ("unknown", "utf-8", False),
        ("", "utf-8", False),
        ("xterm-256color", "ascii", False),
        ("xterm-256color", "latin-1", False),
    ],
)
def test_a_terminal_has_to_move_its_cursor_and_show_unicode(monkeypatch, terminal, term, encoding, capable):
    monkeypatch.setenv("TERM", term)
    assert is_capable(terminal(encoding)) == capable
    assert make_console(terminal(encoding)).is_terminal == capable


def test_a_file_is_no_terminal_even_if_color_is_forced(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    make_console(file).print("[bold]text[/bold]")
    assert file.getvalue() == "text\n"
