"""Measure one workload: speed, compile time, phases, kernels and memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.bench.hlo import Count, count
from purejaxppo.bench.machine import flags
from purejaxppo.bench.programs import (
    compile_training,
    devices_of,
    phases,
    seed_keys,
    time_updates,
)
from purejaxppo.bench.timing import Report, Say, TimingBudget, repeated, timed
from purejaxppo.config.schema import Run
from purejaxppo.devices.cpu import prepare_cpu
from purejaxppo.training.loop import as_traced

Array = jax.Array


def measure(run: Run, num_seeds: int, effort: TimingBudget, say: Say) -> Report:
    """All numbers of one workload but the fractions of the ceilings and the warm compile time.

    Kernels and memory are those of each device, FLOP and bytes those of all.
    """
    config = run.config
    say("compiling the training program")
    training = compile_training(run, num_seeds)
    say(f"compiled in {training.trace_s + training.compile_s:.1f} s; timing it")
    update_s = time_updates(training, run, num_seeds, effort)
    steps = config.timesteps_per_update * num_seeds
    say(f"{steps / update_s.median:,.0f} steps/s")
    whole, programs = count(training.updates.as_text()), phases(run, num_seeds, say)
    say("timing the phases")
    devices = devices_of(run, num_seeds)
    parts = {name: _phase(program, args, effort, devices) for name, (program, args) in programs.items()}
    minibatches = config.num_epochs * config.num_minibatches
    sizes = ("num_envs", "num_steps", "num_epochs", "num_minibatches")
    return {
        "env": run.env,
        "num_seeds": num_seeds,
        "num_devices": devices,
        **{name: getattr(config, name) for name in sizes},
        "steps_per_update": steps,
        "compile": {"trace_cold_s": training.trace_s, "compile_cold_s": training.compile_s},
        "steps_per_s": update_s.per(steps),
        "update_s": update_s._asdict(),
        "split_s": split(update_s.median, {name: part["seconds"]["median"] for name, part in parts.items()}),
        "kernels": {
            "per_env_step": parts["rollout"]["kernels"] / config.num_steps,
            "per_minibatch": parts["update"]["kernels"] / minibatches,
            "per_update": max(loop.kernels for loop in whole.loops),  # a turn of the loop over updates
            "by_kind": whole.kernels,
            "loops_of_assumed_length": whole.unknown_loops - 1,  # that over updates is ours
        },
        "flops_per_step": devices * whole.flops / steps,
        "bytes_per_step": devices * whole.bytes / steps,
        "peak_memory_bytes": peak_memory(training.updates),
        "phases": parts,
    }


def _phase(program: Any, args: tuple, effort: TimingBudget, devices: int) -> Report:
    counted: Count = count(program.as_text())
    seconds = timed(repeated(lambda: program(*args)), effort)
    numbers = {"kernels": counted.executed, "flops": devices * counted.flops, "bytes": devices * counted.bytes}
    return {"seconds": seconds._asdict(), **numbers, "peak_memory_bytes": peak_memory(program)}


def split(whole: float, alone: Mapping[str, float]) -> dict[str, float]:
    """Where the seconds of an update go, by subtraction: what contains another phase is shown without it.

    `rest` is what is left of the whole: metrics, statistics, and what the phases cost more or less together than alone.
    It may be negative.
    """
    parts = {
        "environment": alone["environment"],
        "policy": alone["rollout"] - alone["environment"],
        "targets": alone["targets"],
        "shuffle": alone["shuffle"],
        "gradients": alone["update"] - alone["shuffle"],
    }
    return parts | {"rest": whole - alone["rollout"] - alone["targets"] - alone["update"]}


def peak_memory(program: Any) -> int:
    """Bytes that a compiled program needs: arguments, results and what is between, less what they share."""
    stats = program.memory_analysis()
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    return held - stats.alias_size_in_bytes


def use_cache(folder: str) -> None:
    """Keep every compiled program of this process in `folder`, and load it from there where it has it."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def measure_cold(folder: str, run: Run, num_seeds: int, effort: TimingBudget, say: Say) -> Report:
    """`measure` with an empty cache."""
    use_cache(folder)
    prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches, num_seeds)
    return {"flags": flags()} | measure(run, num_seeds, effort, say)


def compile_warm(folder: str, run: Run, num_seeds: int) -> Report:
    """Compile time where another process has compiled the same before; `from_cache`: nothing had to be compiled."""
    use_cache(folder)
    prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches, num_seeds)
    before = _cached(folder)
    training = compile_training(run, num_seeds)
    loaded, h = _cached(folder) == before, as_traced(run.hyperparams)
    jax.block_until_ready(training.updates(training.init(seed_keys(num_seeds), h), jnp.int32(1), h))
    return {"trace_warm_s": training.trace_s, "compile_warm_s": training.compile_s, "from_cache": loaded}


def _cached(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir() if path.name.endswith("-cache")}
