"""Time repeated calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Say = Callable[[str], None]

Report = dict[str, Any]  # plain numbers, texts, lists and dicts: what JSON holds


class TimingBudget(NamedTuple):
    """How long to measure."""

    repetitions: int = 5  # timed ones, of which the median counts
    seconds: float = 0.5  # least duration of each; as many calls as that takes


class Spread(NamedTuple):
    """Median, least and greatest of the repetitions."""

    median: float
    min: float
    max: float

    def per(self, amount: float) -> Report:
        """`amount` divided by each: a rate from durations, the greatest from the least."""
        return {"median": amount / self.median, "min": amount / self.max, "max": amount / self.min}


def timed(call: Callable[[int], Any], effort: TimingBudget) -> Spread:
    """Seconds per turn of `call(n)`, which does its work n times and returns arrays to wait for.

    One call warms up, and another one says how many turns a repetition needs; both are left out.
    """

    def seconds(turns: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(call(turns))
        return (time.perf_counter() - start) / turns

    first = seconds(1)
    once = first if first > effort.seconds else seconds(1)
    turns = max(1, int(np.ceil(effort.seconds / max(once, 1e-6))))
    all = [seconds(turns) for _ in range(effort.repetitions)]
    return Spread(float(np.median(all)), min(all), max(all))


def repeated(call: Callable[[], Any]) -> Callable[[int], Any]:
    """`call` n times, waiting for each: never two results in memory."""

    def turns(n: int) -> Any:
        for _ in range(n - 1):
            jax.block_until_ready(call())
        return call()

    return turns
