"""Pictures: the learning curve of a run, and what the benchmark measured."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo.tracking.progress import brief, short

LINE, BAND, MARK = "#1f5fa8", "#9dc3ec", "#c0392b"

MAX_POINTS, MIN_EPISODES = 200, 16  # of a curve; of a point


def learning_curve(metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what the curve shows: episode returns over steps and time, at most 200 points of 16 episodes or more.

    Neighbouring updates are pooled: the mean is over all their episodes, min and max are the extremes among them.
    Updates in which no episode ended are left out.

    Args:
        metrics: columns [num_updates] as `metrics.csv` has them.
    """
    episodes = np.asarray(metrics["num_episodes"], np.float64)
    pools = _pools(episodes)
    mean, low, high = (np.asarray(metrics[f"episode_return_{kind}"]) for kind in ("mean", "min", "max"))
    return {
        "timesteps": np.array([metrics["timesteps"][pool[-1]] for pool in pools]),
        "wall_time": np.array([metrics["wall_time"][pool[-1]] for pool in pools]),
        "mean": np.array([np.average(mean[pool], weights=episodes[pool]) for pool in pools]),
        "min": np.array([low[pool].min() for pool in pools]),
        "max": np.array([high[pool].max() for pool in pools]),
    }


def _pools(episodes: np.ndarray) -> list[np.ndarray]:
    """Indices of the updates behind each point; where all episodes together are too few, one point has them all."""
    some = np.flatnonzero(episodes > 0)
    pools: list[np.ndarray] = []
    room = np.zeros(0, int)
    for part in np.array_split(some, min(MAX_POINTS, max(len(some), 1))):
        room = np.concatenate([room, part])
        if episodes[room].sum() >= MIN_EPISODES:
            pools.append(room)
            room = np.zeros(0, int)
    if len(room):
        last = pools.pop() if pools else np.zeros(0, int)
        pools.append(np.concatenate([last, room]))
    return pools


def time_unit(seconds: float) -> tuple[float, str]:
    """Return the unit, in seconds, and its name in which a duration is best read."""
    if seconds > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 300 else (1.0, "seconds")


def plot_curve(
    path: str | Path, metrics: Mapping[str, np.ndarray], title: str, evaluation: float | None = None
) -> None:
    """Draw the episode return against environment steps and against wall time, and write it as PNG.

    Args:
        path: the file to write; replaced in one step.
        metrics: columns [num_updates] as `metrics.csv` has them.
        title: what was trained.
        evaluation: mean return of the final greedy evaluation, drawn as a line of its own where given.
    """
    from matplotlib.ticker import EngFormatter

    curve = learning_curve(metrics)
    first, last = (float(metrics["wall_time"][i]) if len(metrics["wall_time"]) else 0.0 for i in (0, -1))
    unit, unit_name = time_unit(last - first)
    figure = _figure(4.5, title)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, curve["timesteps"], curve, evaluation)
    # Compilation would squeeze a short run into a corner: the clock starts when the first update is done.
    _draw(right, (curve["wall_time"] - first) / unit, curve, evaluation)
    left.set_xlabel("environment steps")
    left.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.set_ylabel("episode return")
    right.set_xlabel(f"wall time in {unit_name} after compilation and first update ({first:.1f} s)")
    if left.get_legend_handles_labels()[0]:
        left.legend(loc="best", fontsize=9, framealpha=0.9)
    _save(figure, path)


def _figure(height: float, title: str) -> Any:
    """An empty figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return figure


def _save(figure: Any, path: str | Path) -> None:
    """Write it as PNG; an old file is replaced in one step."""
    from purejaxppo.training.policy_file import write_file

    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_file(path, data.getvalue())


def _draw(axes: Any, x: np.ndarray, curve: Mapping[str, np.ndarray], evaluation: float | None) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelleft=True)
    if len(x) == 0:
        axes.text(0.5, 0.5, "no episode ended", transform=axes.transAxes, ha="center", va="center", fontsize=12)
    else:
        axes.fill_between(
            x, curve["min"], curve["max"], color=BAND, alpha=0.45, lw=0, label="lowest to highest episode"
        )
        axes.plot(x, curve["mean"], color=LINE, lw=2, marker="o" if len(x) < 3 else "", label="mean while training")
    axes.set_xlim(left=0)
    if evaluation is not None and np.isfinite(evaluation):
        axes.axhline(evaluation, color=MARK, ls="--", lw=1.5, label=f"greedy evaluation: {evaluation:.5g}")


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
        report: what `purejaxppo.bench.bench` returns.
    """
    results = {name: result for name, result in report["workloads"].items() if "error" not in result}
    curves = "scaling" in report
    about = report["machine"]
    device = about["device"] if about["platform"] != "cpu" else f"{about['cpu']}, {about['cores']} cores"
    height = 1.6 + 0.45 * max(len(results), 3)
    figure = _figure(height + 3.6 * curves, f"purejaxppo {report['versions']['purejaxppo']} on {device}")
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
    _save(figure, path)


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
