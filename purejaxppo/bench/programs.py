"""Compile the programs of a workload: training, and each phase of an update."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.stages import Compiled

from purejaxppo._util.aliases import Action, EnvState, PyTree
from purejaxppo.assembly import make_ppo
from purejaxppo.batching.samples import Batch, Transition
from purejaxppo.bench.timing import Log, Spread, TimingBudget, time_call
from purejaxppo.config.schema import Hyperparams, Run
from purejaxppo.devices.cpu import prepare_cpu
from purejaxppo.devices.sharding import largest_device_count, shard_runs
from purejaxppo.envs.registry import make
from purejaxppo.metrics import Metrics
from purejaxppo.networks.actor_critic import make_network
from purejaxppo.ppo import collect_rollout, compute_targets, optimize
from purejaxppo.training.loop import as_traced
from purejaxppo.types import Algorithm, TrainState, Update


def prepare_cpu_for(run: Run, num_seeds: int) -> None:
    """Configure the CPU as the command line does for `run`."""
    prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches, num_seeds)


def make_algorithm(run: Run) -> Algorithm:
    """Make the algorithm that `run` describes."""
    env = make(run.env, **run.env_params)
    return make_ppo(env, make_network(env, run.network), run.config)


def over_seeds(function: Callable, num_seeds: int) -> Callable:
    """Map `function` over a leading axis of seeds of all its arguments but the last; for one seed, return it unchanged.

    The seeds are distributed among the devices, as in `sweep`.
    """
    if num_seeds == 1:
        return function
    mapped = lambda *args: jax.vmap(function, (*(0,) * (len(args) - 1), None))(*args)  # noqa: E731
    return shard_runs(mapped, largest_device_count(num_seeds, num_seeds))


def count_devices(run: Run, num_seeds: int) -> int:
    """Return the number of devices that the programs of a workload run on. Each executes the same work."""
    if num_seeds == 1:
        return make_algorithm(run).components.plan.num_devices
    return largest_device_count(num_seeds, num_seeds)


def seed_keys(num_seeds: int, seed: int = 0) -> Array:
    """Return one key, or keys [S] for S > 1 seeds."""
    return jax.random.key(seed) if num_seeds == 1 else jax.random.split(jax.random.key(seed), num_seeds)


def many_updates(update: Update, state: TrainState, length: Array, h: Hyperparams) -> tuple[TrainState, Metrics]:
    """Run `length` updates and return the state and the last metrics. `length` is traced: one program for any."""
    metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(update, state, h)[1])
    return jax.lax.fori_loop(0, length, lambda _, carry: update(carry[0], h), (state, metrics))


class Training(NamedTuple):
    """The training program of a workload, and the seconds its compilation took."""

    init: Compiled  # (keys, h) -> state
    updates: Compiled  # (state, length, h) -> (state, metrics); the state is donated
    trace_s: float  # from Python to HLO
    compile_s: float  # from HLO to machine code, or loading that from the cache


def compile_training(run: Run, num_seeds: int) -> Training:
    """Trace and compile the initialization and the updates."""
    algo, h = make_algorithm(run), as_traced(run.hyperparams)
    init, update = (over_seeds(function, num_seeds) for function in (algo.init, algo.update))
    keys, length = seed_keys(num_seeds), jnp.int32(1)
    start = time.perf_counter()
    init_traced = jax.jit(init).lower(keys, h)
    state = jax.eval_shape(init, keys, h)
    updates_traced = jax.jit(partial(many_updates, update), donate_argnums=0).lower(state, length, h)
    traced = time.perf_counter()
    programs = init_traced.compile(), updates_traced.compile()
    return Training(*programs, traced - start, time.perf_counter() - traced)


def time_updates(training: Training, run: Run, num_seeds: int, budget: TimingBudget) -> Spread:
    """Measure the seconds per update."""
    h = as_traced(run.hyperparams)
    state = training.init(seed_keys(num_seeds), h)

    def call(iterations: int) -> Metrics:
        nonlocal state
        state, metrics = training.updates(state, jnp.int32(iterations), h)
        return metrics

    return time_call(call, budget)


def compile_phases(run: Run, num_seeds: int, log: Log) -> dict[str, tuple[Compiled, tuple]]:
    """Compile each phase of one update as a separate program, from the functions that an update calls.

    They start from the first state of a run. `environment` steps the environments with the actions of the rollout;
    `update` is all epochs of minibatch steps, including the shuffles.

    Returns:
        Name of the phase -> (compiled program, its arguments).
    """
    algo, h = make_algorithm(run), as_traced(run.hyperparams)
    ppo = algo.components
    config, keys = run.config, [seed_keys(num_seeds, seed) for seed in range(5)]
    programs: dict[str, tuple[Compiled, tuple]] = {}

    def add(name: str, function: Callable, *args: PyTree) -> PyTree:
        """Compile a phase and return its result. All seeds share its last argument, `h`."""
        log(f"compiling the {name} alone")
        programs[name] = (jax.jit(over_seeds(function, num_seeds)).lower(*args, h).compile(), (*args, h))
        return programs[name][0](*args, h)

    def environment(env_state: EnvState, action: Action, key: Array, _: Hyperparams) -> PyTree:
        noise = ppo.env.noise(key, config.num_steps, config.num_envs)
        return jax.lax.scan(lambda state, x: ppo.env.step(x[0], state, x[1]), env_state, (noise, action))

    def targets(state: TrainState, rollout: Transition, h: Hyperparams) -> Batch:
        return compute_targets(ppo, state.params, state, rollout, h)

    def shuffle(batch: Batch, key: Array, _: Hyperparams) -> Array:
        size = batch.value.shape[1]
        return jax.lax.map(lambda key: ppo.shuffle(key, size), jax.random.split(key, config.num_epochs))

    def update(state: TrainState, rollout: Transition, batch: Batch, key: Array, h: Hyperparams) -> PyTree:
        return optimize(ppo, state, rollout, batch, h, key)

    first = jax.jit(over_seeds(algo.init, num_seeds))(keys[0], h)
    state, rollout = add("rollout", lambda state, key, _: collect_rollout(ppo, state, key), first, keys[1])
    add("environment", environment, first.env_state, rollout.action, keys[2])
    batch = add("targets", targets, state, rollout)
    add("shuffle", shuffle, batch, keys[3])
    add("update", update, state, rollout, batch, keys[4])
    return programs
