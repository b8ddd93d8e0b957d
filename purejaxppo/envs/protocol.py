"""The environment protocol: Env, VecEnv and TimeStep.

An `Env` is one environment that never resets itself. A `VecEnv` is a batch of N environments that reset themselves;
`auto_reset` makes one from an Env. Training takes either. Axes: T time, N environments.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from purejaxppo._util.aliases import Action, EnvState, Noise, Observation, PRNGKey, PyTree, Shapes
from purejaxppo.envs.spaces import Space, check_space, sample_space

NEVER = 2**31 - 1  # `truncation_gap` of an environment that is never truncated


class TimeStep(NamedTuple):
    """The result of one step; leaves have the leading axis [N] if they come from a VecEnv.

    There is no field `done`: the two ways in which an episode ends differ in the value of the next state.
    """

    obs: Observation  # the observation to act on next; after a reset, the first one of the new episode
    reward: jax.Array  # []  float32
    terminated: jax.Array  # []  bool; the MDP has ended: its last state has the value 0
    truncated: jax.Array  # []  bool; the episode was cut off, as by a time limit: bootstrap from the value of final_obs
    final_obs: Observation  # the observation that the action led to, before any reset
    # Further quantities of the running episode, such as achievements: a dict of float32 scalars, or () if there are
    # none. The values at the last step of an episode are those of the episode.
    info: dict[str, jax.Array] | tuple[()] = ()
    # []  bool; the environment returned NaN or infinity and was reset, so that training leaves the step out; see
    # `auto_reset`. () if nothing looks for such values.
    quarantined: jax.Array | tuple[()] = ()


class Env(NamedTuple):
    """One environment that never resets itself.

    `conform` makes one from functions that are less strict about dtypes, and `check_env` checks one.
    """

    # (key) -> (env_state, obs)
    reset: Callable[[PRNGKey], tuple[EnvState, Observation]]
    # (key, env_state, action) -> (env_state, TimeStep); final_obs equals obs, and both flags may be true.
    step: Callable[[PRNGKey, EnvState, Action], tuple[EnvState, TimeStep]]
    observation_space: Space
    action_space: Space
    name: str = ""  # used in messages; `make` sets it and wrappers keep it
    resets: str = ""  # the reset mode that `auto_reset` uses for resets="auto"; empty: "fresh"
    # Every truncated episode has at least this many steps; 1 promises nothing, NEVER says that none is truncated. A
    # promise saves memory: a rollout of large observations keeps the final ones of truncated steps only.
    truncation_gap: int = 1
    # Set by `parametrized`; without a family, all parameters are closed over.
    params: PyTree = ()  # default parameters of the family, arrays; those of one column
    family: Callable[[PyTree], "Env"] | None = None  # (params) -> Env; the functions above are those of `params`
    family_of: tuple[Callable, ...] = ()  # reset and step of the family's default, to see whether they were replaced
    per_column: bool = False  # a batch has separate parameters for each column, [N, ...]; see VecEnv


class VecEnv(NamedTuple):
    """A batch of N environments that reset themselves. The spaces are those of one environment.

    All randomness of a step is an argument, so that a rollout draws it at once, before its scan. A column of the batch
    is a separate environment, or one of several agents of an environment (`fold_agents`).
    """

    # (key, num_envs) -> (env_state, obs), leaves [N, ...]. Leaves of env_state may also be shared by all columns.
    reset: Callable[[PRNGKey, int], tuple[EnvState, Observation]]
    # (key, num_steps, num_envs) -> the random inputs of T steps, leaves [T, ...]
    noise: Callable[[PRNGKey, int, int], Noise]
    # (noise of one step, env_state, action [N, ...]) -> (env_state, TimeStep [N, ...]); where an episode has ended, obs
    # is the first of the next one. The flags exclude each other: if both would be true, terminated is.
    step: Callable[[Noise, EnvState, Action], tuple[EnvState, TimeStep]]
    observation_space: Space
    action_space: Space
    name: str = ""  # used in messages
    group_size: int = 1  # num_envs must be a multiple of this, such as the number of agents of a team
    quarantines: bool = False  # resets columns that return NaN or infinity, and marks their steps
    truncation_gap: int = 1  # least number of steps between two truncations of a column; see Env
    # Set by `parametrized`, by `auto_reset` of an Env that has parameters, and by `frozen_opponent`.
    params: PyTree = ()  # default parameters of the family, arrays; those of one column
    family: Callable[[PyTree], "VecEnv"] | None = None  # (params) -> VecEnv; leaves [N, ...] if `per_column`
    family_of: tuple[Callable, ...] = ()  # as of Env
    per_column: bool = False  # separate parameters for each column, [N, ...], or each group, [N / group_size, ...]


def check_is_env(env: Any) -> None:
    """Check that an object is an Env or a VecEnv whose spaces are spaces of this package.

    Raises:
        TypeError: it is something else; the message says what to write instead.
        ValueError: a space is not one of this package, `truncation_gap` is not a positive integer, or
            `reset` or `step` of an environment with parameters was replaced without `lift`.
    """
    if not isinstance(env, Env | VecEnv):
        raise TypeError(f"the environment must be an Env or a VecEnv of purejaxppo.envs, not {_advice(env)}")
    for name in ("reset", "step") if isinstance(env, Env) else ("reset", "noise", "step"):
        if not callable(getattr(env, name)):
            raise TypeError(f"{name} of {describe(env)} must be a function, not {getattr(env, name)!r}")
    for kind, space in (("observation", env.observation_space), ("action", env.action_space)):
        check_space(space, f"the {kind} space of {describe(env)}")
    if env.family is not None and env.family_of != (env.reset, env.step):
        raise ValueError(
            f"reset or step of {describe(env)} was replaced after `parametrized`, whose environments do not have the "
            "replacement: apply the wrapper inside make_env, or decorate it with purejaxppo.envs.lift"
        )
    gap = env.truncation_gap
    if isinstance(gap, bool) or not isinstance(gap, int) or not 1 <= gap <= NEVER:
        raise ValueError(
            f"truncation_gap of {describe(env)} must be an integer from 1 (nothing is promised) to {NEVER} (never "
            f"truncated), not {gap!r}"
        )


def describe(env: Env | VecEnv) -> str:
    """Return the name of an environment for messages."""
    return f"the environment {env.name}" if env.name else "the environment"


def _advice(x: Any) -> str:
    """Return what an object is, and what to write to get an Env instead."""
    if isinstance(x, str):
        return f'the string "{x}": write purejaxppo.make("{x}")'
    if isinstance(x, tuple) and type(x) is tuple and x and _package(x[0]) == "gymnax":
        return "the pair that gymnax.make returns: write purejaxppo.make with the same id"
    if _package(x) == "gymnax":
        name = getattr(x, "name", "") or type(x).__name__
        return (
            f'the gymnax environment {name}: write purejaxppo.make("{name}"), or envs.suites.gymnax.adapt(env, params)'
        )
    if _package(x) == "gymnasium":
        name = getattr(getattr(x, "spec", None), "id", "") or type(x).__name__
        return f'the gymnasium environment {name}: write purejaxppo.make("gymnasium/{name}")'
    package = _package(x)
    kind = type(x).__name__ if package in ("builtins", "purejaxppo") else f"{package} {type(x).__name__}"
    return (
        f"an object of type {kind}: write purejaxppo.make(id), or Env(reset, step, observation_space, action_space) "
        "with your own functions"
    )


def _package(x: Any) -> str:
    return type(x).__module__.partition(".")[0]


def key_aval() -> Shapes:
    """Return the shape and dtype of a typed key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def step_avals(env: Env, num_agents: int | None = None) -> tuple[Shapes, Shapes, Shapes, TimeStep]:
    """Trace an environment without computing anything.

    Args:
        env: the environment.
        num_agents: number of agents A of an environment for `fold_agents`, whose actions are [A, ...].

    Returns:
        (state, obs) of reset and (state, TimeStep) of a step, as shapes and dtypes.
    """
    key = key_aval()
    state, obs = jax.eval_shape(env.reset, key)
    action = jax.eval_shape(partial(sample_space, env.action_space), key)
    if num_agents is not None:
        action = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_agents, *x.shape), x.dtype), action)
    next_state, timestep = jax.eval_shape(env.step, key, state, action)
    return state, obs, next_state, timestep
