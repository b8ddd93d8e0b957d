"""Adapter for gymnax >= 1.0.1: the raw transition `step_env` with `is_truncated`, without the automatic reset.

| clock | |
|---|---|
| terminated | the flag that `step_env` returns |
| truncated | `is_truncated`: `state.time >= max_steps_in_episode`; both flags can be true |
"""

import ast
import dataclasses
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purejaxppo._util.aliases import Action, EnvState, Observation, PRNGKey, PyTree, Shapes, SuiteObject
from purejaxppo.envs.conformance import allow_promotion, conform
from purejaxppo.envs.errors import EnvironmentUnavailable, missing_suite
from purejaxppo.envs.families import parametrized
from purejaxppo.envs.packages import gap_of_clock
from purejaxppo.envs.parameters import INT32_MAX, check_values, replace_params
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.randomization import Interval, is_interval, randomized, read_interval
from purejaxppo.envs.rendering import Renderer, image_renderer
from purejaxppo.envs.spaces import Box, Discrete, Space, box

MAX_SIZE = 1000  # largest size or count; a grid of this size fits into memory

RANGES = {
    "max_steps_in_episode": (1, INT32_MAX),
    "memory_length": (1, INT32_MAX - 1),
    "chain_length": (1, INT32_MAX - 1),
    "ramp_interval": (1, INT32_MAX),
    "reward_prob": (0, 1),
    "fail_prob": (0, 1),
    "success_rate": (0, 1),
    "mapping_seed": (0, INT32_MAX),
    **dict.fromkeys(("n_distractor", "num_urchins", "paddle_half_height"), (0, MAX_SIZE)),
    **dict.fromkeys(("rows", "columns", "size", "width", "height", "maze_size", "rf_size"), (1, MAX_SIZE)),
    **dict.fromkeys(("num_bits", "n_actions", "num_actions", "num_joints"), (1, MAX_SIZE)),
}


# Ids -----------------------------------------------------------------------------------------------------------------


def ids() -> tuple[str, ...]:
    """Return every registered id, without importing gymnax."""
    if "gymnax" not in sys.modules:
        # Importing gymnax takes over two seconds: too long for a listing or for the error about a misspelt id.
        spec = importlib.util.find_spec("gymnax")
        folders = spec.submodule_search_locations if spec else None
        for folder in folders or ():
            found = _read_ids(Path(folder) / "registration.py")
            if found:
                return found
    return tuple(_import().registered_envs)


def _read_ids(source: Path) -> tuple[str, ...]:
    """Return the literal list of built-in ids in gymnax's registration module; empty if there is no such list."""
    if not source.is_file():
        return ()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_BUILTIN_ENV_IDS":
            return tuple(ast.literal_eval(node.value))
    return ()


def _import() -> SuiteObject:
    """Import gymnax.

    Raises:
        MissingSuite: it cannot be imported.
    """
    try:
        with allow_promotion():
            import gymnax
    except ImportError as error:
        raise missing_suite("gymnax", error) from error
    return gymnax


# Environments --------------------------------------------------------------------------------------------------------


