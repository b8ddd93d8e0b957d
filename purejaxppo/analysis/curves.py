"""Learning curves of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo.analysis.figures import new_figure, save_figure

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
    figure = new_figure(4.5, title)
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
    save_figure(figure, path)


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
