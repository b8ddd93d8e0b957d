"""What a workload costs on this machine and where its time goes, measured; nothing here is used by training.

Every workload is compiled and timed in a process of its own, and compiled once more in another one with the persistent
cache that the first has filled: so cold is cold, warm is what a second start finds, and no workload inherits memory or
compiled helpers from the one before.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo import __version__
from purejaxppo.bench.hlo import Count, count
from purejaxppo.bench.subprocesses import ChildFailed, in_child
from purejaxppo.bench.workloads import WORKLOADS, Workload
from purejaxppo.config.checks import Run
from purejaxppo.devices.sharding import largest_share, prepare_cpu, spread
from purejaxppo.envs.registry import make
from purejaxppo.networks.actor_critic import make_network
from purejaxppo.ppo import collect, make_batch, make_ppo, optimise
from purejaxppo.training.loop import as_traced
from purejaxppo.types import Algorithm, Parts

Array = jax.Array

Say = Callable[[str], None]

Report = dict[str, Any]  # plain numbers, texts, lists and dicts: what JSON holds


class Effort(NamedTuple):
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


def timed(call: Callable[[int], Any], effort: Effort) -> Spread:
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


def algorithm(run: Run) -> Algorithm:
    """The algorithm that `run` describes."""
    env = make(run.env, **run.env_params)
    return make_ppo(env, make_network(env, run.network), run.config)


def over_seeds(function: Callable, num_seeds: int) -> Callable:
    """`function` mapped over a leading axis of seeds in all its arguments but the last; itself for one seed.

    The seeds are shared out among the devices, as in `sweep`.
    """
    if num_seeds == 1:
        return function
    mapped = lambda *args: jax.vmap(function, (*(0,) * (len(args) - 1), None))(*args)  # noqa: E731
    return spread(mapped, largest_share(num_seeds, num_seeds))


def devices_of(run: Run, num_seeds: int) -> int:
    """How many devices the programs of a workload run on: each executes one like the others, and counts as much."""
    return algorithm(run).num_devices if num_seeds == 1 else largest_share(num_seeds, num_seeds)


def seed_keys(num_seeds: int, seed: int = 0) -> Array:
    """One key, or [S] keys for S > 1 seeds."""
    return jax.random.key(seed) if num_seeds == 1 else jax.random.split(jax.random.key(seed), num_seeds)


def many_updates(update: Callable, state: Any, length: Array, h: Any) -> tuple[Any, Any]:
    """`length` updates -> (state, metrics of the last): one program however many."""
    metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(update, state, h)[1])
    return jax.lax.fori_loop(0, length, lambda _, loop: update(loop[0], h), (state, metrics))


class Training(NamedTuple):
    """The training program of a workload, and what compiling it took."""

    init: Any  # (keys, h) -> state
    updates: Any  # (state, length, h) -> (state, metrics); the state is given away
    trace_s: float  # Python to HLO
    compile_s: float  # HLO to machine code, or loading it from the cache


def compile_training(run: Run, num_seeds: int) -> Training:
    """Trace and compile the first state and the updates."""
    algo, h = algorithm(run), as_traced(run.hyperparams)
    init, update = (over_seeds(function, num_seeds) for function in (algo.init, algo.update))
    keys, length = seed_keys(num_seeds), jnp.int32(1)
    start = time.perf_counter()
    init_traced = jax.jit(init).lower(keys, h)
    state = jax.eval_shape(init, keys, h)
    updates_traced = jax.jit(partial(many_updates, update), donate_argnums=0).lower(state, length, h)
    traced = time.perf_counter()
    programs = init_traced.compile(), updates_traced.compile()
    return Training(*programs, traced - start, time.perf_counter() - traced)


def time_updates(training: Training, run: Run, num_seeds: int, effort: Effort) -> Spread:
    """Seconds per update."""
    h = as_traced(run.hyperparams)
    state = training.init(seed_keys(num_seeds), h)

    def call(turns: int) -> Any:
        nonlocal state
        state, metrics = training.updates(state, jnp.int32(turns), h)
        return metrics

    return timed(call, effort)


def phases(run: Run, num_seeds: int, say: Say) -> dict[str, tuple[Any, tuple]]:
    """The phases of one update, each a program of its own: name -> (compiled program, its arguments).

    They are made of the functions that an update calls, and start from the first state of a run. `environment` takes
    the rollout's actions as given; `update` is the epochs of minibatch steps, with the shuffles in it.
    """
    algo, h = algorithm(run), as_traced(run.hyperparams)
    parts: Parts = cast(partial, algo.update).args[0]
    config, keys = run.config, [seed_keys(num_seeds, seed) for seed in range(5)]
    programs: dict[str, tuple[Any, tuple]] = {}

    def add(name: str, function: Callable, *args: Any) -> Any:
        """Compile and keep it; returns what one run gives. The last argument of all, `h`, is shared by the seeds."""
        say(f"compiling the {name} alone")
        programs[name] = (jax.jit(over_seeds(function, num_seeds)).lower(*args, h).compile(), (*args, h))
        return programs[name][0](*args, h)

    def environment(env_state: Any, action: Any, key: Array, _: Any) -> Any:
        noise = parts.env.noise(key, config.num_steps, config.num_envs)
        return jax.lax.scan(lambda state, x: parts.env.step(x[0], state, x[1]), env_state, (noise, action))

    def targets(state: Any, rollout: Any, h: Any) -> Any:
        return make_batch(parts, state.params, state=state, rollout=rollout, h=h)

    def shuffle(batch: Any, key: Array, _: Any) -> Array:
        size = batch.value.shape[1]
        return jax.lax.map(lambda key: parts.shuffle(key, size), jax.random.split(key, config.num_epochs))

    def update(state: Any, rollout: Any, batch: Any, key: Array, h: Any) -> Any:
        batch_of = partial(make_batch, parts, state=state, rollout=rollout, h=h)
        return optimise(parts, state, batch, batch_of, h, key)

    first = jax.jit(over_seeds(algo.init, num_seeds))(keys[0], h)
    state, rollout = add("rollout", lambda state, key, _: collect(parts, state, key), first, keys[1])
    add("environment", environment, first.env_state, rollout.action, keys[2])
    batch = add("targets", targets, state, rollout)
    add("shuffle", shuffle, batch, keys[3])
    add("update", update, state, rollout, batch, keys[4])
    return programs


def measure(run: Run, num_seeds: int, effort: Effort, say: Say) -> Report:
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


def _phase(program: Any, args: tuple, effort: Effort, devices: int) -> Report:
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


def machine() -> Report:
    """What is measured on, as JAX and the operating system name it."""
    prepare_cpu()
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "platform": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def ceilings(effort: Effort) -> Report:
    """The best that this machine does: FLOP/s of a large float32 product, bytes/s of a triad.

    The product is at JAX's default precision, as those of a network are: TF32 on the GPUs that have it.
    The triad a + s b reads two arrays and writes one.
    """
    small = jax.devices()[0].platform == "cpu"
    side, length = (2048, 2**25) if small else (8192, 2**28)
    square = jnp.ones((side, side))
    product = jax.jit(lambda a: a @ a)
    a, b = jnp.ones(length), jnp.ones(length)
    triad = jax.jit(lambda a, b: a + 3.0 * b)
    product_s = timed(repeated(lambda: product(square)), effort)
    triad_s = timed(repeated(lambda: triad(a, b)), effort)
    return {"matmul_flops_per_s": 2.0 * side**3 / product_s.min, "memory_bytes_per_s": 12.0 * length / triad_s.min}


def versions() -> dict[str, str]:
    """Versions of what matters."""
    ours = {"purejaxppo": __version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}


def speed(run: Run, num_envs: int, effort: Effort) -> Report:
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


def use_cache(folder: str) -> None:
    """Keep every compiled program of this process in `folder`, and load it from there where it has it."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def measure_cold(folder: str, run: Run, num_seeds: int, effort: Effort, say: Say) -> Report:
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