def make(name: str, *, traced: Sequence[str] = (), **env_params: Any) -> Env:
    """Make a gymnax environment.

    Observations keep their dtype; a Discrete one becomes one-hot and a scalar one [1]. The grids of MinAtar are bool,
    as in the original and inside gymnax: a rollout of them takes a quarter of the memory.

    Args:
        name: its id.
        traced: names of fields of its parameters that become `env.params`, which `set_env_params` changes during
            training. A field that decides a space or a shape cannot be traced.
        env_params: fields of its parameters, or arguments of its constructor. A field that could be traced may be an
            interval {"low": 5.0, "high": 15.0, "scale": "log"}, from which every episode draws a value.

    Raises:
        ValueError: a parameter is unknown (the nearest are named), of a wrong type, out of range, or not to be
            traced or drawn.
        EnvironmentUnavailable: its data cannot be loaded (MNISTBandit downloads them).
    """
    gymnax = _import()
    tables = {k: v for k, v in env_params.items() if is_interval(v)}
    env_params = {k: v for k, v in env_params.items() if k not in tables}
    try:
        with allow_promotion():
            env, params = gymnax.make(name)
            arguments = {k: p.default for k, p in inspect.signature(type(env)).parameters.items()}
            given = {k: v for k, v in env_params.items() if k in arguments}
            if given:
                env, params = gymnax.make(name, **check_values(name, arguments, given, RANGES))
    except (OSError, EOFError) as error:
        raise EnvironmentUnavailable(
            f"{name} needs data that could not be loaded, probably because there is no network: {error}"
        ) from error
    except (KeyError, IndexError, TypeError, AssertionError) as error:
        raise ValueError(f"{name} cannot be made with {env_params}: {type(error).__name__} {error}") from error
    chosen = replace_params(name, params, env_params, tuple(arguments), RANGES)

    intervals = _intervals(name, chosen, tables, traced)

    def fixed(values: dict[str, jax.Array]) -> Env:
        adapted = adapt(env, dataclasses.replace(chosen, **values))
        if name == "MemoryChain-bsuite":
            adapted = adapted._replace(observation_space=_memory_space(adapted.observation_space))
        return _bool_grid(adapted) if name.endswith("-MinAtar") else adapted

    def family(values: dict[str, jax.Array]) -> Env:
        if not intervals:
            return fixed(values)
        try:
            return randomized(lambda drawn: fixed({**values, **drawn}), intervals)
        except ValueError as error:
            raise ValueError(f"{name} cannot draw {', '.join(intervals)}: {error}") from error

    if not traced:
        return family({})
    values = _traced_values(name, chosen, traced)
    try:
        return parametrized(family, values)
    except ValueError as error:
        raise ValueError(f"{name} cannot be made with traced = {list(traced)}: {error}") from error


def _traced_values(name: str, params: SuiteObject, traced: Sequence[str]) -> dict[str, jax.Array]:
    """Return fields of the parameters by name.

    Raises:
        ValueError: `traced` is no sequence, or a field is unknown, or no number.
    """
    if isinstance(traced, str):
        raise ValueError(f"{name}: traced must be a sequence of names, such as ({traced!r},), not {traced!r}")
    replace_params(name, params, dict.fromkeys(traced, jax.numpy.zeros(())))
    values = {field: getattr(params, field) for field in traced}
    for field, value in values.items():
        if not isinstance(value, int | float | jax.Array | np.ndarray):
            raise ValueError(f"{name}: traced = {field!r} must name a number, but it is {value!r}")
    return values


def _intervals(
    name: str, params: SuiteObject, tables: Mapping[str, Mapping[str, Any]], traced: Sequence[str]
) -> dict[str, Interval]:
    """Return the intervals of parameters that every episode draws.

    Raises:
        ValueError: no interval, or one whose ends the parameter cannot take.
    """
    found = {}
    for field, table in tables.items():
        low, high, scale = read_interval(f"{name}: {field}", table)
        if field in traced:
            raise ValueError(f"{name}: {field} is drawn by every episode and cannot be in traced = {list(traced)} too")
        ends = [getattr(replace_params(name, params, {field: end}, (), RANGES), field) for end in (low, high)]
        if not all(isinstance(end, int | float) for end in ends):
            raise ValueError(f"{name}: {field} cannot be drawn, because it is no number")
        found[field] = Interval(ends[0], ends[1], scale)
    return found


