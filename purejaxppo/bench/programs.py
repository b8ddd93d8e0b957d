"""Compile the programs of a workload: training, and each phase of an update."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.assembly import make_ppo
from purejaxppo.bench.timing import Say, Spread, TimingBudget, timed
from purejaxppo.config.schema import Run
from purejaxppo.devices.sharding import largest_device_count, shard_runs
from purejaxppo.envs.registry import make
from purejaxppo.networks.actor_critic import make_network
from purejaxppo.ppo import collect_rollout, compute_targets, optimize
from purejaxppo.training.loop import as_traced
from purejaxppo.types import Algorithm


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
    return shard_runs(mapped, largest_device_count(num_seeds, num_seeds))


def devices_of(run: Run, num_seeds: int) -> int:
    """How many devices the programs of a workload run on: each executes one like the others, and counts as much."""
    return algorithm(run).components.plan.num_devices if num_seeds == 1 else largest_device_count(num_seeds, num_seeds)


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


def time_updates(training: Training, run: Run, num_seeds: int, effort: TimingBudget) -> Spread:
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
    ppo = algo.components
    config, keys = run.config, [seed_keys(num_seeds, seed) for seed in range(5)]
    programs: dict[str, tuple[Any, tuple]] = {}

    def add(name: str, function: Callable, *args: Any) -> Any:
        """Compile and keep it; returns what one run gives. The last argument of all, `h`, is shared by the seeds."""
        say(f"compiling the {name} alone")
        programs[name] = (jax.jit(over_seeds(function, num_seeds)).lower(*args, h).compile(), (*args, h))
        return programs[name][0](*args, h)

    def environment(env_state: Any, action: Any, key: Array, _: Any) -> Any:
        noise = ppo.env.noise(key, config.num_steps, config.num_envs)
        return jax.lax.scan(lambda state, x: ppo.env.step(x[0], state, x[1]), env_state, (noise, action))

    def targets(state: Any, rollout: Any, h: Any) -> Any:
        return compute_targets(ppo, state.params, state, rollout, h)

    def shuffle(batch: Any, key: Array, _: Any) -> Array:
        size = batch.value.shape[1]
        return jax.lax.map(lambda key: ppo.shuffle(key, size), jax.random.split(key, config.num_epochs))

    def update(state: Any, rollout: Any, batch: Any, key: Array, h: Any) -> Any:
        return optimize(ppo, state, rollout, batch, h, key)

    first = jax.jit(over_seeds(algo.init, num_seeds))(keys[0], h)
    state, rollout = add("rollout", lambda state, key, _: collect_rollout(ppo, state, key), first, keys[1])
    add("environment", environment, first.env_state, rollout.action, keys[2])
    batch = add("targets", targets, state, rollout)
    add("shuffle", shuffle, batch, keys[3])
    add("update", update, state, rollout, batch, keys[4])
    return programs
