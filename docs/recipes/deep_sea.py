"""A sparse reward at the end of a long way: deep sea.

Osband et al. (2020), "Behaviour suite for reinforcement learning", arXiv:1908.03568.
"""

import jax.numpy as jnp

from purejaxppo.envs import Discrete, Env, TimeStep, box


def deep_sea(size: int) -> Env:
    """Return a grid of `size` x `size` cells with a treasure in its last corner.

    Every step moves down one row, and to the right (action 1) or to the left (action 0). A step to the right costs
    0.01 / size; the way that only goes to the right ends at a reward of 1. A uniform policy finds it in one of
    2 ** size episodes.
    """

    def observe(state):
        row, column = state
        indices = jnp.arange(size)
        return jnp.concatenate([indices == row, indices == column]).astype(jnp.float32)

    def reset(key):
        state = (jnp.int32(0), jnp.int32(0))
        return state, observe(state)

    def step(key, state, action):
        row, column = state
        right = action == 1
        ends = row == size - 1
        found = ends & (column == size - 1) & right
        reward = found.astype(jnp.float32) - jnp.where(right, 0.01 / size, 0.0)
        state = (row + 1, jnp.clip(column + jnp.where(right, 1, -1), 0, size - 1))
        obs = observe(state)
        return state, TimeStep(obs, reward, ends, jnp.bool_(False), obs)

    return Env(reset, step, box(0.0, 1.0, (2 * size,)), Discrete(2), name="deep sea")
