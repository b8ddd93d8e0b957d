"""Wrappers that add an action mask to observations, or change it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Action, EnvState, Mask, Observation, PRNGKey, PyTree
from purejaxppo.envs.families import lift
from purejaxppo.envs.masks import action_mask, allow_all_if_none, check_mask, with_mask
from purejaxppo.envs.protocol import Env, TimeStep, step_avals
from purejaxppo.envs.spaces import Box, Space, box, zero_of
from purejaxppo.envs.wrappers.observations import map_observation


@lift
def with_action_mask(env: Env, function: Callable[[EnvState, Observation], Mask], space: Space | None = None) -> Env:
    """Add the action mask `function(env_state, obs)` to observations, for environments that keep it in their state.

    A dict, also {"actor": ..., "critic": ...}, gets the further entry "action_mask"; any other observation becomes
    {"observation": obs, "action_mask": mask}. `env_state` is the state of `env`, so apply this wrapper before those
    that have a state themselves. Apply `sticky_actions` after it, so that it sees the mask.

    Args:
        env: the environment.
        function: (env_state, obs) -> mask; see `purejaxppo.envs.masks` for its form. Numbers are cast to the dtype of
            `space`; 0 is forbidden.
        space: the space of the mask; by default bools of the shapes that `function` returns.

    Raises:
        ValueError: there is already a mask, or actions are continuous, or the mask is not of `space` or does not fit
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

    def add(x: PyTree, mask: PyTree) -> PyTree:
        return {**(x if isinstance(x, dict) else {"observation": x}), "action_mask": mask}

    def observe(env_state: EnvState, obs: Observation) -> Observation:
        return add(obs, jax.tree.map(lambda zero, m: jnp.asarray(m, zero.dtype), zeros, function(env_state, obs)))

    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        env_state, obs = env.reset(key)
        return env_state, observe(env_state, obs)

    def step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.step(key, env_state, action)
        obs = observe(env_state, timestep.obs)
        return env_state, timestep._replace(obs=obs, final_obs=obs)

    return env._replace(reset=reset, step=step, observation_space=add(old, flags))


@lift
def always_some_action(env: Env) -> Env:
    """Allow every choice where the action mask would allow none, for environments whose states can be dead ends.

    A policy under a mask needs at least one choice in each component of an action. In a state without one, such as
    that of a trapped snake whose next move ends the episode, this wrapper allows all.

    Raises:
        ValueError: observations have no action mask.
    """
    if action_mask(env.observation_space) is None:
        raise ValueError(f"always_some_action needs observations with an action mask, not {env.observation_space}")

    def repair(obs: Observation) -> Observation:
        return with_mask(obs, allow_all_if_none(env.action_space, action_mask(obs)))

    return map_observation(env, repair, env.observation_space)
