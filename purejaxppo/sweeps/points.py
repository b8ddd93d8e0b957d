"""Evaluation points: what the table keeps of the updates between two of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from purejaxppo.metrics import Metrics, flat

MEANS = ("kl", "entropy", "explained_variance", "clip_fraction", "value_loss", "grad_norm", "learning_rate")
"""Metrics that are averaged over the updates before a point."""

COLUMNS = ("timesteps", "episodes", "return", "return_min", "return_max", "episode_length", *MEANS)


def point_updates(num_updates: int, points: int) -> list[int]:
    """Return after how many updates each evaluation point lies, ascending; at most one point per update."""
    count = min(points, num_updates)
    return [-(-num_updates * (i + 1) // count) for i in range(count)]


def summarize(metrics: Metrics, timesteps: int) -> dict[str, np.ndarray]:
    """Return the row of one evaluation point for each run.

    Args:
        metrics: of the updates since the last point, [R, U] each; training samples its actions.
        timesteps: environment steps up to the point.

    Returns:
        COLUMNS, [R] each. Without a finished episode the statistics of episodes are NaN.
    """
    named = {name: np.asarray(x, np.float64) for name, x in flat(metrics).items()}
    episodes = named["num_episodes"].sum(1)
    some = episodes > 0
    with np.errstate(invalid="ignore", over="ignore"):
        row = {
            "timesteps": np.full(len(episodes), float(timesteps)),
            "episodes": episodes,
            "return": _weighted(named["episode_return_mean"], named["num_episodes"]),
            "return_min": _extreme(named, "episode_return_min", np.inf).min(1),
            "return_max": _extreme(named, "episode_return_max", -np.inf).max(1),
            "episode_length": _weighted(named["episode_length_mean"], named["num_episodes"]),
        }
        row |= {name: named[name].mean(1) for name in MEANS}
    for name in ("return", "return_min", "return_max", "episode_length"):
        row[name] = np.where(some, row[name], np.nan)
    return row


def _weighted(values: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    total = np.where(episodes > 0, values * episodes, 0.0).sum(1)
    return total / np.maximum(episodes.sum(1), 1.0)


def _extreme(named: Mapping[str, np.ndarray], name: str, empty: float) -> np.ndarray:
    return np.where(named["num_episodes"] > 0, named[name], empty)
