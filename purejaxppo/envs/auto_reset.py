"""Batch an environment and reset finished episodes."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.envs.protocol import Env, TimeStep, VecEnv


class StepNoise(NamedTuple):
    """What one step of a VecEnv draws from: made for a whole rollout at once, before the scan."""

    step_key: jax.Array  # [T, N]
    reset: Any  # "fresh", "pool": (env_state, obs) [T, N, ...]; "every_step": keys [T, N]


RESETS = ("fresh", "every_step", "pool")


def auto_reset(env: Env, resets: str = "fresh", *, pool_size: int = 256) -> VecEnv:
    """N copies of `env` that start a new episode where one ended; the one place where resets happen.

    After an end `obs` is the new episode's first observation and `final_obs` what the action led to.
    Where both flags are set `truncated` is cleared: a terminal state has no value to bootstrap from.
    How the first states of new episodes are made:

    * "fresh": an initial state for every step and environment, in one vectorised call before the scan.
      Exact; needs memory for T*N environment states.
    * "every_step": computed inside the step, used or not. Exact; no memory, but the reset is in the loop.
    * "pool": min(pool_size, T*N) initial states drawn anew for every call of `noise`, and taken from at
      random with replacement. For suites whose reset is dear. An approximation: each draw has the right
      distribution, but draws of one rollout are not independent (two episodes may begin alike). It saves
      the resets, not the memory.

    The first reset (`VecEnv.reset`) is exact in all three.

    Raises:
        ValueError: unknown `resets`, or `pool_size` < 1.
    """
    if resets not in RESETS:
        raise ValueError(f"resets must be one of {', '.join(map(repr, RESETS))}, not {resets!r}")
    if pool_size < 1:
        raise ValueError(f"pool_size must be at least 1, not {pool_size}")

    def reset(key: jax.Array, num_envs: int) -> tuple[Any, Any]:
        return jax.vmap(env.reset)(jax.random.split(key, num_envs))

    def noise(key: jax.Array, num_steps: int, num_envs: int) -> StepNoise:
        shape = (num_steps, num_envs)
        key_step, key_reset = jax.random.split(key)
        step_key = jax.random.split(key_step, shape)
        if resets == "pool":
            return StepNoise(step_key, _draw_from_pool(env, key_reset, shape, pool_size))
        reset_key = jax.random.split(key_reset, shape)
        if resets == "every_step":
            return StepNoise(step_key, reset_key)
        return StepNoise(step_key, jax.vmap(jax.vmap(env.reset))(reset_key))

    def step(noise: StepNoise, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        # Reset and step are mapped apart: some simulators cannot have both under one map.
        first = jax.vmap(env.reset)(noise.reset) if resets == "every_step" else noise.reset
        env_state, timestep = jax.vmap(env.step)(noise.step_key, env_state, action)
        return jax.vmap(_begin_anew)(first, env_state, timestep)

    return VecEnv(reset, noise, step, env.observation_space, env.action_space)


def _draw_from_pool(env: Env, key: jax.Array, shape: tuple[int, int], pool_size: int) -> tuple[Any, Any]:
    """(env_state, obs) [T, N, ...] taken at random from a pool of initial states."""
    size = min(pool_size, shape[0] * shape[1])
    key_pool, key_index = jax.random.split(key)
    pool = jax.vmap(env.reset)(jax.random.split(key_pool, size))
    index = jax.random.randint(key_index, shape, 0, size)
    return jax.tree.map(lambda x: x[index], pool)


def _begin_anew(first: tuple[Any, Any], env_state: Any, timestep: TimeStep) -> tuple[Any, TimeStep]:
    """One environment: put a new episode's state and observation where one ended."""
    done = timestep.terminated | timestep.truncated
    env_state, obs = jax.tree.map(partial(_choose, done), first, (env_state, timestep.obs))
    truncated = timestep.truncated & ~timestep.terminated
    return env_state, timestep._replace(obs=obs, truncated=truncated, final_obs=timestep.final_obs)


def _choose(done: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """x where done, else y; of typed keys too."""
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.where(done, x, y)
    # A choice between keys counts as a use of both with JAX's reuse check; one between their data does not.
    data = jnp.where(done, jax.random.key_data(x), jax.random.key_data(y))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
