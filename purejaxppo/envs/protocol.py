"""The environment protocol: Env, VecEnv, TimeStep."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from purejaxppo.envs.spaces import Space, sample_space


class TimeStep(NamedTuple):
    """What one step gives. There is no field called `done`: the two ways to end are not alike."""

    obs: Any  # what to act on next (after a reset, where one happened)
    reward: Any  # []  float32
    terminated: Any  # []  bool; the MDP ended: do not bootstrap, cut the trace
    truncated: Any  # []  bool; the clock ran out: bootstrap from final_obs, cut the trace
    final_obs: Any  # what the action led to, before any reset


class Env(NamedTuple):
    """One environment that never resets itself; its parameters are closed over.

    reset(key) -> (env_state, obs); step(key, env_state, action) -> (env_state, TimeStep) with
    `final_obs` the same as `obs`. Both flags of a TimeStep may be true.
    """

    reset: Callable[[jax.Array], tuple[Any, Any]]
    step: Callable[[jax.Array, Any, Any], tuple[Any, TimeStep]]
    observation_space: Space
    action_space: Space
    name: str = ""  # what messages call it; `make` sets it and wrappers keep it


class VecEnv(NamedTuple):
    """N environments that reset themselves; terminated and truncated exclude each other, terminated wins.

    reset(key, num_envs) -> (env_state, obs), leaves [N, ...];
    noise(key, num_steps, num_envs) -> everything random of T steps, leaves [T, N, ...], to be scanned over;
    step(noise at t, env_state, action [N, ...]) -> (env_state, TimeStep [N, ...]).
    """

    reset: Callable[[jax.Array, int], tuple[Any, Any]]
    noise: Callable[[jax.Array, int, int], Any]
    step: Callable[[Any, Any, Any], tuple[Any, TimeStep]]
    observation_space: Space
    action_space: Space


def key_aval() -> Any:
    """Shape and dtype of a typed key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def step_avals(env: Env) -> tuple[Any, Any, Any, TimeStep]:
    """(state, obs) of reset and (state, TimeStep) of a step as shapes and dtypes; nothing is computed."""
    key = key_aval()
    state, obs = jax.eval_shape(env.reset, key)
    action = jax.eval_shape(partial(sample_space, env.action_space), key)
    next_state, timestep = jax.eval_shape(env.step, key, state, action)
    return state, obs, next_state, timestep
