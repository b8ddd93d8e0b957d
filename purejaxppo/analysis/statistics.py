"""Statistics of scores over seeds, in NumPy float64: interquartile mean, intervals, profiles, comparison of settings.

Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice", arXiv:2108.13264,
recommend these for the few seeds that a paper can afford. A failed run scores NaN; `failed_as_worst` replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from purejaxppo._util.aliases import Estimate

FEW_SEEDS = 10
"""Below this many seeds a bootstrap interval is too short."""

FEW_SEEDS_NOTE = "fewer than 10 seeds: the 95 % bootstrap intervals are too short (they cover 81 to 91 % at 5 seeds)"

RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate with its confidence interval; arrays if the statistic is one."""

    value: Estimate
    low: Estimate
    high: Estimate


class Spread(NamedTuple):
    """How the scores of the seeds are spread."""

    worst: float
    p10: float  # 10th percentile
    median: float
    p90: float
    best: float


def failed_as_worst(scores: ArrayLike, among: ArrayLike | None = None) -> np.ndarray:
    """Return the scores with those of failed runs (NaN) replaced by the lowest score.

    Args:
        scores: any shape.
        among: scores whose lowest finite one is taken; by default `scores`. If none is finite, NaN stays.
    """
    scores = np.asarray(scores, np.float64)
    known = np.asarray(scores if among is None else among, np.float64)
    finite = known[np.isfinite(known)]
    return np.where(np.isnan(scores), finite.min(), scores) if finite.size else scores


