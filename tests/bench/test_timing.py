"""Times are medians of repetitions without the warm-up. A fake clock makes the tests deterministic."""

import numpy as np
import pytest

from purejaxppo.bench import timing
from purejaxppo.bench.timing import Spread, TimingBudget, repeat, time_call


class Clock:
    """A clock that advances only while work is done: `costs[i]` seconds per iteration in the i-th call."""

    def __init__(self, monkeypatch, costs):
        self.now, self.costs, self.iterations = 0.0, iter(costs), []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def work(self, iterations):
        self.iterations.append(iterations)
        self.now += iterations * next(self.costs)
        return np.zeros(1)


def test_the_median_counts_and_warming_up_does_not(monkeypatch):
    clock = Clock(monkeypatch, [0.4, 0.25, 0.3, 0.1, 0.2, 0.9, 0.25])
    assert time_call(clock.work, TimingBudget(5, 1.0)) == pytest.approx((0.25, 0.1, 0.9))
    assert clock.iterations == [1, 1, 4, 4, 4, 4, 4]  # four iterations of 0.25 s make a repetition of 1 s


def test_slow_work_is_not_repeated_more_often_than_needed(monkeypatch):
    clock = Clock(monkeypatch, [20.0, 9.0, 8.0, 10.0])
    assert time_call(clock.work, TimingBudget(3, 1.0)) == pytest.approx((9.0, 8.0, 10.0))
    assert clock.iterations == [1, 1, 1, 1]


def test_rates_are_inverse_to_durations():
    assert Spread(0.5, 0.25, 1.0).rate(100) == {"median": 200, "min": 100, "max": 400}


def test_repeating_returns_the_last_result():
    results = iter(range(10))
    assert repeat(lambda: next(results))(4) == 3
