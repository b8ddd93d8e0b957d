"""The figure of a run: learning curve, and what the updates did to the policy and the value function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from purejaxppo.analysis.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, BAND, MARK = "#1f5fa8", "#9dc3ec", "#c0392b"

MAX_POINTS = 200  # of a curve
MIN_EPISODES = 16  # of a point of the learning curve

# Metrics in the small panels, with their titles; by rows of two.
PANELS = {
    "kl": "KL(old ‖ new) of an update",
    "clip_fraction": "clip fraction",
    "explained_variance": "explained variance",
    "entropy": "entropy",
}


# Data ----------------------------------------------------------------------------------------------------------------


def learning_curve(metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return episode returns over environment steps, at most 200 points of 16 episodes or more.

    Neighboring updates are pooled: the mean is over all their episodes, min and max are the extremes among them.
    Updates in which no episode finished are left out.

    Args:
        metrics: columns [num_updates] as in `metrics.csv`.

    Returns:
        Columns `timesteps`, `mean`, `min` and `max`, [points].
    """
    episodes = np.asarray(metrics["num_episodes"], np.float64)
    pools = _pool_episodes(episodes)
    mean, low, high = (np.asarray(metrics[f"episode_return_{kind}"]) for kind in ("mean", "min", "max"))
    return {
        "timesteps": np.array([metrics["timesteps"][pool[-1]] for pool in pools]),
        "mean": np.array([np.average(mean[pool], weights=episodes[pool]) for pool in pools]),
        "min": np.array([low[pool].min() for pool in pools]),
        "max": np.array([high[pool].max() for pool in pools]),
    }


def _pool_episodes(episodes: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the updates behind each point; if the run has fewer than 16 episodes, one point has all."""
    finished = np.flatnonzero(episodes > 0)
    pools: list[np.ndarray] = []
    pending = np.zeros(0, int)
    for indices in np.array_split(finished, min(MAX_POINTS, max(len(finished), 1))):
        pending = np.concatenate([pending, indices])
        if episodes[pending].sum() >= MIN_EPISODES:
            pools.append(pending)
            pending = np.zeros(0, int)
    if len(pending):
        last = pools.pop() if pools else np.zeros(0, int)
        pools.append(np.concatenate([last, pending]))
    return pools


def update_curve(metrics: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one metric of the updates over environment steps, at most 200 points.

    Neighboring updates are averaged. Values that are not finite are left out.

    Args:
        metrics: columns [num_updates] as in `metrics.csv`.
        name: of the metric.

    Returns:
        Environment steps and values, [points].
    """
    values = np.asarray(metrics[name], np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    pools = np.array_split(finite, min(MAX_POINTS, len(finite))) if len(finite) else []
    steps = np.array([metrics["timesteps"][pool[-1]] for pool in pools])
    return steps, np.array([values[pool].mean() for pool in pools])


# Figure --------------------------------------------------------------------------------------------------------------


def plot_curve(
    path: str | Path, metrics: Mapping[str, np.ndarray], title: str, evaluation: float | None = None
) -> None:
    """Write the figure of a run as PNG, replacing the file atomically; for the arguments see `curve_figure`."""
    save_figure(curve_figure(metrics, title, evaluation), path)


def curve_figure(metrics: Mapping[str, np.ndarray], title: str, evaluation: float | None = None) -> Figure:
    """Return the figure of a run: episode returns on the left, KL, clip fraction, fit and entropy on the right.

    Args:
        metrics: columns [num_updates] as in `metrics.csv`.
        title: what was trained.
        evaluation: mean return of the final greedy evaluation, drawn as a horizontal line if given.
    """
    figure = new_figure(4.8, title)
    grid = figure.add_gridspec(2, 3, width_ratios=[1.6, 1.0, 1.0])
    returns = figure.add_subplot(grid[:, 0])
    _draw_returns(returns, learning_curve(metrics), evaluation)
    panels = [figure.add_subplot(grid[i // 2, 1 + i % 2]) for i in range(len(PANELS))]
    for axes, (name, label) in zip(panels, PANELS.items(), strict=True):
        _draw_metric(axes, name, label, *update_curve(metrics, name))
    for axes in (returns, *panels):
        _format_steps(axes, metrics["timesteps"])
    for axes in panels[:2]:
        axes.tick_params(labelbottom=False)
    for axes in (returns, *panels[2:]):
        axes.set_xlabel("environment steps")
    return figure


def _draw_returns(axes: Axes, curve: Mapping[str, np.ndarray], evaluation: float | None) -> None:
    axes.set_ylabel("episode return")
    x = curve["timesteps"]
    if len(x):
        style = {"color": BAND, "alpha": 0.45, "label": "lowest to highest episode"}
        if len(x) == 1:
            axes.vlines(x, curve["min"], curve["max"], lw=6, **style)
        else:
            axes.fill_between(x, curve["min"], curve["max"], lw=0, **style)
        axes.plot(x, curve["mean"], color=LINE, lw=2, marker=_marker(x), label="mean")
    else:
        axes.text(0.5, 0.6, "no episode finished", transform=axes.transAxes, ha="center", va="center", fontsize=12)
    if evaluation is not None and not np.isfinite(evaluation):
        evaluation = None
    if evaluation is not None:
        axes.axhline(evaluation, color=MARK, ls="--", lw=1.5, label=f"greedy evaluation: {evaluation:.5g}")
    if len(x) or evaluation is not None:
        # Above the axes, where it covers no data.
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize=8, frameon=False, columnspacing=1.2)
    else:
        axes.set_yticks([])


def _draw_metric(axes: Axes, name: str, label: str, x: np.ndarray, y: np.ndarray) -> None:
    axes.set_title(label, fontsize=10, loc="left")
    if not len(x):
        axes.set_yticks([])
        return
    axes.plot(x, y, color=LINE, lw=1.5, marker=_marker(x))
    if name in ("kl", "clip_fraction"):
        axes.set_ylim(bottom=0)
    if name == "explained_variance":  # it may start far below 0, where a worse fit says nothing more
        axes.set_ylim(max(min(y.min() - 0.05, 0.0), -1.0), 1.02)


def _format_steps(axes: Axes, timesteps: np.ndarray) -> None:
    """Show the whole run on the axis of environment steps, also the part without a point."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    if len(timesteps):
        axes.set_xlim(0, 1.02 * float(timesteps[-1]))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        axes.set_xticks([])


def _marker(x: np.ndarray) -> str:
    """Mark the points of a curve that is too short for a line."""
    return "o" if len(x) < 3 else ""
