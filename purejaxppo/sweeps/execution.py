"""Choose how the runs of a sweep are executed: how many side by side, from a forecast of memory and a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.stages import Compiled

from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Hyperparams
from purejaxppo.sweeps.engine import Engine, stack_hyperparams
from purejaxppo.training.many_runs import runs_at_once

USABLE = 0.8  # share of the free memory that a sweep takes
SHORT_SWEEP = 10.0  # seconds one after the other below which nothing is compared
MOST_LANES = 4096


class Execution(NamedTuple):
    """How the runs of one program are executed, and why."""

    lanes: int
    num_devices: int
    bytes_per_run: int  # forecast
    seconds_sequential: float = 0.0  # of one update of one run, alone on its device; 0: not measured
    seconds_vmapped: float = 0.0  # of one update of one run, among `lanes` on its device; 0: not measured


def free_memory() -> int:
    """Return the bytes that a sweep can use on one device (on a CPU: on all of them together); 0 if unknown."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return int(USABLE * (stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)))
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(USABLE * 1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        return int(USABLE * 0.5 * pages * os.sysconf("SC_PAGE_SIZE")) if pages else 0


def bytes_per_run(compiled: Compiled, runs: int = 1) -> int:
    """Return the memory that each of the `runs` of a compiled program needs; the need is linear in the runs."""
    analysis = compiled.memory_analysis()
    if analysis is None:  # this platform does not say
        return 0
    sizes = (analysis.temp_size_in_bytes, analysis.argument_size_in_bytes, analysis.output_size_in_bytes)
    return int(sum(sizes) / runs)


_FORECASTS: dict[tuple[object, ...], int] = {}


def forecast(engine: Engine) -> int:
    """Return the memory that one run needs, from the program of one run alone, which is compiled once."""
    key = (engine.algo.init, engine.algo.update, engine.segment)
    if key not in _FORECASTS:
        _FORECASTS[key] = bytes_per_run(engine._replace(lanes=1, num_devices=1, runs=0).compiled())
    return _FORECASTS[key]


def most_lanes(per_run: int, num_devices: int, limit: int) -> int:
    """Return how many runs fit side by side on each device; `limit` bytes are those of `free_memory`, 0: unknown."""
    shared = num_devices if jax.default_backend() == "cpu" else 1
    return MOST_LANES if not limit else min(limit // max(per_run, 1) // shared, MOST_LANES)


def memory_problem(per_run: int, lanes: int, num_devices: int, limit: int) -> Problem | None:
    """Return the problem of a batch that does not fit memory, with the largest that does; None if it fits."""
    most = most_lanes(per_run, num_devices, limit)
    if lanes <= most:
        return None
    need = f"{lanes} runs side by side need {lanes * per_run / 1e9:.3g} GB, {limit / 1e9:.3g} GB can be used"
    advice = f"nearest valid value: {most}" if most else "one run alone does not fit; fewer num_envs or num_steps do"
    return Problem("--lanes", f" = {lanes}: {need}; {advice}", "range")


def choose_execution(
    engine: Engine,
    num_runs: int,
    num_updates: int,
    lanes: int | None = None,
    say: Callable[[str], None] = print,
    at_once: int = 0,
) -> Execution:
    """Return how to execute runs of one program.

    Side by side is faster for small networks and few environments, one after the other for large ones, where each run
    fills the processor; so one update of both is timed, unless the whole sweep is short or `lanes` is given. All
    devices work meanwhile, as in the sweep: a device alone would use the threads of the others.

    Args:
        engine: with any number of lanes; its segment is the one of the sweep.
        num_runs: runs of the sweep.
        num_updates: of each run.
        lanes: runs side by side on each device, if they are given.
        say: receives lines for the user.
        at_once: most runs that are known at a time, as those of a batch; 0: all.

    Raises:
        ConfigError: the given lanes, or one run alone, do not fit memory.
    """
    at_once = at_once or num_runs
    num_devices = max(1, min(jax.local_device_count(), at_once))
    single = engine._replace(lanes=1, num_devices=1)
    per_run, limit = forecast(single), free_memory()
    problem = memory_problem(per_run, lanes or 1, num_devices, limit)
    if problem:
        raise ConfigError([problem], "sweep")
    most = min(most_lanes(per_run, num_devices, limit), -(-at_once // num_devices))
    if lanes:
        return Execution(lanes, num_devices, per_run)
    wide = most
    if jax.default_backend() == "cpu":
        wide = min(most, runs_at_once(16, 1))
    busy = 1 if engine.algo.config.num_devices > 1 else num_devices  # else the devices share each run
    alone = _seconds(engine._replace(lanes=1, num_devices=busy))
    if wide < 2 or alone * num_updates * num_runs / num_devices < SHORT_SWEEP:
        return Execution(1, num_devices, per_run, alone)
    together = _seconds(engine._replace(lanes=wide, num_devices=busy)) / wide
    faster = "side by side" if together < alone else "one after the other"
    say(f"one update of one run takes {1e3 * alone:.3g} ms alone, {1e3 * together:.3g} ms among {wide}: {faster}")
    return Execution(wide if together < alone else 1, num_devices, per_run, alone, together)


def _seconds(engine: Engine, calls: int = 3) -> float:
    """Return the shortest time of one update of all lanes, without compilation."""
    h = stack_hyperparams([Hyperparams()] * engine.width)
    states = engine.start([0] * engine.width, h)
    times = []
    for _ in range(calls + 1):
        started = time.perf_counter()
        engine.advance(states, h, 1)
        times.append(time.perf_counter() - started)
    return float(np.min(times[1:]))
