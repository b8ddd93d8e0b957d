"""The faster of the two ways is taken: one run after the other on each device, or several side by side."""

import jax
import pytest
from descent import descent
from small_sweeps import BASE, GIVEN, build_once

from purejaxppo.sweeps import execution
from purejaxppo.sweeps.engine import Engine
from purejaxppo.sweeps.execution import bytes_per_run, choose_execution
from purejaxppo.sweeps.spec import parse_sweep

ENGINE = Engine(descent(), 1, 1, 1)


@pytest.fixture
def timed(monkeypatch):
    """Times by lanes of an update of all of them, and the engines that were timed."""
    times, engines = {}, []
    monkeypatch.setattr(execution, "forecast", lambda engine: 1000)
    monkeypatch.setattr(execution, "free_memory", lambda: 10**9)
    monkeypatch.setattr(execution, "_seconds", lambda engine: engines.append(engine) or times[engine.lanes])
    return times, engines


@pytest.mark.parametrize(("wide", "lanes"), [(7.9, 16), (16.1, 1)])
def test_the_faster_way_is_taken(timed, wide, lanes):
    """16 runs side by side in 7.9 seconds are faster than one in a second, in 16.1 slower."""
    times, engines = timed
    times |= {1: 1.0, 16: wide}
    said = []
    chosen = choose_execution(ENGINE, 64, 100, say=said.append)
    assert chosen.lanes == lanes
    assert (chosen.seconds_sequential, chosen.seconds_vmapped) == (1.0, wide / 16)
    assert len(said) == 1
    devices = min(jax.local_device_count(), 64)
    assert {engine.num_devices for engine in engines} == {devices} == {chosen.num_devices}, "all devices work meanwhile"


def test_a_short_sweep_is_not_measured_twice(timed):
    times, engines = timed
    times |= {1: 1e-4}
    assert choose_execution(ENGINE, 4, 10).lanes == 1
    assert len(engines) == 1


def test_given_lanes_are_not_measured(timed):
    assert choose_execution(ENGINE, 64, 100, lanes=5).lanes == 5
    assert timed[1] == []


@pytest.mark.slow
def test_the_memory_of_a_program_is_linear_in_its_runs():
    engine = Engine(build_once(parse_sweep(GIVEN, BASE)[0].run(0)), 1, 1, 2)
    with jax.debug_key_reuse(False):  # the checker takes the move of a vmapped scan's keys for a use of them
        one = bytes_per_run(engine.compiled())
        wide = bytes_per_run(engine._replace(lanes=3, num_devices=2).compiled(), 3)  # the analysis is of one device
    assert wide <= one <= 1.4 * wide, "small programs have a part that does not grow"
