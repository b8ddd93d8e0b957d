"""Random play of an environment, reduced to what the checks look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo._util.aliases import EnvState, Mask, Observation, PRNGKey, PyTree
from purejaxppo.envs.auto_reset import choose
from purejaxppo.envs.masks import action_mask, has_action, sample_allowed
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv
from purejaxppo.envs.spaces import UNBOUNDED, Box, Space

TOLERANCE = 1e-3  # by which an observation may exceed its bounds, relative to 1 + |bound|


class Play(NamedTuple):
    """What T random steps of N environments were like; leaves [T, N] unless noted."""

    terminated: Array
    truncated: Array
    age: Array  # steps of the episode, this one included
    stuck: Array  # the mask of the state before the step allows no action
    bad_obs: Array  # NaN or infinite
    bad_reward: Array
    outside: Array  # for each leaf of the observation, [L, T, N]: the largest excess over its bounds, at most 0 if none
    print: Array  # float32, a sum over state, observation and reward, to compare two runs
    first: Array | tuple[()]  # [N] the same of the first states


def play_program(env: Env | VecEnv, num_steps: int, num_envs: int) -> Callable[[PRNGKey], Play]:
    """Return a compiled function of a key that plays at random.

    An Env whose episode ends starts again in its first state; a VecEnv resets itself.

    Args:
        env: the environment.
        num_steps: T.
        num_envs: N.
    """
    # It runs a few times: compiling takes a third of the time without optimization.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(partial(_play, env, num_steps, num_envs), compiler_options=options)


def _play(env: Env | VecEnv, num_steps: int, num_envs: int, key: PRNGKey) -> Play:
    key_reset, key_step, key_action = jax.random.split(key, 3)
    if isinstance(env, VecEnv):
        first = env.reset(key_reset, num_envs)
        noise = env.noise(key_step, num_steps, num_envs)
    else:
        first = jax.vmap(env.reset)(jax.random.split(key_reset, num_envs))
        noise = jax.random.split(key_step, (num_steps, num_envs))
    draw = jax.vmap(partial(sample_allowed, env.action_space))

    def step(carry: tuple, inputs: tuple) -> tuple[tuple, Play]:
        env_state, obs, age = carry
        mask = action_mask(obs)
        env_state, ts = _step(env, inputs[0], env_state, draw(mask, inputs[1]))
        age = age + 1
        seen = _look(env, mask, age, env_state, ts)
        done = ts.terminated | ts.truncated
        obs = ts.obs
        if isinstance(env, Env):
            env_state, obs = jax.tree.map(partial(choose, done), first, (env_state, obs))
        return (env_state, obs, jnp.where(done, 0, age)), seen

    start = (*first, jnp.zeros(num_envs, jnp.int32))
    seen = jax.lax.scan(step, start, (noise, jax.random.split(key_action, (num_steps, num_envs))))[1]
    outside = jnp.moveaxis(seen.outside, 1, 0)
    return seen._replace(outside=outside, first=_fingerprint(first, num_envs))


def _step(env: Env | VecEnv, noise: PyTree, env_state: EnvState, action: PyTree) -> tuple[EnvState, TimeStep]:
    if isinstance(env, VecEnv):
        return env.step(noise, env_state, action)
    return jax.vmap(env.step)(noise, env_state, action)


def _look(env: Env | VecEnv, mask: Mask, age: Array, env_state: EnvState, ts: TimeStep) -> Play:
    count = age.shape[0]
    stuck = jnp.broadcast_to(~has_action(env.action_space, mask), (count,))
    return Play(
        terminated=ts.terminated,
        truncated=ts.truncated,
        age=age,
        stuck=stuck,
        bad_obs=_nonfinite((ts.obs, ts.final_obs), count),
        bad_reward=_nonfinite(ts.reward, count),
        outside=_excess(env.observation_space, ts.final_obs, count),
        print=_fingerprint((env_state, ts), count),
        first=(),
    )


def _nonfinite(tree: PyTree, count: int) -> Array:
    bad = jnp.zeros(count, bool)
    for x in jax.tree.leaves(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            bad |= ~jnp.isfinite(x).reshape(count, -1).all(-1)
    return bad


def _excess(space: Space, obs: Observation, count: int) -> Array:
    """Return by how much each leaf [N, ...] of an observation lies outside its bounds, [L, N] float32."""
    leaves, structure = jax.tree.flatten(space)
    found = []
    for leaf, x in zip(leaves, structure.flatten_up_to(obs), strict=True):
        if not isinstance(leaf, Box) or leaf.dtype == np.bool_:
            found.append(jnp.full(count, -jnp.inf, jnp.float32))
            continue
        low, high = (np.asarray(bound, np.float64)[None] for bound in (leaf.low, leaf.high))
        low, high = np.where(low <= -UNBOUNDED, -np.inf, low), np.where(high >= UNBOUNDED, np.inf, high)
        x = x.astype(jnp.float32)
        under = (low - TOLERANCE * (1 + np.abs(low))).astype(np.float32) - x
        over = x - (high + TOLERANCE * (1 + np.abs(high))).astype(np.float32)
        excess = jnp.where(jnp.isfinite(x), jnp.maximum(under, over), -jnp.inf)  # the rest is another check's
        found.append(excess.reshape(count, -1).max(-1, initial=-jnp.inf))
    return jnp.stack(found)


def _fingerprint(tree: PyTree, count: int) -> Array:
    """Return one number for each environment that changes when any leaf [N, ...] of the tree does, almost always."""
    total = jnp.zeros(count, jnp.float32)
    for i, x in enumerate(jax.tree.leaves(tree)):
        data = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        if data.shape[:1] == (count,):
            flat = jnp.nan_to_num(data.reshape(count, -1).astype(jnp.float32))
            weights = np.cos(np.arange(flat.shape[1]) + i).astype(np.float32)
            total += flat @ weights
    return total


def place(flags: Array | np.ndarray) -> str:
    """Say where the first of flags [T, N] is: "step 3 of environment 1, 5 in all"."""
    t, n = np.argwhere(np.asarray(flags))[0]
    return f"first in step {t} of environment {n}, {int(np.sum(flags))} of {np.size(flags)} in all"
