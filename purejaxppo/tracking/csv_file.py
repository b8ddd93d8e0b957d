"""Write metrics as rows, and read the CSV file of a run."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from purejaxppo.metrics import Metrics, flat

Row = Mapping[str, float]


def rows_of(
    metrics: Metrics, first_update: int, timesteps_per_update: int, started: float, ended: float
) -> list[dict[str, float]]:
    """Return the metrics of a chunk as one row per update: timesteps, wall_time, then the fields of Metrics.

    Statistics of episodes are NaN in the rows of updates in which no episode finished.

    Args:
        metrics: NamedTuple of arrays [chunk].
        first_update: number of updates before this chunk.
        timesteps_per_update: environment steps of one update.
        started: seconds from the start of the run to the start of the chunk.
        ended: seconds from the start of the run to the end of the chunk; its updates share the time equally.
    """
    columns = {name: np.asarray(values, np.float64) for name, values in flat(metrics).items()}
    count = len(next(iter(columns.values())))
    rows = []
    for i in range(count):
        place = {
            "timesteps": (first_update + i + 1) * timesteps_per_update,
            "wall_time": started + (ended - started) * (i + 1) / count,
        }
        rows.append(_without_placeholders(place | {name: float(values[i]) for name, values in columns.items()}))
    return rows


def _without_placeholders(row: dict[str, float]) -> dict[str, float]:
    """Replace the statistics of no episodes, which are 0 on the device, by NaN."""
    if row.get("num_episodes") != 0:
        return row
    return {name: math.nan if name.startswith("episode_") else value for name, value in row.items()}


def read_csv(path: str | Path) -> dict[str, np.ndarray]:
    """Return the columns of a file of metrics, float64; an incomplete last line is left out."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    whole = [line for line in lines if len(line) == len(header)]
    columns = np.asarray(whole, np.float64).reshape(len(whole), len(header))
    return {name: columns[:, i] for i, name in enumerate(header)}
