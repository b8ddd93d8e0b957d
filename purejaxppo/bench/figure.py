"""Show the benchmark report as a figure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from purejaxppo._util.text import brief, short
from purejaxppo.analysis.curves import BAND, LINE, MARK
from purejaxppo.analysis.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from purejaxppo.bench.timing import Report

PHASE_COLORS = {
    "environment": "#1b7f5c",
    "policy": "#7cc5a5",
    "targets": "#f0c14b",
    "shuffle": "#c0392b",
    "gradients": "#1f5fa8",
    "rest": "#b8bcc2",
}


def plot_bench(path: str | Path, report: Report) -> None:
    """Draw the report as PNG: speed, the phases of an update, compile time, and the curves if they were measured.

    Args:
        path: the file to write; replaced atomically.
        report: the result of `purejaxppo.bench.benchmark.run_benchmark`.
    """
    results = {name: result for name, result in report["workloads"].items() if "error" not in result}
    curves = "scaling" in report
    machine = report["machine"]
    device = machine["device"] if machine["platform"] != "cpu" else f"{machine['cpu']}, {machine['cores']} cores"
    height = 1.6 + 0.45 * max(len(results), 3)
    figure = new_figure(height + 3.6 * curves, f"purejaxppo {report['versions']['purejaxppo']} on {device}")
    grid = figure.add_gridspec(1 + curves, 1, height_ratios=[height, 3.6][: 1 + curves])
    above = grid[0].subgridspec(1, 3, width_ratios=[1, 1.5, 1])
    speed, time, compiling = (figure.add_subplot(above[i]) for i in range(3))
    _draw_speed(speed, results)
    _draw_split(time, results)
    _draw_compile(compiling, results)
    if curves:
        below = grid[1].subgridspec(1, 2)
        _draw_scaling(figure.add_subplot(below[0]), report["scaling"])
        _draw_drift(figure.add_subplot(below[1]), report["drift"])
    save_figure(figure, path)


def _prepare_bars(axes: Axes, title: str, names: Collection[str]) -> np.ndarray:
    """Prepare `axes` for one horizontal bar per name, the first on top, and return their positions."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    y = np.arange(len(names))
    axes.set_yticks(y, list(names), fontsize=11)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return y


def _draw_speed(axes: Axes, results: Mapping[str, Report]) -> None:
    from matplotlib.ticker import EngFormatter

    y = _prepare_bars(axes, "environment steps per second", results)
    rates = [result["steps_per_s"] for result in results.values()]
    middle = np.array([rate["median"] for rate in rates])
    spread = np.array([[rate["median"] - rate["min"], rate["max"] - rate["median"]] for rate in rates]).T
    axes.barh(y, middle, 0.6, color=LINE)
    axes.errorbar(middle, y, xerr=spread, fmt="none", ecolor="black", capsize=3, lw=1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for at, rate in zip(y, rates, strict=True):
        axes.annotate(f" {short(rate['median'])}", (rate["max"], at), va="center")
    axes.set_xlim(0, max((rate["max"] for rate in rates), default=1.0) * 1.3)
    axes.set_xlabel("median, minimum and maximum")


def _draw_split(axes: Axes, results: Mapping[str, Report]) -> None:
    y = _prepare_bars(axes, "phases of an update, share of its time", results)
    left = np.zeros(len(results))
    for phase, color in PHASE_COLORS.items():
        shares = [_shares(result["split_s"])[phase] for result in results.values()]
        axes.barh(y, shares, 0.6, left=left, color=color, label=phase, edgecolor="white", lw=0.8)
        for at, start, share in zip(y, left, shares, strict=True):
            if share > 0.07:
                dark = phase in ("environment", "shuffle", "gradients")
                style = {"ha": "center", "va": "center", "fontsize": 9, "color": "white" if dark else "black"}
                axes.text(start + share / 2, at, f"{share:.0%}", **style)
        left = left + shares
    for at, result in zip(y, results.values(), strict=True):
        axes.text(1.02, at, brief(result["update_s"]["median"]), va="center")
    axes.set_xlim(0, 1.22)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=9, frameon=False)


def _shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each phase. A negative rest (phases faster together than separately) counts as 0."""
    positive = {phase: max(s, 0.0) for phase, s in seconds.items()}
    return {phase: s / sum(positive.values()) for phase, s in positive.items()}


def _draw_compile(axes: Axes, results: Mapping[str, Report]) -> None:
    y = _prepare_bars(axes, "compile time in seconds", results)
    for shift, kind, color, label in ((-0.16, "cold", MARK, "cold"), (0.16, "warm", BAND, "from the cache")):
        seconds = [result["compile"][f"{kind}_s"] for result in results.values()]
        axes.barh(y + shift, seconds, 0.3, color=color, label=label)
        for at, value in zip(y + shift, seconds, strict=True):
            axes.annotate(f" {value:.1f}", (value, at), va="center", fontsize=9)
    axes.set_xlim(0, max((result["compile"]["cold_s"] for result in results.values()), default=1.0) * 1.2)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=9, frameon=False)


def _draw_scaling(axes: Axes, points: Sequence[Report]) -> None:
    from matplotlib.ticker import EngFormatter

    sizes = [point["num_envs"] for point in points]
    rates = [[point["steps_per_s"][kind] for point in points] for kind in ("min", "median", "max")]
    axes.fill_between(sizes, rates[0], rates[2], color=BAND, alpha=0.45, lw=0)
    axes.plot(sizes, rates[1], color=LINE, lw=2, marker="o")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title("steps per second against environments", fontsize=11, loc="left")
    axes.set_xlabel("environments")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_drift(axes: Axes, drift: Report) -> None:
    milliseconds = np.asarray(drift["seconds"]) * 1e3
    axes.plot(np.arange(1, len(milliseconds) + 1), milliseconds, color=LINE, lw=0, marker=".", ms=4)
    axes.axhline(float(np.median(milliseconds)), color=MARK, ls="--", lw=1.5)
    axes.set_ylim(0, 2.0 * float(np.quantile(milliseconds, 0.9)))
    axes.set_title(f"time of each update; last fifth to first: {drift['last_to_first']:.2f}", fontsize=11, loc="left")
    axes.set_xlabel("updates done")
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
