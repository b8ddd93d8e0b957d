"""Adapter for Jumanji.

* terminated: the last step of the environment without its clock, which it reports as termination.
* truncated: after `time_limit` steps, by a clock of this adapter with the suite's default. SearchAndRescue keeps the
  suite's clock, on which its rewards depend.

A team of agents is one agent with a joint action; its reward is the sum over the agents.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import EnvState, Observation, PRNGKey, PyTree, Shapes, SuiteObject
from purejaxppo.envs.conformance import conform
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import arguments_of, choose_arguments, import_suite, quiet, raw_key, suite_code
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.rendering import Renderer
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, box
from purejaxppo.envs.wrappers.episodes import time_limit

NEVER = 2**31 - 1

# Integer arrays of the suite whose values are symbols; the other integers are quantities.
SYMBOLS = ("board", "colors", "cube", "grid", "node_types", "puzzle")
MAX_SYMBOLS = 64

# Resets that take longer than many steps: they generate a maze or a packing.
EXPENSIVE = ("BinPack-v2", "Cleaner-v0", "FlatPack-v0", "Maze-v0")

# Counters of steps, which become the share of the largest count.
COUNTERS = ("step", "step_count")


def ids() -> tuple[str, ...]:
    """Return every id of the suite."""
    return recorded_ids("jumanji")


def make(name: str, **env_params: Any) -> Env:
    """Make an environment of Jumanji.

    Observations are dicts of arrays. A state in which every action is masked, such as a trapped snake, allows all. A
    mask over pairs or tuples of choices makes the action one choice among all of them, `Discrete(product)`.

    Args:
        name: id of the environment.
        env_params: arguments of the environment's class, such as `time_limit`; generators and reward functions of the
            suite from Python.

    Raises:
        MissingSuite: jumanji is not installed, or its version does not work.
        EnvironmentUnavailable: its levels cannot be downloaded (Sokoban).
        ValueError: an unknown parameter (the nearest are named), or one of a wrong kind.
    """
    jumanji = import_suite("jumanji")
    with suite_code(), jax.ensure_compile_time_eval():
        registered = jumanji.registration._REGISTRY[name]
        arguments = arguments_of(jumanji.registration.load(registered.entry_point)) | registered.kwargs
        chosen = choose_arguments(name, arguments, env_params)
        try:
            env = jumanji.make(name, **chosen)
        except OSError as error:
            raise EnvironmentUnavailable(f"{name} needs levels that could not be downloaded: {error}") from error
        limit = getattr(env, "time_limit", None)
        own_clock = limit is None or hasattr(env, "searcher_params")
        if not own_clock:
            env.time_limit = NEVER
        adapted = conform(_adapt(env, limit))._replace(resets="state_pool" if name in EXPENSIVE else "every_step")
        return adapted if limit is None or own_clock else time_limit(adapted, int(limit))


def renderer(name: str, **env_params: object) -> Renderer:
    """Return how states are drawn: the animation of the suite's viewer."""
    jumanji = import_suite("jumanji")
    with suite_code():
        env = jumanji.make(name, **env_params)
        state = jax.eval_shape(lambda: env.reset(jax.random.PRNGKey(0))[0])

    def save(states: Sequence[SuiteObject], path: Path) -> None:
        logging.getLogger("matplotlib.animation").setLevel(logging.ERROR)  # it tells that it uses Pillow
        with suite_code():
            env.animate([jax.tree.map(jnp.asarray, state) for state in states], 200, str(path))

    return Renderer(type(state), save)


def _adapt(env: SuiteObject, limit: int | None) -> Env:
    """Return the Env of one of jumanji's environments, whose clock is `limit` steps."""
    spec = env.observation_spec
    first = jax.eval_shape(env.reset, jax.random.PRNGKey(0))[1].observation
    counts = {k: float(limit or _largest(getattr(spec, k))) for k in COUNTERS if k in _plain(first)}
    actions = _actions(env.action_spec, _plain(first).get("action_mask"))

    def observe(timestep: SuiteObject) -> Observation:
        obs = _plain(timestep.observation)
        obs |= {k: obs[k] / counts[k] for k in counts}
        if "action_mask" in obs:
            obs["action_mask"] = actions.mask(obs["action_mask"])
        return obs

    @quiet
    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        state, timestep = env.reset(raw_key(key))
        return state, observe(timestep)

    @quiet
    def step(key: PRNGKey, state: EnvState, action: jax.Array) -> tuple[EnvState, TimeStep]:
        state, timestep = env.step(state, actions.decode(action))
        last = timestep.last()
        dead = last & (timestep.discount == 0).all()
        if hasattr(env, "searcher_params"):
            dead &= state.targets.found.all()
        obs = observe(timestep)
        return state, TimeStep(obs, timestep.reward.sum(), dead, last & ~dead, obs)

    space = {k: _space(k, getattr(spec, k), v) for k, v in _plain(first).items()}
    if "action_mask" in space:
        mask = jax.eval_shape(actions.mask, _plain(first)["action_mask"])
        space["action_mask"] = box(0, 1, mask.shape, bool)
    return Env(reset, step, space, actions.space)


