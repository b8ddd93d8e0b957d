"""Make an environment conform to the protocol, and check that it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.masks import action_mask, check_mask, has_action, sample_allowed
from purejaxppo.envs.protocol import Env, TimeStep, key_aval, step_avals
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
def allow_promotion() -> Iterator[None]:
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
    codes = space.codes if space.shape in (obs.shape, ()) else False
    return box(low, high, obs.shape, obs.dtype, pixels=space.pixels, codes=codes)


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
        with allow_promotion():
            env_state, obs = env.reset(key)
            return jax.tree.map(jnp.asarray, (env_state, _regular(env.observation_space, obs)))

    def step_loose(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        with allow_promotion():
            env_state, timestep = env.step(key, env_state, action)
            obs = _regular(env.observation_space, timestep.obs)
            reward, terminated, truncated = (jnp.asarray(x).reshape(()) for x in timestep[1:4])
            return jax.tree.map(jnp.asarray, (env_state, TimeStep(obs, reward, terminated, truncated, obs)))

    with allow_promotion():
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
    expected = jax.eval_shape(partial(sample_space, env.observation_space), key_aval())
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
