"""Show the progress of a run: a live display in a capable terminal, plain lines everywhere else."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from purejaxppo._util.text import duration, short
from purejaxppo.tracking.meter import Report, empty_report
from purejaxppo.tracking.terminal import make_console

LINES = 20  # plain lines per run


class Display(NamedTuple):
    """A display, as the loop that trains sees it."""

    update: Callable[[Report], None]
    say: Callable[[str], None]  # shows a remark, such as "stopping after this chunk"


@contextmanager
def display(total: int, console: Console | None = None) -> Iterator[Display]:
    """Show the progress of a run: live if the console is a terminal, otherwise as about 20 plain lines.

    Args:
        total: environment steps of the whole run.
        console: where to write; unless given, standard output, which counts as a terminal if it is a capable one.
    """
    console = console or make_console()
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


def report_columns(report: Report) -> list[tuple[str, str]]:
    """Return (name, value) of what a display shows, in its order."""
    rate = short(report.steps_per_second) if math.isfinite(report.steps_per_second) else "–"
    return [
        ("env steps", f"{short(report.timesteps)} of {short(report.total)}"),
        ("steps/s", rate),
        ("return", _known(report.episode_return, ".4g")),
        ("KL", _known(report.kl, ".4f")),
        ("ETA", duration(report.seconds_left)),
    ]


def _known(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else "–"


def report_line(report: Report) -> str:
    """Return a report as one plain line."""
    (_, steps), *rest = report_columns(report)
    values = "  ".join(f"{name} {value:<6}" for name, value in rest)
    return f"{report.timesteps / report.total:4.0%}  {steps:>14} env steps  {values}".rstrip()


class _View:
    """The content of the live display, rendered several times a second while the device computes."""

    def __init__(self, total: int):
        self.report = empty_report(total)
        self.started = time.monotonic()
        self.note = "compiling"
        self.spinner = Spinner("dots")

    def __rich__(self) -> Group:
        elapsed = duration(time.monotonic() - self.started)
        top = Table.grid(padding=(0, 1), expand=True)
        top.add_column(ratio=1)
        top.add_column(justify="right", min_width=4)
        bar = ProgressBar(total=self.report.total, completed=self.report.timesteps)
        top.add_row(bar, f"{self.report.timesteps / self.report.total:.0%}")
        if self.report.timesteps == 0:
            return Group(top, self._spinning(f"{self.note} {elapsed}"))
        values = Text()
        for name, value in report_columns(self.report):
            values.append(f"{name} ", "dim").append(value, "bold").append("  ")
        return Group(top, values, *([self._spinning(self.note)] if self.note else []))

    def _spinning(self, text: str) -> Spinner:
        self.spinner.update(text=text)
        return self.spinner


def _plain_display(console: Console) -> Display:
    shown = -1

    def say(text: str) -> None:
        print(text, file=console.file, flush=True)

    def update(report: Report) -> None:
        nonlocal shown
        place = report.timesteps * LINES // report.total
        if place > shown or report.timesteps >= report.total:
            shown = place
            say(report_line(report))

    say("compiling")
    return Display(update, say)
