"""Adapter for Gymnasium: environments that run on the host, stepped by an ordered callback from the XLA program.

* terminated: the suite's own flag; it wins if both are set.
* truncated: the suite's own flag, with `max_episode_steps` of the id.

The columns of the batch are one `gymnasium.vector` environment in the mode SAME_STEP. A program with a callback runs on
one device, is not mapped over seeds, and is not kept in JAX's persistent compile cache.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from purejaxppo._util.aliases import Action, Noise, Observation, PRNGKey, PyTree, Shapes, SuiteObject
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import arguments_of, choose_arguments, import_suite, suite_code
from purejaxppo.envs.protocol import TimeStep, VecEnv
from purejaxppo.envs.spaces import Box, Discrete, Leaf, MultiDiscrete, Space, box, children, rebuild

# Batches that are open at the same time, such as those of training and of evaluation. Opening another one closes the
# one that was not stepped for longest: an evaluation in so many batches closes that of training.
MAX_OPEN = 8

MODES = ("sync", "async")


def ids() -> tuple[str, ...]:
    """Return the recorded ids, and every registered id once gymnasium is imported."""
    registry = getattr(sys.modules.get("gymnasium"), "registry", {})
    return tuple(dict.fromkeys((*recorded_ids("gymnasium"), *registry)))


def make(name: str, **env_params: Any) -> VecEnv:
    """Make a batch of environments of Gymnasium.

    Discrete actions and observations count from 0. Continuous actions are clipped to their bounds. A resumed run
    starts new episodes: the state of an environment on the host is in no checkpoint.

    Args:
        name: id of the environment; also one that the user has registered.
        env_params: arguments of the environment's class, `max_episode_steps`, and `vectorization_mode`: "sync", or
            "async" for one process per environment.

    Raises:
        MissingSuite: gymnasium is not installed, or its version does not work.
        EnvironmentUnavailable: the environment needs a package that is not installed.
        ValueError: an unknown parameter (the nearest are named), one of a wrong kind, or a space without a counterpart.
    """
    gym = import_suite("gymnasium")
    with suite_code():
        registered = gym.spec(name)
        try:
            arguments = arguments_of(gym.envs.registration.load_env_creator(registered.entry_point), ("self",))
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            raise EnvironmentUnavailable(f"{name} needs a package that is not installed: {error}") from error
        ours = {"max_episode_steps": registered.max_episode_steps, "vectorization_mode": MODES[0]}
        chosen = choose_arguments(name, {**arguments, **registered.kwargs, **ours}, env_params)
        if chosen.setdefault("vectorization_mode", MODES[0]) not in MODES:
            raise ValueError(f'{name}: vectorization_mode must be "sync" or "async"')
        host = HostBatch(gym, name, chosen)
        try:
            spaces = host.spaces()
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            raise EnvironmentUnavailable(f"{name} needs a package that is not installed: {error}") from error
    return _batch(host, *spaces)


class HostBatch:
    """The vector environments on the host. A batch is known by its handle, which is drawn from the reset's key."""

    def __init__(self, gym: SuiteObject, name: str, arguments: dict[str, Any]) -> None:
        self.gym = gym
        self.name = name
        self.arguments = arguments
        self.open: OrderedDict[tuple[int, int], SuiteObject] = OrderedDict()  # (handle, num_envs) -> vector environment

    def spaces(self) -> tuple[SuiteObject, SuiteObject]:
        """Return the suite's observation and action space of one environment."""
        arguments = {k: v for k, v in self.arguments.items() if k != "vectorization_mode"}
        env = self.gym.make(self.name, **arguments)
        found = env.observation_space, env.action_space
        env.close()
        return found

    def batch(self, handle: int, num_envs: int) -> SuiteObject:
        """Return a batch; make and reset it if it does not exist, as in a resumed run."""
        key = handle, num_envs
        if key not in self.open:
            self.reset(handle, num_envs)
        self.open.move_to_end(key)
        return self.open[key]

    def reset(self, handle: int, num_envs: int) -> PyTree:
        """Reset a batch with its handle as the seed; return observations [N, ...]."""
        key = handle, num_envs
        if key not in self.open:
            options = {"autoreset_mode": self.gym.vector.AutoresetMode.SAME_STEP}
            if self.arguments["vectorization_mode"] == "async":
                options["context"] = "forkserver"  # a fork of this process, in which JAX has threads, may hang
            self.open[key] = self.gym.make_vec(self.name, num_envs, vector_kwargs=options, **self.arguments)
        while len(self.open) > MAX_OPEN:
            self.open.popitem(last=False)[1].close()
        return self.open[key].reset(seed=handle)[0]

    def step(self, handle: int, action: Action) -> tuple[PyTree, ...]:
        """Step a batch; return obs, reward, terminated, truncated and the observations before any reset."""
        num_envs = len(jax.tree.leaves(action)[0])
        obs, reward, terminated, truncated, info = self.batch(handle, num_envs).step(action)
        final = obs
        ended = np.asarray(terminated) | np.asarray(truncated)
        if ended.any():
            final = jax.tree.map(np.copy, obs)
            for n in np.flatnonzero(ended):
                jax.tree.map(lambda rows, x, n=n: rows.__setitem__(n, x), final, info["final_obs"][n])
        return obs, reward, terminated, truncated, final


