"""Adapter for gymnax >= 1.0.1: the raw transition `step_env` with `is_truncated`, never its own auto-reset."""

import ast
import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.environment import Box, Discrete, Env, Space, TimeStep, box, conform, encode, encoded_space, loose
from purejaxppo.envs import EnvironmentUnavailable, missing_suite, nearest


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
        with loose():
            import gymnax
    except ImportError as error:
        raise missing_suite("gymnax", error) from error
    return gymnax


def make(name: str, **env_params: Any) -> Env:
    """A gymnax environment; `env_params` are fields of its params or arguments of its constructor.

    Observations keep their own dtype; a Discrete observation becomes one-hot, a scalar one [1].

    Raises:
        ValueError: an unknown parameter (the nearest are named), or one of a wrong type.
        EnvironmentUnavailable: its data cannot be loaded (MNISTBandit downloads them).
    """
    gymnax = _import()
    try:
        with loose():
            env, params = gymnax.make(name)
            arguments = [a for a in inspect.signature(type(env)).parameters if a in env_params]
            if arguments:
                env, params = gymnax.make(name, **{a: env_params[a] for a in arguments})
    except (OSError, EOFError) as error:
        raise EnvironmentUnavailable(
            f"{name} needs data that could not be loaded, probably for want of a network: {error}"
        ) from error
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    known = [*fields, *inspect.signature(type(env)).parameters]
    unknown = [f"{k!r} (nearest: {', '.join(nearest(k, known))})" for k in env_params if k not in known]
    if unknown:
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}")
    values = {k: _like(f"{name}: {k}", v, fields[k]) for k, v in env_params.items() if k in fields}
    return adapt(env, params.replace(**values))


def _like(what: str, value: Any, default: Any) -> Any:
    """The value as the kind of number that the default is."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(default, jax.Array | np.ndarray):
        return jnp.asarray(value, default.dtype)
    if isinstance(default, bool) != isinstance(value, bool) or not isinstance(value, bool | int | float):
        raise ValueError(f"{what} must be a {type(default).__name__} like {default!r}, not {value!r}")
    if isinstance(default, int) and value != int(value):
        raise ValueError(f"{what} must be an integer like {default!r}, not {value!r}")
    return type(default)(value)


def adapt(env: Any, params: Any) -> Env:
    """An Env from a gymnax environment object and its params; for environments that are not registered, too."""
    # Spaces are facts, not data: they are worked out now, even where we are inside of a jit or vmap.
    with loose(), jax.ensure_compile_time_eval():
        declared = _space(env.observation_space(params))
        actions = _space(env.action_space(params))

    def observe(obs: Any) -> Any:
        return _one_hot(declared, obs)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        obs, state = env.reset_env(key, params)
        return state, observe(obs)

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
        obs = observe(obs)
        return state, TimeStep(obs, reward, terminated, env.is_truncated(state, params), obs)

    raw = conform(Env(reset, step, declared, actions))
    _, obs = jax.eval_shape(raw.reset, jax.eval_shape(lambda: jax.random.key(0)))
    return raw._replace(observation_space=_true_space(declared, obs))


def _space(space: Any) -> Space:
    """Our space for one of gymnax's."""
    if hasattr(space, "spaces"):
        if isinstance(space.spaces, dict):
            return {k: _space(v) for k, v in space.spaces.items()}
        return tuple(_space(v) for v in space.spaces)
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    return box(space.low, space.high, space.shape, space.dtype)


def _one_hot(space: Space, obs: Any) -> Any:
    """Discrete observations one-hot, scalars as [1], everything else as it is."""
    if isinstance(space, dict):
        return {k: _one_hot(v, obs[k]) for k, v in space.items()}
    if isinstance(space, tuple):
        return tuple(_one_hot(v, obs[i]) for i, v in enumerate(space))
    return encode(space, obs) if isinstance(space, Discrete) else jnp.atleast_1d(obs)


def _true_space(space: Space, obs: Any) -> Space:
    """The declared space with the shape and dtype that the observation really has."""
    if isinstance(space, dict):
        return {k: _true_space(v, obs[k]) for k, v in space.items()}
    if isinstance(space, tuple):
        return tuple(_true_space(v, obs[i]) for i, v in enumerate(space))
    if isinstance(space, Discrete):
        return encoded_space(space)
    assert isinstance(space, Box)
    low, high = (space.low, space.high) if space.shape in (obs.shape, ()) else (-np.inf, np.inf)
    return box(low, high, obs.shape, obs.dtype)
