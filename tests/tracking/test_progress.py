"""Displays of progress: live only in a capable terminal, otherwise a few plain lines."""

import io
import math
import re

import pytest
from rich.console import Console

from purejaxppo.tracking.meter import Report, empty_report
from purejaxppo.tracking.progress import LINES, display, report_line


def test_an_unknown_return_is_a_dash():
    assert "return –" in report_line(empty_report(100)._replace(timesteps=10))


def plain_lines(updates: int) -> list[str]:
    out = io.StringIO()
    with display(updates * 10, Console(file=out)) as show:
        for i in range(1, updates + 1):
            show.update(Report(i * 10, updates * 10, i * 1.0, 10.0, 20.0, 0.01))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("updates", [1, 7, 20, 1000])
def test_plain_output_is_a_few_lines_from_compiling_to_the_end(updates):
    compiling, *lines = plain_lines(updates)
    assert compiling == "compiling"
    assert min(updates, LINES) <= len(lines) <= LINES + 1
    assert lines[-1].startswith("100%")
    percents = [int(text.split("%")[0]) for text in lines]
    assert percents == sorted(set(percents))
    assert "\x1b" not in "".join(lines)


def test_live_display_fits_a_terminal_and_shows_the_numbers():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    with display(10**9, console) as show:
        show.update(Report(999_900_000, 10**9, 4000.0, 1_234_567.0, -1234.5678, 0.0123))
        show.say("stopping")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", out.getvalue())
    assert "compiling 0:00" in text
    assert max(len(part.strip("\r")) for part in text.split("\n")) <= 80
    for number in ("1G of 1G", "1.23M", "-1235", "0.0123", "ETA 0:00"):
        assert number in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_output_that_is_redirected_gets_plain_lines_even_if_color_is_forced(monkeypatch, encoding):
    monkeypatch.setenv("FORCE_COLOR", "1")
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding, errors="replace"))
    with display(100) as show:
        show.update(Report(100, 100, 1.0, math.nan, 20.0, 0.01))
    assert b"\x1b" not in raw.getvalue()
    assert len(raw.getvalue().splitlines()) == 2