def _batch(host: HostBatch, gym_observation: SuiteObject, gym_action: SuiteObject) -> VecEnv:
    """Return the VecEnv that steps a batch on the host."""
    observations = _space(host.name, gym_observation)
    actions = _space(host.name, gym_action)

    def avals(num_envs: int) -> Shapes:
        return jax.tree.map(lambda leaf: _aval(leaf, num_envs), observations)

    def reset(key: PRNGKey, num_envs: int) -> tuple[jax.Array, Observation]:
        handle = (jax.random.bits(key) >> 1).astype(jnp.int32)

        def on_host(handle: np.ndarray) -> Observation:
            return _to_arrays(observations, gym_observation, host.reset(int(handle), num_envs))

        return handle, io_callback(on_host, avals(num_envs), handle, ordered=True)

    def noise(key: PRNGKey, num_steps: int, num_envs: int) -> jax.Array:
        return jnp.zeros((num_steps, 0))  # environments on the host draw their random numbers

    def step(noise: Noise, handle: jax.Array, action: Action) -> tuple[jax.Array, TimeStep]:
        num_envs = jax.tree.leaves(action)[0].shape[0]
        flag, number = (jax.ShapeDtypeStruct((num_envs,), dtype) for dtype in (bool, np.float32))

        def on_host(handle: np.ndarray, action: Action) -> tuple[PyTree, ...]:
            action = _to_actions(actions, gym_action, jax.tree.map(np.asarray, action))
            obs, reward, terminated, truncated, final = host.step(int(handle), action)
            obs, final = (_to_arrays(observations, gym_observation, x) for x in (obs, final))
            return obs, np.float32(reward), terminated, truncated & ~terminated, final

        shapes = (avals(num_envs), number, flag, flag, avals(num_envs))
        return handle, TimeStep(*io_callback(on_host, shapes, handle, action, ordered=True))

    return VecEnv(reset, noise, step, observations, actions, host.name)


def _space(name: str, space: SuiteObject) -> Space:
    """Return the space of this package for one of gymnasium's.

    Raises:
        ValueError: there is none, as for text and graphs.
    """
    kind = type(space).__name__
    if kind == "Dict":
        return {str(key): _space(name, child) for key, child in space.spaces.items()}
    if kind == "Tuple":
        return tuple(_space(name, child) for child in space.spaces)
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "MultiBinary":
        return MultiDiscrete((2,) * int(np.prod(space.shape)))
    if kind == "MultiDiscrete":
        return MultiDiscrete(tuple(int(n) for n in space.nvec.ravel()))
    if kind != "Box":
        raise ValueError(f"{name} has a space of the kind {kind}, which has no counterpart here")
    dtype = space.dtype if space.dtype in (np.uint8, np.bool_) else np.float32
    pixels = dtype == np.uint8 and len(space.shape) in (2, 3) and bool((space.high == 255).all())
    return box(space.low, space.high, space.shape or (1,), dtype, pixels=pixels)


class _Leaf(NamedTuple):
    """A leaf of a space and gymnasium's own."""

    ours: Leaf
    theirs: SuiteObject


def _pairs(space: Space, gym_space: SuiteObject) -> PyTree:
    """Return pairs of the leaves of both spaces, in the structure of ours."""
    if isinstance(space, Leaf):
        return _Leaf(space, gym_space)
    return rebuild(space, [_pairs(child, gym_space[i]) for i, child in children(space)])


def _aval(leaf: Leaf, num_envs: int) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, Box):
        return jax.ShapeDtypeStruct((num_envs, *leaf.shape), leaf.dtype)
    shape = (num_envs,) if isinstance(leaf, Discrete) else (num_envs, len(leaf.nvec))
    return jax.ShapeDtypeStruct(shape, np.int32)


def _to_arrays(space: Space, gym_space: SuiteObject, obs: PyTree) -> Observation:
    """Return observations [N, ...] of gymnasium as elements of our space."""

    def convert(pair: _Leaf, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if isinstance(pair.ours, Box):
            return x.reshape(len(x), *pair.ours.shape).astype(pair.ours.dtype)
        return (x - getattr(pair.theirs, "start", 0)).reshape(_aval(pair.ours, len(x)).shape).astype(np.int32)

    return _map(convert, _pairs(space, gym_space), obs)


def _to_actions(space: Space, gym_space: SuiteObject, action: Action) -> PyTree:
    """Return our actions [N, ...] as elements of gymnasium's space, clipped to its bounds."""

    def convert(pair: _Leaf, x: np.ndarray) -> np.ndarray:
        theirs = pair.theirs
        if isinstance(pair.ours, Box):
            return np.clip(x.reshape(len(x), *theirs.shape), theirs.low, theirs.high).astype(theirs.dtype)
        return (x.reshape(len(x), *theirs.shape) + getattr(theirs, "start", 0)).astype(theirs.dtype)

    return _map(convert, _pairs(space, gym_space), action)


def _map(function: Callable, pairs: PyTree, values: PyTree) -> PyTree:
    return jax.tree.map(function, pairs, values, is_leaf=lambda x: isinstance(x, _Leaf))
