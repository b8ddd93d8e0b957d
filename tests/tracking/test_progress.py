"""What the display says is true, and fits."""

import io
import math
import re

import pytest
from rich.console import Console

from purejaxppo._util.text import duration, short
from purejaxppo.tracking.progress import LINES, Meter, Report, display, line


def row(timesteps, wall_time, num_episodes=1.0, episode_return_mean=0.0, kl=0.0):
    return {
        "timesteps": timesteps,
        "wall_time": wall_time,
        "num_episodes": num_episodes,
        "episode_return_mean": episode_return_mean,
        "kl": kl,
    }


def test_speed_leaves_compilation_out_and_gives_the_time_left():
    meter = Meter(10_000)
    first = meter.chunk([row(1000, 30.0)])
    assert math.isnan(first.steps_per_second)
    assert math.isnan(first.seconds_left)
    second = meter.chunk([row(2000, 30.5), row(3000, 31.0)])
    assert second.steps_per_second == 2000.0
    assert second.seconds_left == 3.5
    assert second.seconds == 31.0


def test_returns_are_weighted_by_episodes_and_kept_while_none_ends():
    meter = Meter(100)
    rows = [row(10, 1.0, 1, 10.0), row(20, 2.0, 3, 30.0), row(30, 3.0, 0, math.nan)]
    assert meter.chunk(rows).episode_return == (10.0 + 3 * 30.0) / 4
    assert meter.chunk([row(40, 4.0, 0, math.nan)]).episode_return == 25.0
    assert meter.chunk([row(50, 5.0, 2, 7.0)]).episode_return == 7.0


def test_unknown_return_is_a_dash():
    report = Meter(100).chunk([row(10, 1.0, 0, math.nan)])
    assert math.isnan(report.episode_return)
    assert "return –" in line(report)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (950, "950"), (999.6, "1k"), (12_345, "12.3k"), (500_000, "500k"), (999_600, "1M"), (1.05e6, "1.05M")],
)
def test_counts_as_people_say_them(count, text):
    assert short(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (59.7, "1:00"), (754, "12:34"), (11_100, "3:05:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
    assert duration(math.nan) == duration(math.inf) == "–"


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
