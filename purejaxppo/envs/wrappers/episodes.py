"""Wrappers that change the length of episodes and of steps."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Action, EnvState, Observation, PRNGKey
from purejaxppo.envs.auto_reset import choose
from purejaxppo.envs.families import lift
from purejaxppo.envs.protocol import Env, TimeStep

MAX_STEPS = 2**31 - 1  # an int32 counter


class TimeLimitState(NamedTuple):
    """State of `time_limit`."""

    env_state: EnvState
    time: jax.Array  # []  int32, steps taken in this episode


@lift
def time_limit(env: Env, num_steps: int) -> Env:
    """Truncate episodes after a number of steps, in addition to the ends that they have.

    The environment keeps its `truncation_gap` unless the limit is shorter, or is not known while the program is made.

    Args:
        env: the environment.
        num_steps: length of the longest episode; a JAX array can be mapped over.

    Raises:
        ValueError: `num_steps` is not an integer from 1 to 2³¹ - 1.
    """
    gap = 1
    if not isinstance(num_steps, jax.Array):
        num_steps = _check_count("a time limit", num_steps)
        gap = min(num_steps, env.truncation_gap)

    def reset(key: PRNGKey) -> tuple[TimeLimitState, Observation]:
        env_state, obs = env.reset(key)
        return TimeLimitState(env_state, jnp.zeros((), jnp.int32)), obs

    def step(key: PRNGKey, state: TimeLimitState, action: Action) -> tuple[TimeLimitState, TimeStep]:
        env_state, timestep = env.step(key, state.env_state, action)
        time = state.time + 1
        truncated = timestep.truncated | (time >= num_steps)
        return TimeLimitState(env_state, time), timestep._replace(truncated=truncated)

    return env._replace(reset=reset, step=step, truncation_gap=gap)


@lift
def action_repeat(env: Env, num_repeats: int) -> Env:
    """Carry out each action several times and add up the rewards.

    The repetition stops where the episode ends. Put `time_limit` inside to count the environment's steps, outside to
    count the agent's.

    Args:
        env: the environment.
        num_repeats: number of environment steps for each action.

    Raises:
        ValueError: `num_repeats` is not an integer from 1 to 2³¹ - 1.
    """
    num_repeats = _check_count("the number of repeats", num_repeats)
    if num_repeats == 1:
        return env

    def step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        def repeat(carry: tuple, _: None) -> tuple[tuple, None]:
            key, *before = carry
            done = before[1].terminated | before[1].truncated
            key, key_step = jax.random.split(key)
            env_state, timestep = env.step(key_step, before[0], action)
            timestep = timestep._replace(reward=before[1].reward + timestep.reward)
            return (key, *jax.tree.map(partial(choose, done), before, [env_state, timestep])), None

        key_first, key = jax.random.split(key)
        start = (key, *env.step(key_first, env_state, action))
        _, env_state, timestep = jax.lax.scan(repeat, start, length=num_repeats - 1)[0]
        return env_state, timestep

    return env._replace(step=step, truncation_gap=-(-env.truncation_gap // num_repeats))


def _check_count(what: str, count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= MAX_STEPS:
        raise ValueError(f"{what} must be an integer from 1 to {MAX_STEPS}, not {count}")
    return int(count)
