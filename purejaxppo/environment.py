"""Environments: two pure functions and two facts; wrappers are functions Env -> Env.

Axes: T time, N environments. An `Env` is one environment and never resets itself; `auto_reset` turns it
into a `VecEnv`, N environments that do, and is the only place where that happens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejaxppo.masks import action_mask, check_mask, has_action, sample_allowed
from purejaxppo.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    Space,
    box,
    children,
    encode,
    encoded_space,
    is_compound,
    normalized_leaves,
    rebuild,
    sample_space,
    zero_of,
)

__all__ = [  # with the spaces: one import for whoever writes an environment
    "RESETS",
    "Box",
    "Discrete",
    "Env",
    "FrameStackState",
    "MultiDiscrete",
    "Space",
    "StepNoise",
    "StickyState",
    "TimeLimitState",
    "TimeStep",
    "VecEnv",
    "append_previous",
    "auto_reset",
    "box",
    "check_env",
    "clip_action",
    "conform",
    "encode",
    "encoded_space",
    "flatten_observation",
    "frame_stack",
    "loose",
    "map_action",
    "map_observation",
    "mask_observation",
    "normalized_leaves",
    "rescale_action",
    "sample_space",
    "step_avals",
    "sticky_actions",
    "time_limit",
    "zero_of",
]

# --- the protocol -----------------------------------------------------------------------------------------


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


# --- keeping to the protocol ------------------------------------------------------------------------------


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


# --- wrappers: Env -> Env ---------------------------------------------------------------------------------


def map_observation(env: Env, function: Callable[[Any], Any], space: Space) -> Env:
    """Observations go through `function`, which maps an element of the observation space into `space`."""

    def reset(key: jax.Array) -> tuple[Any, Any]:
        env_state, obs = env.reset(key)
        return env_state, function(obs)

    def step(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        env_state, timestep = env.step(key, env_state, action)
        obs = function(timestep.obs)
        return env_state, timestep._replace(obs=obs, final_obs=obs)

    return env._replace(reset=reset, step=step, observation_space=space)


def map_action(env: Env, function: Callable[[Any], Any], space: Space) -> Env:
    """Actions, elements of `space`, go through `function` before the environment sees them."""

    def step(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        return env.step(key, env_state, function(action))

    return env._replace(step=step, action_space=space)


def _has_mask(space: Space) -> bool:
    return isinstance(space, dict) and "action_mask" in space


def _is_image(space: Space) -> bool:
    return isinstance(space, Box) and len(space.shape) >= 2 and space.dtype in (np.uint8, np.bool_)


def _leaves(space: Space) -> list[Space]:
    if is_compound(space):
        return [leaf for _, child in children(space) for leaf in _leaves(child)]
    return [space]


def flatten_observation(env: Env, *, images: bool = False) -> Env:
    """Observations as one float32 vector [D]: integers one-hot, arrays raveled, dict entries by sorted key.

    An "action_mask" stays apart: the observation is then {"observation": [D], "action_mask": as it was}.
    A bool or uint8 image, alone or beside a mask, is left as it is unless `images` is true.

    Raises:
        ValueError: an image among other things in a dict or tuple, and `images` is false.
    """
    space = env.observation_space
    mask = space.get("action_mask") if isinstance(space, dict) else None
    main: Any = {k: v for k, v in space.items() if k != "action_mask"} if isinstance(space, dict) else space
    leaves = _leaves(main)
    if not images and len(leaves) == 1 and _is_image(leaves[0]):
        return env
    if not images and any(_is_image(leaf) for leaf in leaves):
        raise ValueError(
            f"the observation space {main} holds an image beside other things: say "
            "flatten_observation(env, images=True) to ravel it too, or choose one with map_observation"
        )
    if mask is None:
        return map_observation(env, partial(encode, main), encoded_space(main))

    def flatten(obs: Any) -> dict[str, Any]:
        return {"observation": encode(main, obs), "action_mask": obs["action_mask"]}

    return map_observation(env, flatten, {"observation": encoded_space(main), "action_mask": mask})


def clip_action(env: Env) -> Env:
    """Box actions are clipped at the environment's own bounds; the log-probability stays that of the unclipped."""

    def clip(space: Space, action: Any) -> Any:
        if isinstance(space, Box):
            return jnp.clip(action, jnp.asarray(space.low), jnp.asarray(space.high))
        if is_compound(space):
            return rebuild(space, [clip(child, action[i]) for i, child in children(space)])
        return action

    return map_action(env, partial(clip, env.action_space), env.action_space)


