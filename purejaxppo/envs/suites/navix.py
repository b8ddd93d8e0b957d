"""Adapter for NAVIX, MiniGrid in JAX.

* terminated: `timestep.is_termination()`, also if the clock runs out at the same step.
* truncated: `timestep.is_truncation()`: `timestep.t >= max_steps`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import EnvState, Observation, PRNGKey, SuiteObject
from purejaxppo._util.text import nearest
from purejaxppo.envs.conformance import conform
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import choose_arguments, gap_of_clock, import_suite, quiet, raw_key, suite_code
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.rendering import Renderer, image_renderer
from purejaxppo.envs.spaces import Box, Discrete, box

Symbols = tuple[int, int | tuple[int, ...], type[np.integer]]

# observation -> (lowest, highest, dtype) of its symbols; None: pixels. The suite marks "no color" with 255 and "outside
# of the room" with 100: both become the highest symbol.
OBSERVATIONS: dict[str, Symbols | None] = {
    "symbolic": (0, (10, 6, 3), np.uint8),  # object, color, state or direction
    "symbolic_first_person": (0, (10, 6, 3), np.uint8),
    "categorical": (-1, 11, np.int8),  # -1 is a wall of the room
    "categorical_first_person": (-1, 11, np.int8),
    "rgb": None,
    "rgb_first_person": None,
}


def ids() -> tuple[str, ...]:
    """Return every id of the suite."""
    return recorded_ids("navix")


def make(name: str, **env_params: Any) -> Env:
    """Make an environment of NAVIX.

    Args:
        name: id of the environment.
        env_params: `max_steps`; `observation`, the name of one of the suite's observation functions ("symbolic", the
            suite's default, a grid [H, W, 3] of symbols; "symbolic_first_person"; "categorical" [H, W] and
            "categorical_first_person"; "rgb" and "rgb_first_person", images); `penality_coeff`.

    Raises:
        MissingSuite: navix is not installed, or its version does not work.
        ValueError: an unknown parameter (the nearest are named), or one of a wrong kind.
    """
    navix = import_suite("navix")
    with suite_code(), jax.ensure_compile_time_eval():
        defaults = {"max_steps": navix.make(name).max_steps, "penality_coeff": 0.0, "observation": "symbolic"}
        chosen = choose_arguments(name, defaults, env_params)
        observation = chosen.pop("observation", "symbolic")
        if observation not in OBSERVATIONS:
            near = ", ".join(nearest(observation, OBSERVATIONS, 3))
            raise ValueError(f"{name}: unknown observation {observation!r} (nearest: {near})")
        env = navix.make(name, observation_fn=getattr(navix.observations, observation), **chosen)
        return conform(_adapt(env, observation))


def renderer(name: str, **env_params: object) -> Renderer:
    """Return how states are drawn: the whole grid."""
    navix = import_suite("navix")
    cache = import_suite("navix", "navix.rendering.cache").RenderingCache

    @jax.jit
    def draw(timestep: SuiteObject) -> jax.Array:
        state = timestep.state  # whose images of tiles are dropped, see `_adapt`
        return navix.observations.rgb(state.replace(cache=cache.init(state.grid)))

    return image_renderer(import_suite("navix", "navix.environments.environment").Timestep, draw, 200)


def _adapt(env: SuiteObject, observation: str) -> Env:
    """Return the Env of one of navix's environments."""
    symbols = OBSERVATIONS[observation]

    def observe(obs: jax.Array) -> jax.Array:
        if symbols is None:
            return obs
        low, high, dtype = symbols
        return jnp.clip(obs.astype(jnp.int32), low, jnp.asarray(high)).astype(dtype)

    def keep(timestep: SuiteObject) -> SuiteObject:
        """Drop what a step does not read, above all the images of all tiles, which only "rgb" reads."""
        state = timestep.state if symbols is None else timestep.state.replace(cache=None)
        return timestep.replace(state=state, observation=None, action=None, reward=None, step_type=None, info={})

    @quiet
    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        timestep = env.reset(raw_key(key))
        return keep(timestep), observe(timestep.observation)

    @quiet
    def step(key: PRNGKey, timestep: SuiteObject, action: jax.Array) -> tuple[EnvState, TimeStep]:
        timestep = env._step(timestep, action)  # `step` resets by itself
        terminated, truncated = timestep.is_termination(), timestep.is_truncation()
        obs = observe(timestep.observation)
        return keep(timestep), TimeStep(obs, timestep.reward, terminated, truncated, obs)

    actions = Discrete(len(env.action_set))
    return Env(reset, step, _space(env, symbols), actions, truncation_gap=gap_of_clock(env.max_steps))


def _space(env: SuiteObject, symbols: Symbols | None) -> Box:
    """Return the observation space."""
    shape = jax.eval_shape(env.reset, jax.random.PRNGKey(0)).observation.shape
    if symbols is None:
        return box(0, 255, shape, np.uint8, pixels=True)
    low, high, dtype = symbols
    return box(low, high, shape, dtype, codes=True)
