"""Speed against the number of environments, and time per update over a run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.bench.programs import (
    compile_training,
    seed_keys,
    time_updates,
)
from purejaxppo.bench.subprocesses import ChildFailed, run_in_subprocess
from purejaxppo.bench.timing import Report, Say, TimingBudget
from purejaxppo.config.schema import Run
from purejaxppo.devices.cpu import prepare_cpu
from purejaxppo.training.loop import as_traced


def speed(run: Run, num_envs: int, effort: TimingBudget) -> Report:
    """Steps/s of `run` with another number of environments."""
    config = dataclasses.replace(run.config, num_envs=num_envs)
    config = dataclasses.replace(config, total_timesteps=1000 * config.timesteps_per_update)
    prepare_cpu(config.timesteps_per_update // config.num_minibatches, 1)
    sized = dataclasses.replace(run, config=config)
    update_s = time_updates(compile_training(sized, 1), sized, 1, effort)
    return {"num_envs": num_envs, "steps_per_s": update_s.per(config.timesteps_per_update)}


def drift(run: Run, num_updates: int) -> Report:
    """Seconds of each of `num_updates` updates of one run, and how the last fifth compares with the first.

    The very first is left out: it touches memory for the first time.
    """
    prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches, 1)
    training, h, seconds = compile_training(run, 1), as_traced(run.hyperparams), []
    state = training.init(seed_keys(1), h)
    for _ in range(num_updates + 1):
        start = time.perf_counter()
        state, metrics = training.updates(state, jnp.int32(1), h)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    seconds, fifth = seconds[1:], max(1, num_updates // 5)
    return {"seconds": seconds, "last_to_first": float(np.median(seconds[-fifth:]) / np.median(seconds[:fifth]))}


SIZES = {"cpu": range(6, 15)}  # exponents of 2: numbers of environments of the curve; elsewhere up to 2^17

DRIFT_UPDATES = 200


def measure_scaling(run: Run, sizes: Sequence[int], effort: TimingBudget, say: Say) -> list[Report]:
    """Measure the speed of `run` for each number of environments, until one fails."""
    points = []
    for num_envs in sizes:
        try:
            points.append(run_in_subprocess(speed, run, num_envs, effort))
        except ChildFailed as failure:
            say(f"{num_envs} environments: failed: {failure}")
            break
        say(f"{num_envs} environments: {points[-1]['steps_per_s']['median']:,.0f} steps/s")
    return points


def measure_drift(run: Run, num_envs: int, say: Say) -> Report:
    """Measure whether updates become slower in the course of a run."""
    say(f"timing {DRIFT_UPDATES} updates of {num_envs} environments one by one")
    size = {"num_envs": num_envs, "total_timesteps": num_envs * run.config.num_steps * DRIFT_UPDATES}
    small = dataclasses.replace(run, config=dataclasses.replace(run.config, **size))
    return run_in_subprocess(drift, small, DRIFT_UPDATES)
