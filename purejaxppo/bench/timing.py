"""Time repeated calls."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from purejaxppo._util.aliases import PyTree

Log = Callable[[str], None]
"""Receives one line of progress."""

Report = dict[str, Any]
"""Numbers, texts, lists and dicts: what JSON can hold."""


class TimingBudget(NamedTuple):
    """How long to measure."""

    repetitions: int = 5  # timed repetitions, of which the median counts
    seconds: float = 0.5  # shortest duration of a repetition, which makes as many iterations as that takes


class Spread(NamedTuple):
    """Median, minimum and maximum of repetitions."""

    median: float
    min: float
    max: float

    def rate(self, amount: float) -> Report:
        """Convert durations to rates: `amount` divided by each, the largest rate from the shortest duration."""
        return {"median": amount / self.median, "min": amount / self.max, "max": amount / self.min}


def time_call(call: Callable[[int], PyTree], budget: TimingBudget) -> Spread:
    """Measure the seconds per iteration of `call(n)`, which makes n iterations and returns arrays.

    Two calls are not counted: one warms up, and one shows how many iterations make a repetition.
    """

    def seconds(iterations: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(call(iterations))
        return (time.perf_counter() - start) / iterations

    first = seconds(1)
    once = first if first > budget.seconds else seconds(1)
    iterations = max(1, math.ceil(budget.seconds / max(once, 1e-6)))
    measured = [seconds(iterations) for _ in range(budget.repetitions)]
    return Spread(statistics.median(measured), min(measured), max(measured))


def repeat(call: Callable[[], PyTree]) -> Callable[[int], PyTree]:
    """Return a function of n that calls `call` n times, with never more than one result in memory."""

    def iterate(n: int) -> PyTree:
        for _ in range(n - 1):
            jax.block_until_ready(call())
        return call()

    return iterate
