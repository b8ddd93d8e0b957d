"""The figures of a study: learning curves, performance profiles, comparison with the best, sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from purejaxppo.analysis.figures import new_figure
from purejaxppo.analysis.statistics import FEW_SEEDS_NOTE, curve_interval, profile_interval, too_few
from purejaxppo.analysis.study import Generalization, Ranked, filled_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): distinguishable with any color vision, and in grey by the dashes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MOST_LINES = len(COLORS)
MOST_BARS = 20


def curves_figure(task: str, ranked: Sequence[Ranked]) -> Figure:
    """Return the learning curves of the best arms: interquartile mean and 95 % interval over the seeds."""
    figure = new_figure(4.6, f"{task}: learning curves")
    axes = figure.add_subplot()
    for i, r in enumerate(ranked[:MOST_LINES]):
        if not np.isfinite(r.arm.curves).any():
            continue
        steps, interval = r.arm.timesteps, curve_interval(filled_curves(r.arm))
        axes.plot(steps, interval.value, color=COLORS[i], ls=DASHES[i], lw=2, label=_shorten(r.arm.label))
        axes.fill_between(steps, interval.low, interval.high, color=COLORS[i], alpha=0.2, lw=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of training episodes (sampled actions)\nIQM over seeds, 95 % interval")
    _format_steps(axes)
    _finish(axes, _seeds(ranked[:MOST_LINES]))
    return figure


def profiles_figure(task: str, ranked: Sequence[Ranked], score: str) -> Figure:
    """Return the performance profiles of the best arms: which share of runs scores above a threshold."""
    figure = new_figure(4.2, f"{task}: performance profiles")
    axes = figure.add_subplot()
    shown = ranked[:MOST_LINES]
    values = np.concatenate([r.scores for r in shown])
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, 301)
    for i, r in enumerate(shown):
        profile = profile_interval(r.scores, thresholds)
        axes.step(
            thresholds, profile.value, where="post", color=COLORS[i], ls=DASHES[i], lw=2, label=_shorten(r.arm.label)
        )
        axes.fill_between(thresholds, profile.low, profile.high, color=COLORS[i], alpha=0.12, lw=0, step="post")
    axes.set_xlabel(f"score τ ({score})")
    axes.set_ylabel("share of runs with a score above τ")
    axes.set_ylim(-0.02, 1.02)
    _finish(axes, _seeds(shown))
    return figure


def scores_figure(task: str, ranked: Sequence[Ranked], score: str) -> Figure:
    """Return the scores of all seeds of each arm, and the probability that the best arm improves on it."""
    shown = ranked[:MOST_BARS]
    figure = new_figure(1.9 + 0.32 * len(shown), f"{task}: all scores, and comparison with the best")
    grid = figure.add_gridspec(1, 2, width_ratios=[1.5, 1.0])
    left = figure.add_subplot(grid[0, 0])
    right = figure.add_subplot(grid[0, 1], sharey=left)
    y = np.arange(len(shown))
    for i, r in enumerate(shown):
        left.plot(r.scores, np.full(len(r.scores), i), "o", ms=4, mfc="none", color="#777777", alpha=0.8)
        left.plot([r.interval.low, r.interval.high], [i, i], color=COLORS[0], lw=5, alpha=0.5, solid_capstyle="butt")
        left.plot(r.interval.value, i, "|", color=COLORS[1], ms=14, mew=2.5)
        if i:
            right.plot(
                [r.improvement.low, r.improvement.high], [i, i], color=COLORS[0], lw=5, alpha=0.5, solid_capstyle="butt"
            )
            right.plot(r.improvement.value, i, "|", color=COLORS[1], ms=14, mew=2.5)
    left.set_yticks(y, [_shorten(r.arm.label) for r in shown], fontsize=8)
    left.set_ylim(len(shown) - 0.5, -0.5)
    left.set_xlabel(f"score ({score})\ncircles: runs; bar: 95 % interval of the IQM")
    right.axvline(0.5, color="#777777", lw=1, ls=":")
    right.set_xlim(-0.02, 1.02)
    right.set_xlabel("P(a run of the best setting scores higher)\nbar: 95 % interval")
    right.tick_params(labelleft=False)
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    _note_few(left, _seeds(shown))
    return figure


def sensitivity_figure(task: str, ranked: Sequence[Ranked], names: Sequence[str], score: str) -> Figure:
    """Return the score against each hyperparameter: every run, and the interval of each setting."""
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = new_figure(0.9 + 3.4 * rows, f"{task}: sensitivity to each hyperparameter")
    grid = figure.add_gridspec(rows, columns)
    for i, name in enumerate(names):
        axes = figure.add_subplot(grid[i // columns, i % columns])
        x = np.array([r.arm.hyperparams[name] for r in ranked], np.float64)
        order = np.argsort(x, kind="stable")
        for j in order:
            axes.plot(
                np.full(len(ranked[j].scores), x[j]),
                ranked[j].scores,
                "o",
                ms=3,
                mfc="none",
                color="#999999",
                alpha=0.6,
            )
            axes.plot([x[j], x[j]], ranked[j].interval[1:], color=COLORS[0], lw=4, alpha=0.5, solid_capstyle="butt")
        level = np.array([r.interval.value for r in ranked])
        single = len(set(x.tolist())) == len(x) and len(names) == 1
        axes.plot(x[order], level[order], "-o" if single else "o", color=COLORS[1], ms=5, lw=1.5)
        if (x > 0).all() and x.max() / x.min() >= 20:
            axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.set_ylabel(f"score ({score})" if i % columns == 0 else "")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            _note_few(axes, _seeds(ranked))
    return figure


def generalization_figure(task: str, lines: Sequence[Generalization], score: str) -> Figure:
    """Return the score against one environment parameter; lines and bars mark the values of the training."""
    parameter = lines[0].parameter
    figure = new_figure(4.4, f"{task}: score at values of {parameter}")
    axes = figure.add_subplot()
    for i, line in enumerate(lines[:MOST_LINES]):
        interval = curve_interval(line.filled_scores)
        axes.plot(
            line.values, interval.value, "o", color=COLORS[i], ls=DASHES[i], lw=2, ms=4, label=_shorten(line.label)
        )
        axes.fill_between(line.values, interval.low, interval.high, color=COLORS[i], alpha=0.2, lw=0)
    ranges = [(line.trained, line.trained_high) for line in lines[:MOST_LINES]]
    shared = len(set(ranges)) == 1
    for i, (low, high) in enumerate(ranges[:1] if shared else ranges):
        _mark_training(axes, low, high, i, shared)
    interval = "grey" if shared else "bar on the axis"
    drawn = any(high is not None for _, high in ranges)
    mark = f"{interval}: interval of the training" if drawn else "vertical line: value of the training"
    axes.set_xlabel(f"{parameter}\n{mark}")
    axes.set_ylabel(f"score ({score})\nIQM over seeds, 95 % interval")
    _finish(axes, [len(line.scores) for line in lines])
    return figure


def _mark_training(axes: Axes, low: float | None, high: float | None, i: int, shared: bool) -> None:
    """Mark the value of the training of line i; the ends of an interval, with a shade or a bar between them.

    Args:
        axes: of the figure.
        low: the value, or the low end; None if it is not known.
        high: the high end of an interval.
        i: number of the line.
        shared: all lines have the same value, which is grey, as the intervals of the scores are not.
    """
    color = "#555555" if shared else COLORS[i]
    for end in (low, high):
        if end is not None:
            axes.axvline(end, color=color, ls=DASHES[i], lw=1)
    if low is not None and high is not None:
        bottom, top, alpha = (0.0, 1.0, 0.15) if shared else (0.025 * i, 0.025 * (i + 1), 0.6)
        axes.axvspan(low, high, bottom, top, color=color, alpha=alpha, lw=0)


def _shorten(label: str, length: int = 44) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def _format_steps(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _seeds(shown: Sequence[Ranked]) -> list[int]:
    """Return the number of seeds of each arm."""
    return [len(r.arm.seeds) for r in shown]


def _finish(axes: Axes, seeds: Sequence[int]) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.lines:
        axes.text(0.5, 0.5, "no episode finished", transform=axes.transAxes, ha="center", va="center")
        return
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False, handlelength=3.5)
    _note_few(axes, seeds)


def _note_few(axes: Axes, seeds: Sequence[int]) -> None:
    """Say above a figure that its intervals are too short."""
    if too_few(seeds):
        axes.text(0.0, 1.02, FEW_SEEDS_NOTE, transform=axes.transAxes, fontsize=7, color="#444444", va="bottom")
