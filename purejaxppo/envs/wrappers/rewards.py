"""Wrappers that change rewards. Reported returns are those of the changed rewards."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from purejaxppo._util.aliases import Action, EnvState, PRNGKey
from purejaxppo.envs.families import lift
from purejaxppo.envs.protocol import Env, TimeStep


@lift
def reward_scale(env: Env, scale: float | jax.Array) -> Env:
    """Multiply rewards by a constant.

    Args:
        env: the environment.
        scale: the factor; a JAX array can be mapped over.

    Raises:
        ValueError: the factor is not finite.
    """
    if not isinstance(scale, jax.Array) and not math.isfinite(scale):
        raise ValueError(f"reward_scale needs a finite factor, not {scale}")
    return _map_reward(env, lambda reward: reward * jnp.asarray(scale, jnp.float32))


@lift
def reward_clip(env: Env, limit: float | jax.Array = 1.0) -> Env:
    """Clip rewards to [-limit, limit].

    Args:
        env: the environment.
        limit: the largest absolute reward; a JAX array can be mapped over.

    Raises:
        ValueError: the limit is not positive.
    """
    if not isinstance(limit, jax.Array) and not limit > 0:
        raise ValueError(f"reward_clip needs a limit above 0, not {limit}")
    bound = jnp.asarray(limit, jnp.float32)
    return _map_reward(env, lambda reward: jnp.clip(reward, -bound, bound))


def _map_reward(env: Env, function: Callable[[jax.Array], jax.Array]) -> Env:
    def step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.step(key, env_state, action)
        return env_state, timestep._replace(reward=function(timestep.reward))

    return env._replace(step=step)
