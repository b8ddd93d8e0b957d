"""Adapter for Craftax and Craftax-Classic.

* terminated: `is_terminal` without the clock: no health left; in Classic also in lava, in Craftax also the boss
  defeated.
* truncated: `state.timestep >= max_timesteps`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import EnvState, Observation, PRNGKey, SuiteObject
from purejaxppo.envs.conformance import conform
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import choose_arguments, gap_of_clock, import_suite, quiet, raw_key, suite_code
from purejaxppo.envs.protocol import NEVER, Env, TimeStep
from purejaxppo.envs.rendering import Renderer, image_renderer
from purejaxppo.envs.spaces import Box, Discrete, box


def ids() -> tuple[str, ...]:
    """Return every id of the suite."""
    return recorded_ids("craftax")


def make(name: str, **env_params: Any) -> Env:
    """Make Craftax or Craftax-Classic, symbolic or with pixels.

    A symbolic observation is a float32 vector in [0, 1], one of pixels a uint8 image. The vector begins with the map as
    one-hot tiles; `normalize_observations` leaves these as they are. The suite divides the counts that follow by 10 or
    more: without normalization, networks learn more slowly from the inventory than from the map. The first environment
    of pixels writes a cache of textures into the package's folder, which takes half a minute. `TimeStep.info` has the
    achievements of the episode at its last step, 100 for one that was reached.

    Args:
        name: id of the environment.
        env_params: fields of the suite's EnvParams, such as `max_timesteps`.

    Raises:
        MissingSuite: craftax is not installed, or its version does not work.
        ValueError: an unknown parameter (the nearest are named), or one of a wrong kind.
    """
    craftax = import_suite("craftax", "craftax.craftax_env")
    with suite_code(), jax.ensure_compile_time_eval():
        env = craftax.make_craftax_env_from_name(name, auto_reset=False)
        params = env.default_params
        fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
        params = params.replace(**choose_arguments(name, fields, env_params))
        env = conform(_adapt(env, params, pixels="Pixels" in name))
        return env._replace(resets="state_pool")  # a reset generates a world


def renderer(name: str, **env_params: object) -> Renderer:
    """Return how states are drawn: the textures of the suite."""
    folder = "craftax.craftax_classic" if "Classic" in name else "craftax.craftax"
    names = ("envs.craftax_state" if "Classic" in name else "craftax_state", "constants", "renderer")
    states, constants, drawing = (import_suite("craftax", f"{folder}.{module}") for module in names)
    draw = jax.jit(drawing.make_craftax_pixel_renderer(constants.BLOCK_PIXEL_SIZE_IMG))
    return image_renderer(states.EnvState, draw, 100)


def _adapt(env: SuiteObject, params: SuiteObject, pixels: bool) -> Env:
    """Return the Env of one of craftax's environments that do not reset themselves."""
    endless = params.replace(max_timesteps=NEVER)

    def observe(obs: jax.Array) -> jax.Array:
        return jnp.round(obs * 255).astype(jnp.uint8) if pixels else obs

    @quiet
    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        obs, state = env.reset(raw_key(key), params)
        return state, observe(obs)

    @quiet
    def step(key: PRNGKey, state: EnvState, action: jax.Array) -> tuple[EnvState, TimeStep]:
        obs, state, reward, _, info = env.step(raw_key(key), state, action, params)
        dead, late = env.is_terminal(state, endless), state.timestep >= params.max_timesteps
        obs = observe(obs)
        achieved = {name: x for name, x in info.items() if name.startswith("Achievements/")}  # percent, at the end
        return state, TimeStep(obs, reward, dead, late, obs, achieved)

    actions = Discrete(env.action_space(params).n)
    return Env(reset, step, _space(env, params, pixels), actions, truncation_gap=gap_of_clock(params.max_timesteps))


def _space(env: SuiteObject, params: SuiteObject, pixels: bool) -> Box:
    """Return the space of images, or of vectors that begin with a map of one-hot tiles."""
    seen = env.observation_space(params)
    if pixels:
        return box(0, 255, seen.shape, np.uint8, pixels=True)
    size_of_map = import_suite("craftax", type(env).__module__).get_flat_map_obs_shape()
    return box(seen.low, seen.high, seen.shape, codes=np.arange(seen.shape[0]) < size_of_map)