def rescale_action(env: Env, low: float = -1.0, high: float = 1.0) -> Env:
    """Actions in [low, high] are mapped linearly to the bounds of the environment's Box.

    Raises:
        ValueError: the action space is no Box, or has an infinite bound, or low >= high.
    """
    space = env.action_space
    if not isinstance(space, Box) or not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"rescale_action needs a Box action space with finite bounds, not {space}")
    if not low < high:
        raise ValueError(f"rescale_action needs low < high, not {low} and {high}")
    scale = (space.high - space.low) / np.asarray(high - low, space.dtype)
    start = space.low

    def rescale(action: Any) -> jax.Array:
        return jnp.asarray(start) + (action - low) * jnp.asarray(scale)

    return map_action(env, rescale, box(low, high, space.shape, space.dtype))


class TimeLimitState(NamedTuple):
    """State of `time_limit`."""

    env_state: Any
    time: jax.Array  # []  int32, steps taken in this episode


def time_limit(env: Env, num_steps: int) -> Env:
    """Episodes are truncated after `num_steps` steps, besides whatever ends them anyway.

    Raises:
        ValueError: num_steps < 1.
    """
    if num_steps < 1:
        raise ValueError(f"a time limit must be at least 1, not {num_steps}")

    def reset(key: jax.Array) -> tuple[TimeLimitState, Any]:
        env_state, obs = env.reset(key)
        return TimeLimitState(env_state, jnp.zeros((), jnp.int32)), obs

    def step(key: jax.Array, state: TimeLimitState, action: Any) -> tuple[TimeLimitState, TimeStep]:
        env_state, timestep = env.step(key, state.env_state, action)
        time = state.time + 1
        truncated = timestep.truncated | (time >= num_steps)
        return TimeLimitState(env_state, time), timestep._replace(truncated=truncated)

    return env._replace(reset=reset, step=step)


# --- wrappers for tasks that need memory ------------------------------------------------------------------


def _main_box(env: Env, wrapper: str, max_rank: int | None = None) -> Box:
    """The Box that is the observation or its "observation" entry beside an action mask."""
    space = env.observation_space
    main = space.get("observation") if isinstance(space, dict) and _has_mask(space) else space
    if not isinstance(main, Box) or (max_rank is not None and len(main.shape) > max_rank):
        wanted = "a vector" if max_rank == 1 else "one array"
        raise ValueError(f"{wrapper} needs {wanted} as observation, not {main}: use flatten_observation before it")
    return main


def _with_main(env: Env, new: Box) -> Space:
    space = env.observation_space
    return {**space, "observation": new} if isinstance(space, dict) else new


def _get_main(obs: Any) -> Any:
    return obs["observation"] if isinstance(obs, dict) else obs


def _set_main(obs: Any, main: Any) -> Any:
    return {**obs, "observation": main} if isinstance(obs, dict) else main


def mask_observation(env: Env, keep_indices: Sequence[int]) -> Env:
    """Of a vector observation [D] only the entries `keep_indices`, in that order, are seen.

    Raises:
        ValueError: the observation is no vector, or an index is out of range, or comes twice, or there is none.
    """
    main = _main_box(env, "mask_observation", max_rank=1)
    size, keep = main.shape[0], [int(i) for i in keep_indices]
    if not keep or len(set(keep)) != len(keep) or not all(0 <= i < size for i in keep):
        raise ValueError(f"keep_indices must be distinct, at least one, and in 0 .. {size - 1}, not {keep}")
    index = np.asarray(keep)
    space = _with_main(env, Box(main.low[index], main.high[index]))
    return map_observation(env, lambda obs: _set_main(obs, _get_main(obs)[index]), space)


