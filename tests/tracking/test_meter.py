"""The progress of a run, measured from its rows."""

import math

from purejaxppo.tracking.meter import Meter


def row(timesteps, wall_time, num_episodes=1.0, episode_return_mean=0.0, kl=0.0):
    return {
        "timesteps": timesteps,
        "wall_time": wall_time,
        "num_episodes": num_episodes,
        "episode_return_mean": episode_return_mean,
        "kl": kl,
    }


def test_speed_excludes_compilation_and_gives_the_time_left():
    meter = Meter(10_000)
    first = meter.measure([row(1000, 30.0)])
    assert math.isnan(first.steps_per_second)
    assert math.isnan(first.seconds_left)
    second = meter.measure([row(2000, 30.5), row(3000, 31.0)])
    assert second.steps_per_second == 2000.0
    assert second.seconds_left == 3.5
    assert second.seconds == 31.0


def test_returns_are_weighted_by_episodes_and_kept_while_none_finishes():
    meter = Meter(100)
    rows = [row(10, 1.0, 1, 10.0), row(20, 2.0, 3, 30.0), row(30, 3.0, 0, math.nan)]
    assert meter.measure(rows).episode_return == (10.0 + 3 * 30.0) / 4
    assert meter.measure([row(40, 4.0, 0, math.nan)]).episode_return == 25.0
    assert meter.measure([row(50, 5.0, 2, 7.0)]).episode_return == 7.0


def test_a_return_is_unknown_until_an_episode_finishes():
    assert math.isnan(Meter(100).measure([row(10, 1.0, 0, math.nan)]).episode_return)
