"""Wrappers that change the action that an environment carries out."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Action, EnvState, Mask, Observation, PRNGKey
from purejaxppo.envs.families import lift
from purejaxppo.envs.masks import action_mask, is_allowed
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv
from purejaxppo.envs.spaces import (
    UNBOUNDED,
    Box,
    Space,
    box,
    cast_action,
    children,
    is_compound,
    rebuild,
    single_precision,
    zero_of,
)

EnvOrVecEnv = TypeVar("EnvOrVecEnv", bound=Env | VecEnv)


@lift
def map_action(env: EnvOrVecEnv, function: Callable[[Action], Action], space: Space) -> EnvOrVecEnv:
    """Apply a function to actions before the environment sees them.

    Args:
        env: the environment. For a VecEnv, `function` takes actions [N, ...].
        function: maps an element of `space` to an action of the environment.
        space: the new action space.
    """

    def step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        return env.step(key, env_state, function(action))

    return env._replace(step=step, action_space=space)


@lift
def clip_action(env: EnvOrVecEnv) -> EnvOrVecEnv:
    """Clip Box actions to the bounds of the environment; the log-probability remains that of the unclipped action.

    The wrapped environment takes float32 actions, also if its Box has another dtype of floats.
    """
    space = env.action_space
    if not any(isinstance(leaf, Box) for leaf in jax.tree.leaves(space)):
        return env

    def clip(space: Space, action: Action) -> Action:
        if isinstance(space, Box):
            bounds = (jnp.broadcast_to(jnp.asarray(bound), action.shape) for bound in (space.low, space.high))
            return jnp.clip(action, *bounds)
        if is_compound(space):
            return rebuild(space, [clip(child, action[i]) for i, child in children(space)])
        return action

    taken = single_precision(space)
    return map_action(env, lambda action: cast_action(space, clip(taken, action)), taken)


@lift
def rescale_action(env: Env, low: float = -1.0, high: float = 1.0) -> Env:
    """Map actions in [low, high] linearly to the bounds of the environment's Box.

    Args:
        env: the environment.
        low: the action that becomes the lower bound.
        high: the action that becomes the upper bound.

    Raises:
        ValueError: the action space is not a Box with finite bounds, or low >= high.
    """
    space = single_precision(env.action_space)
    if not isinstance(space, Box) or (np.abs([space.low, space.high]) >= UNBOUNDED).any():
        raise ValueError(
            f"rescale_action needs a Box action space with finite bounds (below {UNBOUNDED:g}), not {space}"
        )
    low, high = float(low), float(high)
    if not -UNBOUNDED < low < high < UNBOUNDED:
        raise ValueError(f"rescale_action needs finite low < high, not {low:g} and {high:g}")
    scale = (space.high - space.low) / np.asarray(high - low, space.dtype)
    start = space.low

    def rescale(action: Action) -> jax.Array:
        return cast_action(env.action_space, jnp.asarray(start) + (action - low) * jnp.asarray(scale))

    return map_action(env, rescale, box(low, high, space.shape, space.dtype))


class StickyState(NamedTuple):
    """State of `sticky_actions`."""

    env_state: EnvState
    action: Action  # the action that was carried out last
    started: jax.Array  # []  bool, false before the first step of an episode
    mask: Mask  # the action mask of the last observation; None if there is none


@lift
def sticky_actions(env: Env, probability: float = 0.25) -> Env:
    """Carry out the previous action instead of the given one with some probability.

    The first action of an episode is always carried out, and so is one whose predecessor is forbidden by the action
    mask of the observation. The order of this wrapper and `append_previous` decides which action the agent sees.

    Args:
        env: the environment.
        probability: that the previous action is repeated, in [0, 1).

    Raises:
        ValueError: the probability is outside [0, 1).
    """
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"the probability of sticky actions must be in [0, 1), not {probability}")

    def reset(key: PRNGKey) -> tuple[StickyState, Observation]:
        env_state, obs = env.reset(key)
        return StickyState(env_state, zero_of(env.action_space), jnp.zeros((), bool), action_mask(obs)), obs

    def step(key: PRNGKey, state: StickyState, action: Action) -> tuple[StickyState, TimeStep]:
        key_stick, key_env = jax.random.split(key)
        may_stick = state.started & is_allowed(env.action_space, state.mask, state.action)
        stick = may_stick & jax.random.bernoulli(key_stick, probability)
        action = jax.tree.map(partial(jnp.where, stick), state.action, action)
        env_state, timestep = env.step(key_env, state.env_state, action)
        return StickyState(env_state, action, jnp.ones((), bool), action_mask(timestep.obs)), timestep

    return env._replace(reset=reset, step=step)
