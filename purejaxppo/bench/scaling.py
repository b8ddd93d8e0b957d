"""Measure speed against the number of environments, and the time per update over a run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.bench.programs import compile_training, prepare_cpu_for, seed_keys, time_updates
from purejaxppo.bench.subprocesses import ChildFailed, run_in_subprocess
from purejaxppo.bench.timing import Log, Report, TimingBudget
from purejaxppo.config.schema import Run
from purejaxppo.training.loop import as_traced

DRIFT_UPDATES = 200


def scaling_sizes(platform: str) -> list[int]:
    """Return the numbers of environments to measure on a JAX platform: powers of two from 64 on."""
    return [2**i for i in range(6, 15 if platform == "cpu" else 18)]


def speed(run: Run, num_envs: int, budget: TimingBudget) -> Report:
    """Measure the steps/s of `run` with another number of environments."""
    config = dataclasses.replace(run.config, num_envs=num_envs)
    config = dataclasses.replace(config, total_timesteps=1000 * config.timesteps_per_update)
    sized = dataclasses.replace(run, config=config)
    prepare_cpu_for(sized, 1)
    update_s = time_updates(compile_training(sized, 1), sized, 1, budget)
    return {"num_envs": num_envs, "steps_per_s": update_s.rate(config.timesteps_per_update)}


def drift(run: Run, num_updates: int) -> Report:
    """Measure the seconds of each of `num_updates` updates of one run, and the ratio of its last fifth to its first.

    One update before them is not counted, because it touches its memory for the first time.
    """
    prepare_cpu_for(run, 1)
    training, h, seconds = compile_training(run, 1), as_traced(run.hyperparams), []
    state = training.init(seed_keys(1), h)
    for _ in range(num_updates + 1):
        start = time.perf_counter()
        state, metrics = training.updates(state, jnp.int32(1), h)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    seconds, fifth = seconds[1:], max(1, num_updates // 5)
    return {"seconds": seconds, "last_to_first": float(np.median(seconds[-fifth:]) / np.median(seconds[:fifth]))}


def measure_scaling(run: Run, sizes: Sequence[int], budget: TimingBudget, log: Log) -> list[Report]:
    """Measure the speed of `run` for each number of environments, until one fails."""
    points = []
    for num_envs in sizes:
        try:
            points.append(run_in_subprocess(speed, run, num_envs, budget))
        except ChildFailed as failure:
            log(f"{num_envs} environments: failed: {failure}")
            break
        log(f"{num_envs} environments: {points[-1]['steps_per_s']['median']:,.0f} steps/s")
    return points


def measure_drift(run: Run, num_envs: int, log: Log) -> Report:
    """Measure whether updates become slower in the course of a run."""
    log(f"timing {DRIFT_UPDATES} updates of {num_envs} environments one by one")
    size = {"num_envs": num_envs, "total_timesteps": num_envs * run.config.num_steps * DRIFT_UPDATES}
    small = dataclasses.replace(run, config=dataclasses.replace(run.config, **size))
    return run_in_subprocess(drift, small, DRIFT_UPDATES)