SIZES = {"cpu": range(6, 15)}  # exponents of 2: numbers of environments of the curve; elsewhere up to 2^17

DRIFT_UPDATES = 200


def bench(workloads: Mapping[str, Workload] | None, effort: Effort, say: Say, curves: Run | None = None) -> Report:
    """Measure workloads one after the other -> everything as plain numbers, texts, lists and dicts.

    workloads: by name; None: all that suit the platform. say: is told, in a line each, how it goes on.
    curves: the run of which speed against environments and time against updates are measured, if any.
    A workload that fails has an "error" in the place of its numbers, and a curve ends where it fails.
    """
    say("measuring what the machine can do")
    about = in_child(machine)
    about |= in_child(ceilings, effort)
    on_cpu = about["platform"] == "cpu"
    chosen = workloads or {name: w for name, w in WORKLOADS.items() if not (on_cpu and w.for_gpu)}
    report: Report = {"machine": about, "versions": versions(), "effort": effort._asdict(), "workloads": {}}
    for name, workload in chosen.items():
        for num_seeds in workload.seeds_on(about["platform"]):
            title = name if num_seeds == workload.num_seeds else f"{name} x {num_seeds}"
            result = _in_children(title, workload, num_seeds, effort, say)
            report["workloads"][title] = {"description": workload.description} | _with_fractions(result, about)
    if curves is not None:
        sizes = [2**i for i in SIZES.get(about["platform"], range(6, 18))]
        report["scaling"], report["drift"] = _scaling(curves, sizes, effort, say), _drift(curves, sizes[0], say)
    return report


