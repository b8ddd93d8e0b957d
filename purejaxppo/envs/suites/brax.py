"""Adapter for Brax.

* terminated: `state.done > 0.5` of the unwrapped environment.
* truncated: after `time_limit` steps, a clock of this adapter; 1000 as in the suite's training wrapper.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import EnvState, Observation, PRNGKey, SuiteObject
from purejaxppo.envs.conformance import conform
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import arguments_of, choose_arguments, import_suite, quiet, raw_key, suite_code
from purejaxppo.envs.protocol import NEVER, Env, TimeStep
from purejaxppo.envs.rendering import Renderer
from purejaxppo.envs.spaces import box
from purejaxppo.envs.wrappers.episodes import time_limit

TIME_LIMIT = 1000


def ids() -> tuple[str, ...]:
    """Return every id of the suite."""
    return recorded_ids("brax")


def make(name: str, **env_params: Any) -> Env:
    """Make an environment of Brax.

    Args:
        name: id of the environment.
        env_params: arguments of the environment's class, such as `backend` ("generalized", "spring", "positional" or
            "mjx"), `n_frames` and the weights of its rewards; `time_limit`, steps until an episode is truncated.

    Raises:
        EnvironmentUnavailable: brax cannot make it with this version of JAX.
        MissingSuite: brax is not installed, or its version does not work.
        ValueError: an unknown parameter (the nearest are named), one of a wrong kind, or an unknown backend.
    """
    brax = import_suite("brax", "brax.envs")
    with suite_code(), jax.ensure_compile_time_eval():
        defaults = {"n_frames": None, **arguments_of(brax._envs[name]), "time_limit": TIME_LIMIT}
        chosen = choose_arguments(name, defaults, env_params)
        limit = chosen.pop("time_limit", TIME_LIMIT)
        suite = brax.get_environment(name, **chosen)
        try:
            env = conform(_adapt(suite))
        except TypeError as error:  # the suite calls a function of JAX with arguments that JAX has removed
            raise EnvironmentUnavailable(f"brax cannot make {name} with jax {jax.__version__}: {error}") from error
        return time_limit(env._replace(resets="every_step"), limit)


def renderer(name: str, **env_params: object) -> Renderer:
    """Return how states are drawn: a page of HTML, whose viewer the browser loads from the network."""
    envs, html = import_suite("brax", "brax.envs"), import_suite("brax", "brax.io.html")

    def save(states: Sequence[SuiteObject], path: Path) -> None:
        with suite_code():
            arguments = {k: v for k, v in env_params.items() if k != "time_limit"}
            env = envs.get_environment(name, **arguments)
            system = env.sys.tree_replace({"opt.timestep": env.dt})
            page = html.render(system, [jax.tree.map(jnp.asarray, state.pipeline_state) for state in states])
        path.write_text(page, encoding="utf-8")

    return Renderer(envs.State, save, ".html")


def _adapt(env: SuiteObject) -> Env:
    """Return the Env of an unwrapped environment of brax."""

    @quiet
    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        state = env.reset(raw_key(key))
        return state, state.obs

    @quiet
    def step(key: PRNGKey, state: EnvState, action: jax.Array) -> tuple[EnvState, TimeStep]:
        state = env.step(state, action)
        return state, TimeStep(state.obs, state.reward, state.done > 0.5, jnp.bool_(False), state.obs)

    seen = jax.eval_shape(env.reset, jax.random.PRNGKey(0)).obs
    space = jax.tree.map(lambda x: box(-np.inf, np.inf, x.shape), seen)
    return Env(reset, step, space, box(-1.0, 1.0, (env.action_size,)), truncation_gap=NEVER)
