"""How a run is doing, while it runs: a live display in a terminal, plain lines everywhere else."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

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


def short(count: float) -> str:
    """Write a count as people say it: 950, 12.3k, 500k, 1.05M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= factor * 0.9995:
            return f"{count / factor:.3g}{letter}" if abs(count) < factor * 999.5 else f"{count / factor:.0f}{letter}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """Write a duration as 0:07, 12:34 or 3:05:00; a dash where it is not known."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def brief(seconds: float) -> str:
    """Write a short time with three digits: 1.44 s, 5.3 ms, 850 µs."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit * 0.9995:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} µs"


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


def bench_table(report: Mapping[str, Any]) -> Table:
    """What `bench` measured: a column for each workload, a row for each number."""
    about = report["machine"]
    device = about["device"] if about["platform"] != "cpu" else f"{about['cpu']}, {about['cores']} cores"
    title = f"{device}; jax {report['versions']['jax']}"
    table = Table(title=title, title_style="bold", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    results = report["workloads"]
    for name in results:
        table.add_column(name, justify="right")
    columns = [_bench_rows(result) for result in results.values()]
    labels = dict.fromkeys(label for column in columns for label in column)  # a workload that failed has few
    for label in labels:
        table.add_row(label, *(column.get(label, "") for column in columns))
    return table


def _bench_rows(result: Mapping[str, Any]) -> dict[str, str]:
    """Label -> text of one workload's column."""
    if "error" in result:
        return {"steps/s": "failed"}
    rate, compiled, kernels, update_s = (result[key] for key in ("steps_per_s", "compile", "kernels", "update_s"))
    rows = {
        "steps/s": short(rate["median"]),
        "  least": short(rate["min"]),
        "  greatest": short(rate["max"]),
        "compile, cold": f"{compiled['cold_s']:.1f} s",
        "compile, warm": f"{compiled['warm_s']:.1f} s",
        "one update": brief(update_s["median"]),
    }
    rows |= {f"  {name}": f"{s / update_s['median']:.0%}" for name, s in result["split_s"].items()}
    return rows | {
        "kernels per env step": f"{kernels['per_env_step']:.1f}",
        "kernels per minibatch": f"{kernels['per_minibatch']:.1f}",
        "FLOP per env step": short(result["flops_per_step"]),
        "  of matmul ceiling": f"{result['matmul_fraction']:.1%}",
        "bytes per env step": short(result["bytes_per_step"]),
        "  of memory ceiling": f"{result['memory_fraction']:.1%}",
        "peak memory": f"{short(result['peak_memory_bytes'])}B",
    }
