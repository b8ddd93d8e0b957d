"""Wrappers that change actions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.masks import action_mask, check_mask, is_allowed
from purejaxppo.envs.protocol import Env, TimeStep, step_avals
from purejaxppo.envs.spaces import (
    Box,
    Space,
    box,
    children,
    is_compound,
    rebuild,
    zero_of,
)


def map_action(env: Env, function: Callable[[Any], Any], space: Space) -> Env:
    """Actions, elements of `space`, go through `function` before the environment sees them."""

    def step(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        return env.step(key, env_state, function(action))

    return env._replace(step=step, action_space=space)


def clip_action(env: Env) -> Env:
    """Box actions are clipped at the environment's own bounds; the log-probability stays that of the unclipped."""

    def clip(space: Space, action: Any) -> Any:
        if isinstance(space, Box):
            return jnp.clip(action, jnp.asarray(space.low), jnp.asarray(space.high))
        if is_compound(space):
            return rebuild(space, [clip(child, action[i]) for i, child in children(space)])
        return action

    return map_action(env, partial(clip, env.action_space), env.action_space)


def rescale_action(env: Env, low: float = -1.0, high: float = 1.0) -> Env:
    """Actions in [low, high] are mapped linearly to the bounds of the environment's Box.

    Raises:
        ValueError: the action space is no Box, or has an infinite bound, or low >= high.
    """
    space = env.action_space
    if not isinstance(space, Box) or not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"rescale_action needs a Box action space with finite bounds, not {space}")
    if not low < high:
        raise ValueError(f"rescale_action needs low < high, not {low} and {high}")
    scale = (space.high - space.low) / np.asarray(high - low, space.dtype)
    start = space.low

    def rescale(action: Any) -> jax.Array:
        return jnp.asarray(start) + (action - low) * jnp.asarray(scale)

    return map_action(env, rescale, box(low, high, space.shape, space.dtype))


def with_action_mask(env: Env, function: Callable[[Any, Any], Any], space: Space | None = None) -> Env:
    """Observations carry the action mask `function(env_state, obs)`: for environments that keep it in their state.

    Any dict, {"actor": ..., "critic": ...} too, gets the entry "action_mask" beside its own; anything else becomes
    {"observation": obs, "action_mask": mask}. `space` is that of the mask; by default bools of the shapes that
    `function` gives. Numbers are cast to it: 0 is forbidden. `env_state` is that of `env`, so this wrapper goes before
    those that have a state of their own; `sticky_actions` goes after it, to see the mask.

    Raises:
        ValueError: there is a mask already, or actions are continuous, or the mask is not of `space` or does not fit
            the action space.
    """
    old, actions = env.observation_space, env.action_space
    if action_mask(old) is not None:
        raise ValueError(f"the observation space {old} has an action mask already")
    if all(isinstance(leaf, Box) for leaf in jax.tree.leaves(actions)):
        raise ValueError(f"continuous actions have no mask: the action space is {actions}")
    given = jax.eval_shape(function, *step_avals(env)[:2])
    flags = jax.tree.map(lambda x: box(0, 1, x.shape, np.bool_), given) if space is None else space
    check_mask(actions, flags)
    zeros = zero_of(flags)
    shapes, expected = (jax.tree.map(lambda x: x.shape, tree) for tree in (given, zeros))
    if shapes != expected:
        raise ValueError(f"the function gives an action mask of the shape {shapes}, which is not of the space {flags}")

    def show(x: Any, mask: Any) -> dict[str, Any]:
        return {**(x if isinstance(x, dict) else {"observation": x}), "action_mask": mask}

    def observe(env_state: Any, obs: Any) -> dict[str, Any]:
        return show(obs, jax.tree.map(lambda zero, m: jnp.asarray(m, zero.dtype), zeros, function(env_state, obs)))

    def reset(key: jax.Array) -> tuple[Any, Any]:
        env_state, obs = env.reset(key)
        return env_state, observe(env_state, obs)

    def step(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        env_state, timestep = env.step(key, env_state, action)
        obs = observe(env_state, timestep.obs)
        return env_state, timestep._replace(obs=obs, final_obs=obs)

    return env._replace(reset=reset, step=step, observation_space=show(old, flags))


class StickyState(NamedTuple):
    """State of `sticky_actions`."""

    env_state: Any
    action: Any  # the action carried out last
    started: jax.Array  # []  bool, false before the first step of an episode
    mask: Any  # the action mask of the observation shown last; None where there is none


def sticky_actions(env: Env, probability: float = 0.25) -> Env:
    """With this probability the environment carries out the action before instead of the one given.

    Never at the first step of an episode, which has no action before it, nor where the action mask of the observation
    forbids the action before. `append_previous` says which action is shown in which order of the two.

    Raises:
        ValueError: probability outside of [0, 1).
    """
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"the probability of sticky actions must be in [0, 1), not {probability}")

    def reset(key: jax.Array) -> tuple[StickyState, Any]:
        env_state, obs = env.reset(key)
        return StickyState(env_state, zero_of(env.action_space), jnp.zeros((), bool), action_mask(obs)), obs

    def step(key: jax.Array, state: StickyState, action: Any) -> tuple[StickyState, TimeStep]:
        key_stick, key_env = jax.random.split(key)
        may_stick = state.started & is_allowed(env.action_space, state.mask, state.action)
        stick = may_stick & jax.random.bernoulli(key_stick, probability)
        action = jax.tree.map(lambda old, new: jnp.where(stick, old, new), state.action, action)
        env_state, timestep = env.step(key_env, state.env_state, action)
        return StickyState(env_state, action, jnp.ones((), bool), action_mask(timestep.obs)), timestep

    return env._replace(reset=reset, step=step)
