"""A family of environments whose reward and first observation show its parameters."""

import jax.numpy as jnp

from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box

LENGTH = 3  # steps of an episode


def make_level(params):
    """Return an environment with the observation [level at the reset, time] and the reward `level`."""
    level = params["level"]

    def observe(state):
        return jnp.stack([state[0], state[1].astype(jnp.float32)])

    def reset(key):
        state = (level, jnp.int32(0))
        return state, observe(state)

    def step(key, state, action):
        state = (state[0], state[1] + 1)
        obs = observe(state)
        return state, TimeStep(obs, level, state[1] >= LENGTH, jnp.bool_(False), obs)

    return Env(reset, step, box(-100, 100, (2,)), Discrete(2), name="Level")