def adapt(env: SuiteObject, params: SuiteObject) -> Env:
    """Return the Env of a gymnax environment object and its parameters; it need not be registered."""
    # Spaces are static: they are evaluated immediately, even inside a jit or vmap.
    with allow_promotion(), jax.ensure_compile_time_eval():
        theirs, their_actions = env.observation_space(params), env.action_space(params)
        observation_space, action_space = _space(theirs), _space(their_actions)

    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        obs, state = env.reset_env(key, params)
        return state, _shift(theirs, obs, -1)

    def step(key: PRNGKey, state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        obs, state, reward, terminated, _ = env.step_env(key, state, _shift(their_actions, action, 1), params)
        obs = _shift(theirs, obs, -1)
        return state, TimeStep(obs, reward, terminated, env.is_truncated(state, params), obs)

    with allow_promotion():
        shapes = jax.eval_shape(reset, jax.random.key(0))[1]
    space = _correct(observation_space, shapes)
    return conform(Env(reset, step, space, action_space, truncation_gap=_truncation_gap(env, params)))


def _truncation_gap(env: SuiteObject, params: SuiteObject) -> int:
    """Return the steps to a truncation: the clock of the suite's own environments starts at 0; others may differ."""
    own = type(env).__module__.startswith("gymnax.")
    return gap_of_clock(getattr(params, "max_steps_in_episode", None)) if own else 1


def _bool_grid(env: Env) -> Env:
    """Return the same environment with its observations of zeros and ones as bool."""

    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        state, obs = env.reset(key)
        return state, obs > 0.5  # faster on a CPU than a cast, because obs was itself cast from bool

    def step(key: PRNGKey, state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        state, timestep = env.step(key, state, action)
        obs = timestep.obs > 0.5
        return state, timestep._replace(obs=obs, final_obs=obs)

    space = box(0, 1, jax.tree.leaves(env.observation_space)[0].shape, bool)
    return env._replace(reset=reset, step=step, observation_space=space)


def _memory_space(declared: Space) -> Space:
    """Return the space of [time left, query, bits]: gymnax declares [0, 2 * num_bits], but bits are -1, 0 or 1.

    The share of time left falls from 1 to -1 / memory_length, and the query is the index of a bit.
    """
    (size,) = jax.tree.leaves(declared)[0].shape
    high = np.ones(size)
    high[1] = max(1, size - 3)
    return box(np.full(size, -1.0), high, (size,))


# Pictures -------------------------------------------------------------------------------------------------------------


def renderer(name: str, **env_params: object) -> Renderer | None:
    """Return how states are drawn: classic control and the games of MinAtar.

    Args:
        name: id of the environment.
        env_params: parameters that it was made with.
    """
    from purejaxppo.envs import drawings

    draws = {
        "CartPole-v1": lambda s, p: drawings.cart_pole(s.x, s.theta),
        "Pendulum-v1": lambda s, p: drawings.pendulum(s.theta),
        "Acrobot-v1": lambda s, p: drawings.acrobot(s.joint_angle1, s.joint_angle2),
        "MountainCar-v0": lambda s, p: drawings.mountain_car(s.position, p.goal_position),
        "MountainCarContinuous-v0": lambda s, p: drawings.mountain_car(s.position, p.goal_position),
    }
    if name not in draws and not name.endswith("-MinAtar"):
        return None
    gymnax = _import()
    with allow_promotion():
        env, params = gymnax.make(name)
        params = dataclasses.replace(params, **{k: v for k, v in env_params.items() if hasattr(params, k)})
        key = jax.eval_shape(lambda: jax.random.key(0))
        kind = type(jax.eval_shape(lambda key: env.reset_env(key, params)[1], key))
        observe = jax.jit(lambda state: env.get_obs(state, params))
    if name in draws:
        return image_renderer(kind, lambda state: draws[name](state, params))
    return image_renderer(kind, lambda state: drawings.grid(np.asarray(observe(state))), 100)


# Spaces --------------------------------------------------------------------------------------------------------------


def _children(space: SuiteObject) -> list[tuple[str | int, SuiteObject]]:
    """Return the pairs (index, child) of a compound space of gymnax."""
    return list(space.spaces.items() if isinstance(space.spaces, dict) else enumerate(space.spaces))


def _space(space: SuiteObject) -> Space:
    """Return the space of this package for one of gymnax."""
    if hasattr(space, "spaces"):
        converted: PyTree = {i: _space(child) for i, child in _children(space)}
        return converted if isinstance(space.spaces, dict) else tuple(converted.values())
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    return box(space.low, space.high, space.shape, space.dtype)


def _shift(space: SuiteObject, x: PyTree, sign: int) -> PyTree:
    """Move elements of Discrete spaces that begin at `start` to 0 (sign -1) or back (sign 1)."""
    if hasattr(space, "spaces"):
        shifted = {i: _shift(child, x[i], sign) for i, child in _children(space)}
        return shifted if isinstance(space.spaces, dict) else tuple(shifted.values())
    start = int(getattr(space, "start", 0))
    return x + sign * start if hasattr(space, "n") and start else x


def _correct(space: Space, shapes: Shapes) -> Space:
    """Return an observation space with the shapes that observations have; some that gymnax declares are wrong."""
    if isinstance(space, dict) and isinstance(shapes, dict):
        return {name: _correct(child, shapes[name]) for name, child in space.items()}
    if isinstance(space, tuple) and isinstance(shapes, tuple):
        return tuple(_correct(child, x) for child, x in zip(space, shapes, strict=True))
    if not isinstance(space, Box) or space.shape in (shapes.shape, ()):
        return space
    return box(-np.inf, np.inf, shapes.shape, space.dtype)
