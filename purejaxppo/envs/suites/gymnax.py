"""Adapter for gymnax >= 1.0.1: the raw transition `step_env` with `is_truncated`, never its own auto-reset."""

import ast
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import jax

from purejaxppo.envs.conformance import allow_promotion, conform
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.parameters import replace_params
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.registry import missing_suite
from purejaxppo.envs.spaces import Discrete, Space, box


def ids() -> tuple[str, ...]:
    """Every registered id. Importing gymnax takes seconds, so the list is read from its source where it can be."""
    if "gymnax" not in sys.modules:
        spec = importlib.util.find_spec("gymnax")
        folders = spec.submodule_search_locations if spec else None
        for folder in folders or ():
            found = _read_ids(Path(folder) / "registration.py")
            if found:
                return found
    return tuple(_import().registered_envs)


def _read_ids(source: Path) -> tuple[str, ...]:
    """The literal list of built-in ids in gymnax's registration module; empty where there is none."""
    if not source.is_file():
        return ()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_BUILTIN_ENV_IDS":
            return tuple(ast.literal_eval(node.value))
    return ()


def _import() -> Any:
    try:
        with allow_promotion():
            import gymnax
    except ImportError as error:
        raise missing_suite("gymnax", error) from error
    return gymnax


def make(name: str, **env_params: Any) -> Env:
    """A gymnax environment; `env_params` are fields of its params or arguments of its constructor.

    Observations keep their own dtype; a Discrete observation becomes one-hot, a scalar one [1]. The grids of MinAtar
    are bool, as its authors have them and gymnax until its last line: a rollout of them is a quarter of the size.

    Raises:
        ValueError: an unknown parameter (the nearest are named), or one of a wrong type.
        EnvironmentUnavailable: its data cannot be loaded (MNISTBandit downloads them).
    """
    gymnax = _import()
    try:
        with allow_promotion():
            env, params = gymnax.make(name)
            arguments = [a for a in inspect.signature(type(env)).parameters if a in env_params]
            if arguments:
                env, params = gymnax.make(name, **{a: env_params[a] for a in arguments})
    except (OSError, EOFError) as error:
        raise EnvironmentUnavailable(
            f"{name} needs data that could not be loaded, probably for want of a network: {error}"
        ) from error
    adapted = adapt(env, replace_params(name, params, env_params, tuple(inspect.signature(type(env)).parameters)))
    return _bool_grid(adapted) if name.endswith("-MinAtar") else adapted


def adapt(env: Any, params: Any) -> Env:
    """An Env from a gymnax environment object and its params; for environments that are not registered, too."""
    # Spaces are facts, not data: they are worked out now, even where we are inside of a jit or vmap.
    with allow_promotion(), jax.ensure_compile_time_eval():
        observation_space = _space(env.observation_space(params))
        action_space = _space(env.action_space(params))

    def reset(key: jax.Array) -> tuple[Any, Any]:
        obs, state = env.reset_env(key, params)
        return state, obs

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return state, TimeStep(obs, reward, terminated, env.is_truncated(state, params), obs)

    return conform(Env(reset, step, observation_space, action_space))


def _bool_grid(env: Env) -> Env:
    """The same environment, its observations of zeros and ones as bool."""

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state, obs = env.reset(key)
        return state, obs > 0.5  # on a CPU faster than to cast what was cast from bool

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        state, timestep = env.step(key, state, action)
        obs = timestep.obs > 0.5
        return state, timestep._replace(obs=obs, final_obs=obs)

    space = box(0, 1, jax.tree.leaves(env.observation_space)[0].shape, bool)
    return env._replace(reset=reset, step=step, observation_space=space)


def _space(space: Any) -> Space:
    """Our space for one of gymnax's."""
    if hasattr(space, "spaces"):
        if isinstance(space.spaces, dict):
            return {k: _space(v) for k, v in space.spaces.items()}
        return tuple(_space(v) for v in space.spaces)
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    return box(space.low, space.high, space.shape, space.dtype)
