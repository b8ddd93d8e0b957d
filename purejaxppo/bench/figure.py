"""The benchmark report as a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo._util.text import brief, short
from purejaxppo.analysis.curves import BAND, LINE, MARK
from purejaxppo.analysis.figures import new_figure, save_figure

PHASE_COLORS = {
    "environment": "#1b7f5c",
    "policy": "#7cc5a5",
    "targets": "#f0c14b",
    "shuffle": "#c0392b",
    "gradients": "#1f5fa8",
    "rest": "#b8bcc2",
}


def plot_bench(path: str | Path, report: Mapping[str, Any]) -> None:
    """Draw what `bench` measured and write it as PNG: speed, where the time goes, compile time, curves if any.

    Args:
        path: the file to write; replaced in one step.
        report: what `purejaxppo.bench.benchmark.run_benchmark` returns.
    """
    results = {name: result for name, result in report["workloads"].items() if "error" not in result}
    curves = "scaling" in report
    about = report["machine"]
    device = about["device"] if about["platform"] != "cpu" else f"{about['cpu']}, {about['cores']} cores"
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


def _bars(axes: Any, title: str, names: Mapping[str, Any], labels: bool = True) -> np.ndarray:
    """Prepare `axes` for one horizontal bar per name, from above; returns where they go."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    y = np.arange(len(names))
    axes.set_yticks(y, list(names) if labels else [""] * len(names), fontsize=11)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return y


def _draw_speed(axes: Any, results: Mapping[str, Any]) -> None:
    from matplotlib.ticker import EngFormatter

    y = _bars(axes, "environment steps per second", results)
    rates = [result["steps_per_s"] for result in results.values()]
    middle = np.array([rate["median"] for rate in rates])
    spread = np.array([[rate["median"] - rate["min"], rate["max"] - rate["median"]] for rate in rates]).T
    axes.barh(y, middle, 0.6, color=LINE)
    axes.errorbar(middle, y, xerr=spread, fmt="none", ecolor="black", capsize=3, lw=1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for at, rate in zip(y, rates, strict=True):
        axes.annotate(f" {short(rate['median'])}", (rate["max"], at), va="center")
    axes.set_xlim(0, max((rate["max"] for rate in rates), default=1.0) * 1.3)
    axes.set_xlabel("median, least and greatest")


def _draw_split(axes: Any, results: Mapping[str, Any]) -> None:
    y = _bars(axes, "where the time of an update goes", results)
    left = np.zeros(len(results))
    for phase, color in PHASE_COLORS.items():
        # a negative rest (phases that cost less together than alone) has no width
        shares = [
            max(r["split_s"][phase], 0.0) / sum(max(s, 0.0) for s in r["split_s"].values()) for r in results.values()
        ]
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


def _draw_compile(axes: Any, results: Mapping[str, Any]) -> None:
    y = _bars(axes, "compile time in seconds", results)
    for shift, kind, color in ((-0.16, "cold", MARK), (0.16, "warm", BAND)):
        seconds = [result["compile"][f"{kind}_s"] for result in results.values()]
        axes.barh(y + shift, seconds, 0.3, color=color, label={"cold": "cold", "warm": "from the cache"}[kind])
        for at, value in zip(y + shift, seconds, strict=True):
            axes.annotate(f" {value:.1f}", (value, at), va="center", fontsize=9)
    axes.set_xlim(0, max((result["compile"]["cold_s"] for result in results.values()), default=1.0) * 1.2)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=9, frameon=False)


def _draw_scaling(axes: Any, points: Any) -> None:
    from matplotlib.ticker import EngFormatter

    sizes = [point["num_envs"] for point in points]
    rates = [[point["steps_per_s"][kind] for point in points] for kind in ("min", "median", "max")]
    axes.fill_between(sizes, rates[0], rates[2], color=BAND, alpha=0.45, lw=0)
    axes.plot(sizes, rates[1], color=LINE, lw=2, marker="o")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title("steps per second against environments", fontsize=11, loc="left")
    axes.set_xlabel("environments side by side")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_drift(axes: Any, drift: Mapping[str, Any]) -> None:
    milliseconds = np.asarray(drift["seconds"]) * 1e3
    axes.plot(np.arange(1, len(milliseconds) + 1), milliseconds, color=LINE, lw=0, marker=".", ms=4)
    axes.axhline(float(np.median(milliseconds)), color=MARK, ls="--", lw=1.5)
    axes.set_ylim(0, 2.0 * float(np.quantile(milliseconds, 0.9)))
    axes.set_title(f"time of each update; last fifth to first: {drift['last_to_first']:.2f}", fontsize=11, loc="left")
    axes.set_xlabel("updates done")
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
