"""An environment of two agents from one of a single agent."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purejaxppo.envs import Env


def two_agents(one: Env, rewards: Callable[[jax.Array, jax.Array], tuple]) -> Env:
    """Return an environment for `fold_agents` in which two agents see the observation of `one`.

    Args:
        one: the environment of a single agent; the action of the first agent is played.
        rewards: (reward of `one`, actions [2, ...]) -> the rewards of both agents.
    """

    def reset(key):
        state, obs = one.reset(key)
        return state, jnp.stack([obs, obs])

    def step(key, state, action):
        state, ts = one.step(key, state, action[0])
        obs = jnp.stack([ts.obs, ts.obs])
        return state, ts._replace(obs=obs, final_obs=obs, reward=jnp.stack(rewards(ts.reward, action)))

    return one._replace(reset=reset, step=step)
