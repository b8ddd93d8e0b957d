"""Environments: two pure functions and two facts.

Axes: T time, N environments. An `Env` is one environment and never resets itself; `auto_reset` turns it
into a `VecEnv`, N environments that do, and is the only place where that happens. Functions Env -> Env are
in `purejaxppo.wrappers`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejaxppo.envs.masks import action_mask, check_mask, has_action, sample_allowed
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    Space,
    box,
    children,
    encode,
    encoded_space,
    is_compound,
    rebuild,
    sample_space,
)


class TimeStep(NamedTuple):
    """What one step gives. There is no field called `done`: the two ways to end are not alike."""

    obs: Any  # what to act on next (after a reset, where one happened)
    reward: Any  # []  float32
    terminated: Any  # []  bool; the MDP ended: do not bootstrap, cut the trace
    truncated: Any  # []  bool; the clock ran out: bootstrap from final_obs, cut the trace
    final_obs: Any  # what the action led to, before any reset


class Env(NamedTuple):
    """One environment that never resets itself; its parameters are closed over.

    reset(key) -> (env_state, obs); step(key, env_state, action) -> (env_state, TimeStep) with
    `final_obs` the same as `obs`. Both flags of a TimeStep may be true.
    """

    reset: Callable[[jax.Array], tuple[Any, Any]]
    step: Callable[[jax.Array, Any, Any], tuple[Any, TimeStep]]
    observation_space: Space
    action_space: Space
    name: str = ""  # what messages call it; `make` sets it and wrappers keep it


class VecEnv(NamedTuple):
    """N environments that reset themselves; terminated and truncated exclude each other, terminated wins.

    reset(key, num_envs) -> (env_state, obs), leaves [N, ...];
    noise(key, num_steps, num_envs) -> everything random of T steps, leaves [T, N, ...], to be scanned over;
    step(noise at t, env_state, action [N, ...]) -> (env_state, TimeStep [N, ...]).
    """

    reset: Callable[[jax.Array, int], tuple[Any, Any]]
    noise: Callable[[jax.Array, int, int], Any]
    step: Callable[[Any, Any, Any], tuple[Any, TimeStep]]
    observation_space: Space
    action_space: Space


class StepNoise(NamedTuple):
    """What one step of a VecEnv draws from: made for a whole rollout at once, before the scan."""

    step_key: jax.Array  # [T, N]
    reset: Any  # "fresh", "pool": (env_state, obs) [T, N, ...]; "every_step": keys [T, N]


RESETS = ("fresh", "every_step", "pool")


def auto_reset(env: Env, resets: str = "fresh", *, pool_size: int = 256) -> VecEnv:
    """N copies of `env` that start a new episode where one ended; the one place where resets happen.

    After an end `obs` is the new episode's first observation and `final_obs` what the action led to.
    Where both flags are set `truncated` is cleared: a terminal state has no value to bootstrap from.
    How the first states of new episodes are made:

    * "fresh": an initial state for every step and environment, in one vectorised call before the scan.
      Exact; needs memory for T*N environment states.
    * "every_step": computed inside the step, used or not. Exact; no memory, but the reset is in the loop.
    * "pool": min(pool_size, T*N) initial states drawn anew for every call of `noise`, and taken from at
      random with replacement. For suites whose reset is dear. An approximation: each draw has the right
      distribution, but draws of one rollout are not independent (two episodes may begin alike). It saves
      the resets, not the memory.

    The first reset (`VecEnv.reset`) is exact in all three.

    Raises:
        ValueError: unknown `resets`, or `pool_size` < 1.
    """
    if resets not in RESETS:
        raise ValueError(f"resets must be one of {', '.join(map(repr, RESETS))}, not {resets!r}")
    if pool_size < 1:
        raise ValueError(f"pool_size must be at least 1, not {pool_size}")

    def reset(key: jax.Array, num_envs: int) -> tuple[Any, Any]:
        return jax.vmap(env.reset)(jax.random.split(key, num_envs))

    def noise(key: jax.Array, num_steps: int, num_envs: int) -> StepNoise:
        shape = (num_steps, num_envs)
        key_step, key_reset = jax.random.split(key)
        step_key = jax.random.split(key_step, shape)
        if resets == "pool":
            return StepNoise(step_key, _draw_from_pool(env, key_reset, shape, pool_size))
        reset_key = jax.random.split(key_reset, shape)
        if resets == "every_step":
            return StepNoise(step_key, reset_key)
        return StepNoise(step_key, jax.vmap(jax.vmap(env.reset))(reset_key))

    def step(noise: StepNoise, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        # Reset and step are mapped apart: some simulators cannot have both under one map.
        first = jax.vmap(env.reset)(noise.reset) if resets == "every_step" else noise.reset
        env_state, timestep = jax.vmap(env.step)(noise.step_key, env_state, action)
        return jax.vmap(_begin_anew)(first, env_state, timestep)

    return VecEnv(reset, noise, step, env.observation_space, env.action_space)


def _draw_from_pool(env: Env, key: jax.Array, shape: tuple[int, int], pool_size: int) -> tuple[Any, Any]:
    """(env_state, obs) [T, N, ...] taken at random from a pool of initial states."""
    size = min(pool_size, shape[0] * shape[1])
    key_pool, key_index = jax.random.split(key)
    pool = jax.vmap(env.reset)(jax.random.split(key_pool, size))
    index = jax.random.randint(key_index, shape, 0, size)
    return jax.tree.map(lambda x: x[index], pool)


def _begin_anew(first: tuple[Any, Any], env_state: Any, timestep: TimeStep) -> tuple[Any, TimeStep]:
    """One environment: put a new episode's state and observation where one ended."""
    done = timestep.terminated | timestep.truncated
    env_state, obs = jax.tree.map(partial(_choose, done), first, (env_state, timestep.obs))
    truncated = timestep.truncated & ~timestep.terminated
    return env_state, timestep._replace(obs=obs, truncated=truncated, final_obs=timestep.final_obs)