class Actions(NamedTuple):
    """Conversions between the actions and masks of this package and the suite's."""

    space: Space
    decode: Callable[[jax.Array], jax.Array]  # action of this package -> the suite's
    mask: Callable[[jax.Array], jax.Array]  # the suite's mask -> mask of this package, a vector


def _actions(spec: SuiteObject, mask: Shapes | None) -> Actions:
    """Choose the action space: joint if the mask says which combinations are allowed, else by components."""
    counts = _counts(spec)
    if counts is None:
        shape, dtype = spec.shape, spec.dtype
        low, high = (np.broadcast_to(x, shape).ravel() for x in (spec.minimum, spec.maximum))
        space = box(low, high, low.shape, dtype)
        return Actions(space, lambda action: action.reshape(shape), lambda mask: mask)
    sizes = tuple(int(n) for n in counts.ravel())
    if mask is not None and mask.ndim == 2 and mask.shape[0] == len(sizes):  # one row for each agent
        sizes = (mask.shape[1],) * len(sizes)
    if counts.ndim == 0:
        return Actions(Discrete(sizes[0]), lambda action: action.astype(spec.dtype), _some)
    if mask is not None and mask.shape == tuple(counts.ravel()):

        def decode(action: jax.Array) -> jax.Array:
            return jnp.stack(jnp.unravel_index(action, sizes)).reshape(spec.shape).astype(spec.dtype)

        return Actions(Discrete(int(np.prod(sizes))), decode, lambda mask: _some(mask.ravel()))
    return Actions(
        MultiDiscrete(sizes),
        lambda action: action.reshape(spec.shape).astype(spec.dtype),
        lambda mask: _some(mask).ravel(),
    )


def _some(mask: jax.Array) -> jax.Array:
    """Allow all choices in the rows of a mask that allow none."""
    return mask | ~mask.any(-1, keepdims=True)


def _counts(spec: SuiteObject) -> np.ndarray | None:
    """Return the numbers of choices of an action spec; None if it is continuous."""
    if hasattr(spec, "num_values"):
        return np.asarray(spec.num_values)
    if np.issubdtype(spec.dtype, np.integer):
        return np.broadcast_to(np.asarray(spec.maximum) + 1, spec.shape)
    return None


def _plain(x: SuiteObject) -> PyTree:
    """Return an observation, nested dataclasses and named tuples, as dicts of arrays."""
    if hasattr(x, "_asdict"):
        x = x._asdict()
    elif hasattr(x, "__dataclass_fields__"):
        x = vars(x)
    return {k: _plain(v) for k, v in x.items()} if isinstance(x, dict) else x


def _largest(spec: SuiteObject) -> SuiteObject:
    return getattr(spec, "num_values", None) or spec.maximum


def _space(name: str, spec: SuiteObject, x: Shapes) -> Space:
    """Return the space of an entry; `x` has its shape and dtype."""
    if isinstance(x, dict):
        return {k: _space(k, getattr(spec, k), v) for k, v in x.items()}
    if name in COUNTERS:
        return box(0, 1, ())
    if x.dtype == np.bool_:
        return box(0, 1, x.shape, bool)
    if np.ndim(getattr(spec, "num_values", ())) == 0 and x.shape == ():
        return Discrete(int(spec.num_values))
    return _bounded(name, spec, x)


def _bounded(name: str, spec: SuiteObject, x: Shapes) -> Box:
    """Return the Box of an array with the bounds of its spec, if it has any."""
    low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
    if hasattr(spec, "num_values"):
        low, high = 0, np.asarray(spec.num_values) - 1
    space = box(low, high, x.shape, x.dtype)
    integers = np.issubdtype(x.dtype, np.integer)
    codes = name in SYMBOLS and integers and int((space.high.astype(int) - space.low).max()) < MAX_SYMBOLS
    return box(low, high, x.shape, x.dtype, codes=codes)
