"""Recorded facts about the environments of suites: ids, spaces, time limits, memory, resets.

Making an environment takes from one second to a minute, so the facts are recorded in facts.csv and read from there,
also for suites that are not installed. `python tests/envs/suites/record.py` writes the file, and the
tests of each suite compare it with the suite.
"""

import csv
import functools
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("facts.csv")


class Facts(NamedTuple):
    """What is known about an environment without making it."""

    suite: str
    id: str
    observation: str  # the observation space in words; "" if it is not known
    action: str  # the action space in words
    time_limit: int | None  # steps until the clock truncates an episode; None: no clock
    state_bytes: int  # memory of one environment state
    observation_bytes: int  # memory of one observation
    note: str  # what the environment needs or where it differs, such as "downloads assets"


@functools.cache
def recorded() -> dict[str, Facts]:
    """Return the facts about every recorded environment, by "suite/Id", in the order of the suites."""
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = [_parse(row) for row in csv.DictReader(file)]
    return {f"{row.suite}/{row.id}": row for row in rows}


def _parse(row: dict[str, str]) -> Facts:
    limit = int(row["time_limit"]) if row["time_limit"] else None
    sizes = int(row["state_bytes"] or 0), int(row["observation_bytes"] or 0)
    return Facts(row["suite"], row["id"], row["observation"], row["action"], limit, *sizes, row["note"])


def recorded_ids(suite: str) -> tuple[str, ...]:
    """Return the ids of a suite in the order of the suite."""
    return tuple(row.id for row in recorded().values() if row.suite == suite)
