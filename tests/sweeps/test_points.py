"""A row of an evaluation point is the statistics of all episodes and updates before it."""

import numpy as np

from purejaxppo.metrics import Metrics
from purejaxppo.sweeps.points import COLUMNS, MEANS, point_updates, summarize


def test_points_divide_the_updates():
    assert point_updates(10, 4) == [3, 5, 8, 10]
    assert point_updates(3, 20) == [1, 2, 3]


def test_the_last_point_is_the_last_update_and_no_two_are_the_same():
    for num_updates in range(1, 40):
        for points in range(1, 25):
            found = point_updates(num_updates, points)
            assert found[-1] == num_updates
            assert len(set(found)) == len(found) == min(points, num_updates)


def metrics_of(**given):
    """Metrics [2, 2] that are 0 unless given."""
    values = dict.fromkeys(Metrics._fields, np.zeros((2, 2))) | {"diagnostics": (), "extra": ()}
    return Metrics(**values | {name: np.array(x, float) for name, x in given.items()})


def test_returns_and_lengths_are_means_over_episodes():
    """One episode of return 10, then three of mean 2: (10 + 3 · 2) / 4. The other run has no episode."""
    row = summarize(
        metrics_of(
            num_episodes=[[1, 3], [0, 0]],
            episode_return_mean=[[10, 2], [7, 7]],
            episode_return_min=[[10, 1], [7, 7]],
            episode_return_max=[[10, 4], [7, 7]],
            episode_length_mean=[[8, 4], [7, 7]],
        ),
        64,
    )
    assert tuple(row) == COLUMNS
    np.testing.assert_array_equal(row["timesteps"], [64, 64])
    np.testing.assert_array_equal(row["episodes"], [4, 0])
    for name, value in (("return", 4), ("return_min", 1), ("return_max", 10), ("episode_length", 5)):
        np.testing.assert_array_equal(row[name], [value, np.nan], err_msg=name)


def test_updates_without_an_episode_do_not_count():
    """Their statistics are 0, which would be the smallest return or the largest."""
    given = {f"episode_return_{name}": [[5, 0], [0, -5]] for name in ("mean", "min", "max")}
    row = summarize(metrics_of(num_episodes=[[2, 0], [0, 2]], **given), 1)
    for name in ("return", "return_min", "return_max"):
        np.testing.assert_array_equal(row[name], [5, -5], err_msg=name)


def test_the_other_metrics_are_means_over_updates():
    row = summarize(metrics_of(**{name: [[i, i + 1], [np.nan, 1]] for i, name in enumerate(MEANS)}), 1)
    for i, name in enumerate(MEANS):
        np.testing.assert_array_equal(row[name], [i + 0.5, np.nan], err_msg=name)
