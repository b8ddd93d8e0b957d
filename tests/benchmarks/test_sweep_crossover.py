"""The comparison of runs side by side with runs alone: equal work in every way, and the arithmetic of the table."""

import itertools

import jax
import numpy as np
import pytest
from command_line import ROOT
from scripts import load_script


@pytest.fixture(scope="module")
def crossover():
    return load_script(ROOT / "benchmarks" / "sweep_crossover.py")


def test_speeds_alternate_and_are_steps_per_second_of_the_clock(crossover):
    """Four ways take 1, 2, ... seconds for 10 steps."""
    calls, now = [], [0.0]

    def way(name, seconds):
        def advance():
            calls.append(name)
            now[0] += seconds

        return crossover.Way(name, advance, 10)

    ways = [way(name, seconds) for seconds, name in enumerate("ABCD", 1)]
    found = crossover.speeds(ways, lambda: now[0], 0.0)
    np.testing.assert_allclose(found, [[10.0, 5.0, 10 / 3, 2.5]] * 3)
    assert "".join(calls) == "ABCDDCBAABCD"


def test_the_table_has_medians_with_the_range_and_ratios_of_each_round(crossover):
    found = np.array([[1000.0, 2000.0], [2000.0, 3000.0], [1500.0, 6000.0]])
    row = crossover.summary(["alone", "side by side"], found)
    assert row == {
        "alone, steps/s": "1,500 (1,000 to 2,000)",
        "side by side, steps/s": "3,000 (2,000 to 6,000)",
        "side by side / alone": "2.00 (1.50 to 4.00)",
    }
    assert crossover.table([row, row]).splitlines()[1:3] == [
        "| --- | --- | --- |",
        "| 1,500 (1,000 to 2,000) | 3,000 (2,000 to 6,000) | 2.00 (1.50 to 4.00) |",
    ]


def test_all_ways_train_the_same_runs_equally_far(crossover, monkeypatch):
    """On every device `lanes` runs, each for `steps` steps, in pieces of the calls that a way makes."""
    trained = []

    class Fake:
        def __init__(self, algo, lanes, num_devices, segment):
            self.algo, self.width, self.segment = algo, lanes * num_devices, segment

        def start(self, seeds, h):
            return tuple(seeds)

        def advance(self, states, h, num_updates):
            trained.extend(itertools.product(states, range(num_updates)))
            return states, None

    def iterate(algo, state, h, num_updates, chunk):
        trained.extend(itertools.product([state], range(num_updates)))
        yield state, None

    monkeypatch.setattr(crossover, "Engine", Fake)
    monkeypatch.setattr(crossover, "iterate", iterate)
    monkeypatch.setattr(crossover, "init_state", lambda algo, key, h: int(jax.random.key_data(key)[-1]))
    monkeypatch.setattr(crossover, "build", lambda run: type("Algorithm", (), {"config": run.config}))
    algo = crossover.Point(8, 2, 1).build()
    ways = crossover.wall_ways(algo, 3, 1024)
    num_runs = 3 * jax.local_device_count()
    for way in ways:
        trained.clear()
        way.advance()
        assert sorted(trained) == list(itertools.product(range(num_runs), range(4)))
        assert way.steps == num_runs * 1024
    assert [way.name for way in ways] == ["one after the other", "one per device", "side by side"]
