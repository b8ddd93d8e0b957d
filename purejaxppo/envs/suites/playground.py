"""Adapter for MuJoCo Playground.

* terminated: `state.done > 0.5`.
* truncated: after `episode_length` steps of the suite's config, by a clock of this adapter.
"""

import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import EnvState, Observation, PRNGKey, SuiteObject
from purejaxppo.envs.conformance import conform
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import choose_arguments, import_suite, quiet, raw_key, suite_code
from purejaxppo.envs.protocol import NEVER, Env, TimeStep
from purejaxppo.envs.spaces import box
from purejaxppo.envs.wrappers.episodes import time_limit

# The suite's asymmetric observations, in the names that networks know.
VIEWS = {"state": "actor", "privileged_state": "critic"}


def ids() -> tuple[str, ...]:
    """Return every id of the suite."""
    return recorded_ids("playground")


def make(name: str, **env_params: Any) -> Env:
    """Make an environment of MuJoCo Playground.

    An observation {"state", "privileged_state"} becomes {"actor", "critic"}.

    Args:
        name: id of the environment. Those of locomotion and manipulation download their robots at the first use.
        env_params: entries of the suite's config, nested as there, such as `episode_length`, `ctrl_dt` or `impl`: "jax"
            by default, instead of the suite's "warp".

    Raises:
        MissingSuite: playground is not installed, or its version does not work.
        EnvironmentUnavailable: the robots cannot be downloaded.
        ValueError: an unknown parameter (the nearest are named), or one of a wrong kind.
    """
    registry = import_suite("playground", "mujoco_playground._src.registry")
    with suite_code(), jax.ensure_compile_time_eval():
        config = registry.get_default_config(name)
        defaults = {**_flat(config.to_dict()), "impl": "jax"}
        chosen = {"impl": "jax", **choose_arguments(name, defaults, _flat(env_params))}
        try:
            env = registry.load(name, config_overrides=chosen)
        except (OSError, subprocess.SubprocessError) as error:
            raise EnvironmentUnavailable(f"{name} needs robots that could not be downloaded: {error}") from error
        # A reset of a robot of locomotion or manipulation computes many contacts. That of CheetahRun takes 200 steps.
        cheap = name in registry.dm_control_suite.ALL_ENVS and name != "CheetahRun"
        resets = "every_step" if cheap else "state_pool"
        env = conform(_adapt(env))._replace(resets=resets)
        return time_limit(env, chosen.get("episode_length", config.episode_length))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names, as the suite takes them."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _adapt(env: SuiteObject) -> Env:
    """Return the Env of an unwrapped environment of playground."""

    def observe(obs: Observation) -> Observation:
        asymmetric = isinstance(obs, Mapping) and set(obs) == set(VIEWS)
        return {VIEWS[k]: v for k, v in obs.items()} if asymmetric else obs

    @quiet
    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        state = env.reset(raw_key(key))
        return state, observe(state.obs)

    @quiet
    def step(key: PRNGKey, state: EnvState, action: jax.Array) -> tuple[EnvState, TimeStep]:
        state = env.step(state, action)
        obs = observe(state.obs)
        return state, TimeStep(obs, state.reward, state.done > 0.5, jnp.bool_(False), obs)

    seen = observe(jax.eval_shape(env.reset, jax.random.PRNGKey(0)).obs)
    space = jax.tree.map(lambda x: box(-np.inf, np.inf, x.shape), seen)
    return Env(reset, step, space, box(-1.0, 1.0, (env.action_size,)), truncation_gap=NEVER)