def _choose(done: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """x where done, else y; of typed keys too."""
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.where(done, x, y)
    # A choice between keys counts as a use of both with JAX's reuse check; one between their data does not.
    data = jnp.where(done, jax.random.key_data(x), jax.random.key_data(y))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))


def _key_aval() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def step_avals(env: Env) -> tuple[Any, Any, Any, TimeStep]:
    """(state, obs) of reset and (state, TimeStep) of a step as shapes and dtypes; nothing is computed."""
    key = _key_aval()
    state, obs = jax.eval_shape(env.reset, key)
    action = jax.eval_shape(partial(sample_space, env.action_space), key)
    next_state, timestep = jax.eval_shape(env.step, key, state, action)
    return state, obs, next_state, timestep


def _common_dtypes(kind: str, first: Any, later: Any) -> Any:
    """Leafwise dtype that holds what reset and what step gives; an error where the structures differ."""
    if jax.tree.structure(first) != jax.tree.structure(later):
        raise ValueError(
            f"reset and step give a different {kind}: {jax.tree.structure(first)} against {jax.tree.structure(later)}"
        )

    def common(a: Any, b: Any) -> Any:
        if a.shape != b.shape:
            raise ValueError(f"reset and step give a different {kind}: shape {a.shape} against {b.shape}")
        return a.dtype if a.dtype == b.dtype else jnp.promote_types(a.dtype, b.dtype)

    return jax.tree.map(common, first, later)


_FLOAT, _BOOL = np.dtype(np.float32), np.dtype(np.bool_)


def _cast(tree: Any, dtypes: Any) -> Any:
    """Cast leafwise; also takes away weak types, which would make a second compile."""

    def cast(x: Any, dtype: Any) -> jax.Array:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return x
        return jax.lax.convert_element_type(x, dtype)

    return jax.tree.map(cast, tree, dtypes)


@contextmanager
def loose() -> Iterator[None]:
    """Lifts JAX's strict promotion modes for somebody else's code, whatever our user has set."""

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _regular(space: Space, obs: Any) -> Any:
    """Discrete observations one-hot, scalars as [1], everything else as it is."""
    if is_compound(space):
        return rebuild(space, [_regular(child, obs[i]) for i, child in children(space)])
    return encode(space, obs) if isinstance(space, Discrete) else jnp.atleast_1d(obs)


def _true_space(space: Any, obs: Any) -> Space:
    """The space with the shape and dtype that regular observations really have."""
    if is_compound(space):
        return rebuild(space, [_true_space(child, obs[i]) for i, child in children(space)])
    if not isinstance(space, Box):
        return encoded_space(space) if isinstance(space, Discrete) else space
    low, high = (space.low, space.high) if space.shape in (obs.shape, ()) else (-np.inf, np.inf)
    return box(low, high, obs.shape, obs.dtype)


