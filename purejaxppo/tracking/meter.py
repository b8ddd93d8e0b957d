"""Measure the progress of a run from its rows: speed, time left, latest returns."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Report(NamedTuple):
    """The progress of a run. A value that is not known yet is NaN."""

    timesteps: int
    total: int
    seconds: float  # since the start, compilation included
    steps_per_second: float  # compilation excluded
    episode_return: float  # mean of the latest finished episodes
    kl: float

    @property
    def seconds_left(self) -> float:
        """Estimated time to the end of the run, from the speed so far."""
        rate = self.steps_per_second
        return (self.total - self.timesteps) / rate if rate > 0 else math.nan


def empty_report(total: int) -> Report:
    """Return the report of a run of `total` environment steps that has not begun."""
    return Report(0, total, 0.0, math.nan, math.nan, math.nan)


class Meter:
    """Turns the rows of each chunk into a report.

    The first chunk includes the compilation, so the speed is measured from its end on.

    Args:
        total: environment steps of the whole run.
        seconds: time that the run took before, if it is resumed.
    """

    def __init__(self, total: int, seconds: float = 0.0):
        self.report = empty_report(total)._replace(seconds=seconds)
        self.first: Mapping[str, float] | None = None

    def measure(self, rows: Sequence[Mapping[str, float]]) -> Report:
        """Return the report after another chunk, given its rows (see `purejaxppo.tracking.csv_file.rows_of`)."""
        last = rows[-1]
        rate = math.nan
        if self.first is None:
            self.first = last
        elif last["wall_time"] > self.first["wall_time"]:
            steps = last["timesteps"] - self.first["timesteps"]
            rate = steps / (last["wall_time"] - self.first["wall_time"])
        finished = [row for row in rows if row["num_episodes"] > 0]
        mean = self.report.episode_return
        if finished:
            count = sum(row["num_episodes"] for row in finished)
            mean = sum(row["episode_return_mean"] * row["num_episodes"] for row in finished) / count
        total = self.report.total
        self.report = Report(int(last["timesteps"]), total, last["wall_time"], rate, mean, last["kl"])
        return self.report
