"""How a run is doing, while it runs: a live display in a terminal, plain lines everywhere else."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from purejaxppo._util.text import duration, short

LINES = 20  # plain lines per run


class Report(NamedTuple):
    """Where a run stands. A number that is not known yet is NaN."""

    timesteps: int
    total: int
    seconds: float  # since the start, compilation included
    steps_per_second: float  # compilation left out
    episode_return: float  # mean of the episodes that ended last
    kl: float

    @property
    def seconds_left(self) -> float:
        """Estimate of what is left, from the speed so far."""
        rate = self.steps_per_second
        return (self.total - self.timesteps) / rate if rate > 0 else math.nan


class Meter:
    """Turns chunks of rows into reports.

    The first chunk holds the compilation, so that the speed is measured from its end on.
    """

    def __init__(self, total: int):
        self.report = Report(0, total, 0.0, math.nan, math.nan, math.nan)
        self.first: Mapping[str, float] | None = None

    def chunk(self, rows: Sequence[Mapping[str, float]]) -> Report:
        """Take in the rows of the next chunk, as `loggers.rows_of` makes them."""
        last = rows[-1]
        rate = math.nan
        if self.first is None:
            self.first = last
        elif last["wall_time"] > self.first["wall_time"]:
            steps = last["timesteps"] - self.first["timesteps"]
            rate = steps / (last["wall_time"] - self.first["wall_time"])
        ended = [row for row in rows if row["num_episodes"] > 0]
        mean = self.report.episode_return
        if ended:
            count = sum(row["num_episodes"] for row in ended)
            mean = sum(row["episode_return_mean"] * row["num_episodes"] for row in ended) / count
        total = self.report.total
        self.report = Report(int(last["timesteps"]), total, last["wall_time"], rate, mean, last["kl"])
        return self.report


def _known(value: float, form: str, unit: str = "") -> str:
    return f"{value:{form}}{unit}" if math.isfinite(value) else "–"


def describe(report: Report) -> list[tuple[str, str]]:
    """Return (name, value) of what the display shows, in its order."""
    rate = short(report.steps_per_second) if math.isfinite(report.steps_per_second) else "–"
    return [
        ("env steps", f"{short(report.timesteps)} of {short(report.total)}"),
        ("steps/s", rate),
        ("return", _known(report.episode_return, ".4g")),
        ("KL", _known(report.kl, ".4f")),
        ("ETA", duration(report.seconds_left)),
    ]


def line(report: Report) -> str:
    """Write a report as one plain line."""
    (_, steps), *rest = describe(report)
    numbers = "  ".join(f"{name} {value:<6}" for name, value in rest)
    return f"{report.timesteps / report.total:4.0%}  {steps:>14} env steps  {numbers}".rstrip()


class _View:
    """What the live display draws; it is drawn anew several times a second, while the program runs on the device."""

    def __init__(self, total: int):
        self.report = Report(0, total, 0.0, math.nan, math.nan, math.nan)
        self.started, self.note = time.monotonic(), "compiling"
        self.spinner = Spinner("dots")

    def __rich__(self) -> Any:
        elapsed = duration(time.monotonic() - self.started)
        top = Table.grid(padding=(0, 1), expand=True)
        top.add_column(ratio=1)
        top.add_column(justify="right", min_width=4)
        bar = ProgressBar(total=self.report.total, completed=self.report.timesteps)
        top.add_row(bar, f"{self.report.timesteps / self.report.total:.0%}")
        if self.report.timesteps == 0:
            return Group(top, self._noted(f"{self.note} {elapsed}"))
        numbers = Text()
        for name, value in describe(self.report):
            numbers.append(f"{name} ", "dim").append(value, "bold").append("  ")
        return Group(top, numbers, *([self._noted(self.note)] if self.note else []))

    def _noted(self, text: str) -> Any:
        self.spinner.update(text=text)
        return self.spinner


class Display(NamedTuple):
    """What a run tells the display."""

    update: Callable[[Report], None]
    say: Callable[[str], None]  # a remark, such as "stopping after this chunk"


@contextmanager
def display(total: int, console: Console | None = None) -> Iterator[Display]:
    """Show the progress of a run of `total` environment steps: live in a terminal, else about 20 plain lines.

    Args:
        total: environment steps of the whole run.
        console: where to write; standard output unless given.
    """
    console = console or Console()
    if not console.is_terminal:
        yield _plain_display(console)
        return
    view = _View(total)

    def update(report: Report) -> None:
        view.report = report
        view.note = "" if view.note == "compiling" else view.note

    with Live(view, console=console, refresh_per_second=8) as live:
        yield Display(update, lambda text: setattr(view, "note", text))
        view.note = ""
        live.refresh()


def _plain_display(console: Console) -> Display:
    shown = -1

    def say(text: str) -> None:
        print(text, file=console.file, flush=True)

    def update(report: Report) -> None:
        nonlocal shown
        place = report.timesteps * LINES // report.total
        if place > shown or report.timesteps >= report.total:
            shown = place
            say(line(report))

    say("compiling")
    return Display(update, say)