def interquartile_mean(x: ArrayLike, axis: int | None = None) -> Estimate:
    """Return the mean of the middle half of the sorted values.

    Sorted value i of n has the weight |[i, i+1] ∩ [n/4, 3n/4]| / (n/2). This is defined for every n, and if 4 divides n
    it is the mean without the lowest and the highest quarter. Agarwal et al. (2021), arXiv:2108.13264.

    Args:
        x: values, any shape.
        axis: axis of the n values; None: all values.

    Returns:
        x without `axis`; NaN if any of the n values is NaN.
    """
    values = np.asarray(x, np.float64)
    values = np.sort(values.reshape(-1) if axis is None else np.moveaxis(values, axis, -1), axis=-1)
    n = values.shape[-1]
    inner = values[..., n // 4 : n - n // 4]  # an infinity outside of the middle half does not count
    index = np.arange(n // 4, n - n // 4)
    weights = (np.minimum(index + 1, 0.75 * n) - np.maximum(index, 0.25 * n)) / (0.5 * n)
    mean = (inner * weights).sum(axis=-1)
    return np.where(np.isnan(values[..., -1]), np.nan, mean)[()]


def stratified_interval(
    scores: ArrayLike,
    statistic: Callable[..., Estimate] = interquartile_mean,
    level: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a statistic of all scores with its stratified percentile bootstrap interval.

    The seeds of each task are resampled with replacement, independently of those of the other tasks. With fewer than 10
    seeds the interval is too short. Efron (1979), "Bootstrap methods"; Agarwal et al. (2021), arXiv:2108.13264.

    Args:
        scores: [S] of one task, or [S, M] of M tasks.
        statistic: maps values [R, n] with `axis=1` to [R].
        level: confidence level.
        num_resamples: R, how often the seeds are resampled.
        seed: of the resampling.
    """
    scores = np.asarray(scores, np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    rows = np.random.default_rng(seed).integers(0, len(scores), (num_resamples, *scores.shape))
    resampled = scores[rows, np.arange(scores.shape[1])]
    value = statistic(scores.reshape(1, -1), axis=1)[0]
    return Interval(value, *_percentiles(statistic(resampled.reshape(num_resamples, -1), axis=1), level))


def curve_interval(
    curves: ArrayLike,
    statistic: Callable[..., Estimate] = interquartile_mean,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return a statistic over seeds at every point of a curve, with its pointwise bootstrap interval.

    Args:
        curves: [S, P], one row per seed.
        statistic: maps values [..., S, ...] with `axis` to values without that axis.
        level: confidence level.
        num_resamples: how often the seeds are resampled; whole curves are.
        seed: of the resampling.

    Returns:
        Arrays [P].
    """
    curves = np.asarray(curves, np.float64)
    rows = np.random.default_rng(seed).integers(0, len(curves), (num_resamples, len(curves)))
    return Interval(statistic(curves, axis=0), *_percentiles(statistic(curves[rows], axis=1), level))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Return the share of scores above each threshold, the empirical tail distribution.

    ``P̂(τ) = 1/n Σ_i 1[x_i > τ]``, Agarwal et al. (2021), arXiv:2108.13264; Dolan and Moré (2002).

    Args:
        scores: any shape, n values.
        thresholds: τ [P].
    """
    values = np.sort(np.asarray(scores, np.float64), axis=None)
    return 1.0 - np.searchsorted(values, np.asarray(thresholds, np.float64), side="right") / len(values)


def profile_interval(
    scores: ArrayLike, thresholds: ArrayLike, level: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the performance profile of scores [S] with its pointwise bootstrap interval, [P] each."""
    scores = np.asarray(scores, np.float64)
    above = (scores[:, None] > np.asarray(thresholds, np.float64)).astype(np.float64)
    rows = np.random.default_rng(seed).integers(0, len(scores), (num_resamples, len(scores)))
    return Interval(above.mean(axis=0), *_percentiles(above[rows].mean(axis=1), level))


def probability_of_improvement(
    x: ArrayLike, y: ArrayLike, level: float = 0.95, num_resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the probability that a run of x scores higher than a run of y, with its bootstrap interval.

    ``P(X > Y) = 1/(n m) Σ_ij (1[x_i > y_j] + 1/2 1[x_i = y_j])``, the Mann-Whitney statistic U / (n m). The samples are
    independent, not paired. Mann and Whitney (1947); Agarwal et al. (2021), arXiv:2108.13264.

    Args:
        x: scores [n].
        y: scores [m].
        level: confidence level.
        num_resamples: how often both samples are resampled.
        seed: of the resampling.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    rng = np.random.default_rng(seed)
    rows, columns = (rng.integers(0, len(z), (num_resamples, len(z))) for z in (x, y))
    counts = [np.stack([np.bincount(r, minlength=len(z)) for r in drawn]) for z, drawn in ((x, rows), (y, columns))]
    replicates = np.einsum("ri,ij,rj->r", counts[0], wins, counts[1]) / wins.size
    return Interval(wins.mean(), *_percentiles(replicates, level))


def area_under_curve(timesteps: ArrayLike, values: ArrayLike) -> Estimate:
    """Return the mean height of curves over their steps: the area by the trapezoidal rule, divided by its width.

    The height before the first point is that of the first point, so that a curve of one value has this value.

    Args:
        timesteps: [P], ascending.
        values: [..., P].

    Returns:
        [...]
    """
    steps = np.concatenate([[0.0], np.asarray(timesteps, np.float64)])
    heights = np.asarray(values, np.float64)
    heights = np.concatenate([heights[..., :1], heights], axis=-1)
    return (np.diff(steps) * (heights[..., 1:] + heights[..., :-1]) / 2).sum(-1) / steps[-1]


def spread(scores: ArrayLike) -> Spread:
    """Return the worst, the 10th, 50th and 90th percentile, and the best of all scores."""
    return Spread(*(float(x) for x in np.percentile(np.asarray(scores, np.float64), [0, 10, 50, 90, 100])))


def optimism(selected_on: ArrayLike, tested_on: ArrayLike) -> float:
    """Return by how much the score of a selected setting exceeds its score on fresh seeds.

    The best of many settings is partly the luckiest one, so its score on the seeds that selected it is too high.

    Args:
        selected_on: scores of the winner on the seeds of the selection.
        tested_on: scores of the winner on seeds that the selection did not see.
    """
    return float(interquartile_mean(selected_on) - interquartile_mean(tested_on))


def too_few(counts: Sequence[int]) -> bool:
    """Return whether any number of seeds is too small for a bootstrap interval."""
    return any(count < FEW_SEEDS for count in counts)


def _percentiles(replicates: np.ndarray, level: float) -> tuple[Estimate, Estimate]:
    """Return the ends of the percentile interval of replicates [R, ...]."""
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(replicates, [tail, 100.0 - tail], axis=0)
    return low, high