def flags() -> dict[str, str]:
    """What is set for XLA and JAX in the environment of this process."""
    return {name: text for name, text in sorted(os.environ.items()) if name.startswith(("XLA_", "JAX_"))}


def _in_children(title: str, workload: Workload, num_seeds: int, effort: Effort, say: Say) -> Report:
    tell: Say = lambda text: say(f"{title}: {text}")  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="purejaxppo-bench-") as folder:
        try:
            result = in_child(measure_cold, folder, workload.run, num_seeds, effort, say=tell)
            tell("starting once more, from the cache")
            started = time.perf_counter()
            result["compile"] |= in_child(compile_warm, folder, workload.run, num_seeds)
            result["compile"]["warm_start_to_first_update_s"] = time.perf_counter() - started
        except ChildFailed as failure:
            tell(f"failed: {failure}")
            return {"error": str(failure)}
    times = result["compile"]
    for kind in ("cold", "warm"):
        times[f"{kind}_s"] = times[f"trace_{kind}_s"] + times[f"compile_{kind}_s"]
    return result


def _with_fractions(result: Report, ceiling: Report) -> Report:
    """The same with how much of the machine's ceilings is reached."""
    if "error" in result:
        return result
    rate = result["steps_per_s"]["median"]
    return result | {
        "matmul_fraction": rate * result["flops_per_step"] / ceiling["matmul_flops_per_s"],
        "memory_fraction": rate * result["bytes_per_step"] / ceiling["memory_bytes_per_s"],
    }


def _scaling(run: Run, sizes: Sequence[int], effort: Effort, say: Say) -> list[Report]:
    points = []
    for num_envs in sizes:
        try:
            points.append(in_child(speed, run, num_envs, effort))
        except ChildFailed as failure:
            say(f"{num_envs} environments: failed: {failure}")
            break
        say(f"{num_envs} environments: {points[-1]['steps_per_s']['median']:,.0f} steps/s")
    return points


def _drift(run: Run, num_envs: int, say: Say) -> Report:
    say(f"timing {DRIFT_UPDATES} updates of {num_envs} environments one by one")
    size = {"num_envs": num_envs, "total_timesteps": num_envs * run.config.num_steps * DRIFT_UPDATES}
    small = dataclasses.replace(run, config=dataclasses.replace(run.config, **size))
    return in_child(drift, small, DRIFT_UPDATES)