def append_previous(env: Env) -> Env:
    """Appends the previous action (one-hot where discrete) and reward to a vector observation.

    [D] becomes [D + size of the encoded action + 1], float32; zeros at the start of an episode.

    Raises:
        ValueError: the observation is no vector.
    """
    main = _main_box(env, "append_previous", max_rank=1)
    actions = encoded_space(env.action_space)
    reward = box(-np.inf, np.inf, (1,))
    parts = (encoded_space(main), actions, reward)
    # The start of an episode shows zeros, also where the bounds of the action do not hold them.
    low, high = (np.concatenate([getattr(p, b) for p in parts]) for b in ("low", "high"))
    size = main.shape[0]
    low[size:-1], high[size:-1] = np.minimum(low[size:-1], 0), np.maximum(high[size:-1], 0)

    def append(obs: Any, action: jax.Array, reward: jax.Array) -> Any:
        vector = _get_main(obs).astype(jnp.float32)
        return _set_main(obs, jnp.concatenate([vector, action, reward[None]]))

    def reset(key: jax.Array) -> tuple[Any, Any]:
        env_state, obs = env.reset(key)
        return env_state, append(obs, jnp.zeros(actions.shape, jnp.float32), jnp.zeros((), jnp.float32))

    def step(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        env_state, timestep = env.step(key, env_state, action)
        obs = append(timestep.obs, encode(env.action_space, action), timestep.reward)
        return env_state, timestep._replace(obs=obs, final_obs=obs)

    return env._replace(reset=reset, step=step, observation_space=_with_main(env, Box(low, high)))


class FrameStackState(NamedTuple):
    """State of `frame_stack`."""

    env_state: Any
    frames: jax.Array  # [..., n*C], the oldest first


def frame_stack(env: Env, num_frames: int) -> Env:
    """The last `num_frames` observations, concatenated along the last axis, the newest last.

    [D] becomes [n*D], [H, W, C] becomes [H, W, n*C]; an episode starts with n copies of its first observation.

    Raises:
        ValueError: num_frames < 1, or the observation is not one array of at least one axis.
    """
    main = _main_box(env, "frame_stack")
    if num_frames < 1 or not main.shape:
        raise ValueError(f"frame_stack needs num_frames >= 1 and an array observation, not {num_frames}, {main}")
    repeat = partial(np.concatenate, axis=-1)
    width = main.shape[-1]
    space = _with_main(env, Box(repeat([main.low] * num_frames), repeat([main.high] * num_frames)))

    def reset(key: jax.Array) -> tuple[FrameStackState, Any]:
        env_state, obs = env.reset(key)
        frames = jnp.concatenate([_get_main(obs)] * num_frames, axis=-1)
        return FrameStackState(env_state, frames), _set_main(obs, frames)

    def step(key: jax.Array, state: FrameStackState, action: Any) -> tuple[FrameStackState, TimeStep]:
        env_state, timestep = env.step(key, state.env_state, action)
        frames = jnp.concatenate([state.frames[..., width:], _get_main(timestep.obs)], axis=-1)
        obs = _set_main(timestep.obs, frames)
        return FrameStackState(env_state, frames), timestep._replace(obs=obs, final_obs=obs)

    return env._replace(reset=reset, step=step, observation_space=space)


class StickyState(NamedTuple):
    """State of `sticky_actions`."""

    env_state: Any
    action: Any  # the action carried out last
    started: jax.Array  # []  bool, false before the first step of an episode


def sticky_actions(env: Env, probability: float = 0.25) -> Env:
    """With this probability the environment carries out the action before instead of the one given.

    Never at the first step of an episode, which has no action before it.

    Raises:
        ValueError: probability outside of [0, 1).
    """
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"the probability of sticky actions must be in [0, 1), not {probability}")

    def reset(key: jax.Array) -> tuple[StickyState, Any]:
        env_state, obs = env.reset(key)
        return StickyState(env_state, zero_of(env.action_space), jnp.zeros((), bool)), obs

    def step(key: jax.Array, state: StickyState, action: Any) -> tuple[StickyState, TimeStep]:
        key_stick, key_env = jax.random.split(key)
        stick = state.started & jax.random.bernoulli(key_stick, probability)
        action = jax.tree.map(lambda old, new: jnp.where(stick, old, new), state.action, action)
        env_state, timestep = env.step(key_env, state.env_state, action)
        return StickyState(env_state, action, jnp.ones((), bool)), timestep

    return env._replace(reset=reset, step=step)
