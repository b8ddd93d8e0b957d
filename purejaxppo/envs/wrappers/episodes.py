"""Wrappers that change when an episode ends."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.envs.protocol import Env, TimeStep


class TimeLimitState(NamedTuple):
    """State of `time_limit`."""

    env_state: Any
    time: jax.Array  # []  int32, steps taken in this episode


def time_limit(env: Env, num_steps: int) -> Env:
    """Episodes are truncated after `num_steps` steps, besides whatever ends them anyway.

    Raises:
        ValueError: num_steps < 1.
    """
    if num_steps < 1:
        raise ValueError(f"a time limit must be at least 1, not {num_steps}")

    def reset(key: jax.Array) -> tuple[TimeLimitState, Any]:
        env_state, obs = env.reset(key)
        return TimeLimitState(env_state, jnp.zeros((), jnp.int32)), obs

    def step(key: jax.Array, state: TimeLimitState, action: Any) -> tuple[TimeLimitState, TimeStep]:
        env_state, timestep = env.step(key, state.env_state, action)
        time = state.time + 1
        truncated = timestep.truncated | (time >= num_steps)
        return TimeLimitState(env_state, time), timestep._replace(truncated=truncated)

    return env._replace(reset=reset, step=step)