def conform(env: Env) -> Env:
    """Make a loosely written environment keep to the protocol; every adapter ends with this.

    Rewards become float32 scalars, flags bool scalars; states and observations get one dtype at reset and
    step, never a weak one, so that a state's type is a fixed point of `step`. A Discrete observation becomes
    one-hot, a scalar one [1], all else keeps its dtype; the observation space is made to say what the shapes
    and dtypes really are. JAX's strict promotion modes are lifted inside of the environment's own functions.

    Raises:
        ValueError: reset and step give states or observations of different structure or shape.
    """

    def reset_loose(key: jax.Array) -> tuple[Any, Any]:
        with loose():
            env_state, obs = env.reset(key)
            return jax.tree.map(jnp.asarray, (env_state, _regular(env.observation_space, obs)))

    def step_loose(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        with loose():
            env_state, timestep = env.step(key, env_state, action)
            obs = _regular(env.observation_space, timestep.obs)
            reward, terminated, truncated = (jnp.asarray(x).reshape(()) for x in timestep[1:4])
            return jax.tree.map(jnp.asarray, (env_state, TimeStep(obs, reward, terminated, truncated, obs)))

    with loose():
        state, obs, next_state, timestep = step_avals(env._replace(reset=reset_loose, step=step_loose))
        state_dtypes = _common_dtypes("state", state, next_state)
        obs_dtypes = _common_dtypes("observation", obs, timestep.obs)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        env_state, obs = reset_loose(key)
        return _cast(env_state, state_dtypes), _cast(obs, obs_dtypes)

    def step(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        env_state, timestep = step_loose(key, env_state, action)
        timestep = _cast(timestep, TimeStep(obs_dtypes, _FLOAT, _BOOL, _BOOL, obs_dtypes))
        return _cast(env_state, state_dtypes), timestep._replace(final_obs=timestep.obs)

    exact = env._replace(reset=reset, step=step)
    return exact._replace(observation_space=_true_space(env.observation_space, step_avals(exact)[1]))


def check_env(env: Env) -> None:
    """Check that an environment keeps to the protocol: by shapes, and one with an action mask by playing it a while.

    Raises:
        ValueError: names everything that is wrong, and `conform` where that would mend it; or a state was found in
            which every action is masked.
    """
    state, obs, next_state, timestep = step_avals(env)
    problems: list[str] = []

    def same(what: str, a: Any, b: Any) -> None:
        a, b = (jax.tree.map(lambda x: (x.shape, str(x.dtype), x.weak_type), t) for t in (a, b))
        if a != b:
            problems.append(f"{what}: {a} against {b}")

    same("the state after reset and after a step differ", state, next_state)
    same("the observation of reset and of a step differ", obs, timestep.obs)
    same("obs and final_obs of a step differ", timestep.obs, timestep.final_obs)
    if any(x.weak_type for x in jax.tree.leaves((state, obs))):
        problems.append("the state or the observation is weakly typed: a second compile after a reload")
    for name, dtype in (("reward", "float32"), ("terminated", "bool"), ("truncated", "bool")):
        leaf = getattr(timestep, name)
        if leaf.shape != () or leaf.dtype != dtype or leaf.weak_type:
            weak = "weakly typed " if leaf.weak_type else ""
            problems.append(f"{name} must be a {dtype} scalar, not {weak}{leaf.dtype} {leaf.shape}")
    expected = jax.eval_shape(partial(sample_space, env.observation_space), _key_aval())
    if jax.tree.map(lambda x: (x.shape, x.dtype), obs) != jax.tree.map(lambda x: (x.shape, x.dtype), expected):
        problems.append(f"the observation {obs} is not of the observation space {env.observation_space}")
    named = f"the environment {env.name}" if env.name else "the environment"
    if problems:
        raise ValueError(f"{named} does not keep to the protocol (conform(env) mends dtypes): {'; '.join(problems)}")
    if action_mask(env.observation_space) is not None:
        _check_masks(env, named)


def _check_masks(env: Env, named: str, num_steps: int = 128, num_envs: int = 16) -> None:
    """Play at random among the allowed actions and raise ValueError where a state allows none."""
    check_mask(env.action_space, action_mask(env.observation_space))
    vec, choose = auto_reset(env, "every_step"), jax.vmap(partial(sample_allowed, env.action_space))

    def step(loop: tuple, noise: tuple) -> tuple[tuple, tuple]:
        env_state, obs, age = loop
        mask = action_mask(obs)
        env_state, ts = vec.step(noise[0], env_state, choose(mask, noise[1]))
        stuck = jnp.broadcast_to(~has_action(env.action_space, mask), age.shape)
        return (env_state, ts.obs, jnp.where(ts.terminated | ts.truncated, 0, age + 1)), (stuck, age, mask)

    @jax.jit
    def play(key: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        reset_key, noise_key, action_key = jax.random.split(key, 3)
        noise = vec.noise(noise_key, num_steps, num_envs), jax.random.split(action_key, (num_steps, num_envs))
        start = (*vec.reset(reset_key, num_envs), jnp.zeros(num_envs, jnp.int32))
        return jax.lax.scan(step, start, noise)[1]

    stuck, age, mask = play(jax.random.key(0))
    if isinstance(stuck, Tracer) or not stuck.any():  # inside of a jit nothing is known yet
        return
    t, n = np.argwhere(np.asarray(stuck))[0]
    seen = jax.tree.map(lambda x: np.asarray(x)[t, n].astype(int).tolist(), mask)
    raise ValueError(
        f"{named} allows no action in {int(stuck.sum())} of {stuck.size} states of random play, first {age[t, n]} "
        f"steps into an episode with the action mask {seen}: a state without an allowed action must end the episode"
    )
