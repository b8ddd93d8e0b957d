"""Measure one workload: speed, compile time, phases, kernels and memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from purejaxppo.bench.hlo import Count, count
from purejaxppo.bench.machine import environment_flags
from purejaxppo.bench.programs import (
    Training,
    compile_phases,
    compile_training,
    count_devices,
    prepare_cpu_for,
    seed_keys,
    time_updates,
)
from purejaxppo.bench.timing import Log, Report, TimingBudget, repeat, time_call
from purejaxppo.config.schema import Config, Run
from purejaxppo.training.loop import as_traced

SIZES = ("num_envs", "num_steps", "num_epochs", "num_minibatches")


def measure_workload(run: Run, num_seeds: int, budget: TimingBudget, log: Log) -> Report:
    """Measure everything about one workload but its compile time from the cache.

    Kernels and memory are per device, FLOP and bytes of all devices together.
    """
    log("compiling the training program")
    training = compile_training(run, num_seeds)
    log(f"compiled in {training.trace_s + training.compile_s:.1f} s; timing it")
    update_s = time_updates(training, run, num_seeds, budget)
    steps = run.config.timesteps_per_update * num_seeds
    log(f"{steps / update_s.median:,.0f} steps/s")
    programs = compile_phases(run, num_seeds, log)
    log("timing the phases")
    devices = count_devices(run, num_seeds)
    phases = {name: _measure_phase(program, args, budget, devices) for name, (program, args) in programs.items()}
    return {
        "env": run.env,
        "num_seeds": num_seeds,
        "num_devices": devices,
        **{name: getattr(run.config, name) for name in SIZES},
        "steps_per_update": steps,
        "compile": {"trace_cold_s": training.trace_s, "compile_cold_s": training.compile_s},
        "steps_per_s": update_s.rate(steps),
        "update_s": update_s._asdict(),
        "split_s": split(update_s.median, {name: phase["seconds"]["median"] for name, phase in phases.items()}),
        **_count_training(training, run.config, phases, devices, steps),
        "phases": phases,
    }


def _measure_phase(program: Compiled, args: tuple, budget: TimingBudget, devices: int) -> Report:
    counted: Count = count(program.as_text() or "")
    seconds = time_call(repeat(lambda: program(*args)), budget)
    counts = {"kernels": counted.executed, "flops": devices * counted.flops, "bytes": devices * counted.bytes}
    return {"seconds": seconds._asdict(), **counts, "peak_memory_bytes": peak_memory(program)}


def _count_training(
    training: Training, config: Config, phases: Mapping[str, Report], devices: int, steps: int
) -> Report:
    """Count kernels, FLOP, bytes and memory of one update, whose phases are counted already."""
    counted = count(training.updates.as_text() or "")
    minibatches = config.num_epochs * config.num_minibatches
    kernels = {
        "per_env_step": phases["rollout"]["kernels"] / config.num_steps,
        "per_minibatch": phases["update"]["kernels"] / minibatches,
        "per_update": max(loop.kernels for loop in counted.loops),  # the outermost loop is the one over updates
        "by_kind": counted.kernels,
        "loops_of_assumed_length": counted.unknown_loops - 1,  # without the loop over updates
    }
    return {
        "kernels": kernels,
        "flops_per_step": devices * counted.flops / steps,
        "bytes_per_step": devices * counted.bytes / steps,
        "peak_memory_bytes": peak_memory(training.updates),
    }


def split(update_s: float, phase_s: Mapping[str, float]) -> dict[str, float]:
    """Divide the seconds of an update among its phases. A phase that contains another one is counted without it.

    `rest` is the remainder: metrics, statistics, and the difference between phases compiled separately and together.
    It may be negative.
    """
    phases = {
        "environment": phase_s["environment"],
        "policy": phase_s["rollout"] - phase_s["environment"],
        "targets": phase_s["targets"],
        "shuffle": phase_s["shuffle"],
        "gradients": phase_s["update"] - phase_s["shuffle"],
    }
    return phases | {"rest": update_s - phase_s["rollout"] - phase_s["targets"] - phase_s["update"]}


def peak_memory(program: Compiled) -> int:
    """Return the bytes that a compiled program needs: arguments, results and temporaries, less what they share."""
    stats = program.memory_analysis()
    assert stats is not None, "this platform does not report memory"
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    return held - stats.alias_size_in_bytes


def use_cache(folder: str) -> None:
    """Store every compiled program of this process in `folder`, and load it from there if it exists."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def measure_cold(folder: str, run: Run, num_seeds: int, budget: TimingBudget, log: Log) -> Report:
    """Measure a workload in a fresh process with an empty compile cache in `folder`."""
    use_cache(folder)
    prepare_cpu_for(run, num_seeds)
    return {"flags": environment_flags()} | measure_workload(run, num_seeds, budget, log)


def compile_warm(folder: str, run: Run, num_seeds: int) -> Report:
    """Measure the compile time in a fresh process after `measure_cold` has filled the cache.

    `from_cache` tells whether every program came from the cache.
    """
    use_cache(folder)
    prepare_cpu_for(run, num_seeds)
    before = _cached(folder)
    training = compile_training(run, num_seeds)
    loaded, h = _cached(folder) == before, as_traced(run.hyperparams)
    jax.block_until_ready(training.updates(training.init(seed_keys(num_seeds), h), jnp.int32(1), h))
    return {"trace_warm_s": training.trace_s, "compile_warm_s": training.compile_s, "from_cache": loaded}


def _cached(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir() if path.name.endswith("-cache")}
