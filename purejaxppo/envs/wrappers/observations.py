"""Wrappers that change observations."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.masks import is_asymmetric
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    Space,
    box,
    encode,
    encoded_space,
)


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


def on_views(function: Callable[..., Any], space: Space, *trees: Any) -> Any:
    """`function(space, *trees)` of what is read: of actor's and critic's entry each by itself, of masks never.

    Trees are observations, or spaces of them, of the structure of `space`; the masks of the first stay where they were.
    """
    if not is_asymmetric(space):
        return _beside_mask(function, space, *trees)
    entries: Any = space
    seen = {name: _beside_mask(function, entries[name], *(x[name] for x in trees)) for name in ("actor", "critic")}
    return {**trees[0], **seen}


def _beside_mask(function: Callable[..., Any], space: Space, *trees: Any) -> Any:
    """`function(space, *trees)` without the "action_mask" of each; that of the first tree is put beside the result."""
    if not (isinstance(space, dict) and "action_mask" in space):
        return function(space, *trees)
    seen = function(*({k: v for k, v in x.items() if k != "action_mask"} for x in (space, *trees)))
    return {**(seen if isinstance(seen, dict) else {"observation": seen}), "action_mask": trees[0]["action_mask"]}


def _is_image(space: Space) -> bool:
    return isinstance(space, Box) and len(space.shape) >= 2 and space.dtype in (np.uint8, np.bool_)


def _is_vector(space: Space) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1


def flatten_observation(env: Env, *, images: bool = False) -> Env:
    """Observations as one float32 vector [D]: integers one-hot, arrays raveled, dict entries by sorted key.

    An "action_mask" stays apart: the observation is then {"observation": [D], "action_mask": as it was}. Of
    {"actor": ..., "critic": ...} each entry is flattened by itself.
    A bool or uint8 image, alone or beside a mask, is left as it is unless `images` is true.

    Raises:
        ValueError: an image among other things in a dict or tuple, and `images` is false.
    """

    def stays(main: Space) -> bool:
        leaves = jax.tree.leaves(main)
        return not images and len(leaves) == 1 and _is_image(leaves[0])

    def flat_space(main: Space, _: Space) -> Space:
        if stays(main):
            return main
        if not images and any(_is_image(leaf) for leaf in jax.tree.leaves(main)):
            raise ValueError(
                f"the observation space {main} holds an image beside other things: say "
                "flatten_observation(env, images=True) to ravel it too, or choose one with map_observation"
            )
        return encoded_space(main)

    space = env.observation_space
    new = on_views(flat_space, space, space)
    flatten = partial(on_views, lambda main, obs: obs if stays(main) else encode(main, obs), space)
    return env if new == space else map_observation(env, flatten, new)


def mask_observation(env: Env, keep_indices: Sequence[int]) -> Env:
    """Of a vector observation [D] only the entries `keep_indices`, in that order, are seen.

    The vector may be the entry "observation" of a dict; all else in the dict stays.

    Raises:
        ValueError: the observation is no vector, or an index is out of range, or comes twice, or there is none.
    """
    space = env.observation_space
    inside = isinstance(space, dict) and "observation" in space
    main: Any = space["observation"] if isinstance(space, dict) and inside else space
    if not _is_vector(main):
        raise ValueError(f"mask_observation needs a vector as observation, not {main}: {_to_a_vector(space)}")
    size, keep = main.shape[0], [int(i) for i in keep_indices]
    if not keep or len(set(keep)) != len(keep) or not all(0 <= i < size for i in keep):
        raise ValueError(f"keep_indices must be distinct, at least one, and in 0 .. {size - 1}, not {keep}")
    index = np.asarray(keep)

    def put(x: Any, kept: Any) -> Any:
        return {**x, "observation": kept} if inside else kept

    def choose(obs: Any) -> Any:
        return put(obs, (obs["observation"] if inside else obs)[index])

    return map_observation(
        env, choose, put(space, Box(main.low[index], main.high[index], main.pixels, main.codes[index]))
    )


def _to_a_vector(space: Space) -> str:
    """What makes a vector of such an observation, if anything does."""
    if is_asymmetric(space):
        return "use map_observation to choose what the actor sees"
    images = any(_is_image(leaf) for leaf in jax.tree.leaves(space))
    return f"use flatten_observation{'(env, images=True)' if images else ''} before it"


def append_previous(env: Env) -> Env:
    """Shows the previous action (one-hot where discrete) and reward beside the observation; zeros at the start.

    A vector [D] becomes [D + size of the encoded action + 1], float32. Anything else becomes a dict of the entries it
    had (what is no dict is "observation") and "previous_action" and "previous_reward" [1], float32. Actor and critic of
    an asymmetric observation both get them.
    append_previous(sticky_actions(env)) shows the action given, sticky_actions(append_previous(env)) the one carried
    out.

    Raises:
        ValueError: an observation that is a dict has one of these entries already.
    """
    actions, reward = encoded_space(env.action_space), box(-np.inf, np.inf, (1,))
    # The start of an episode shows zeros, also where the bounds of the action do not hold them.
    actions = Box(np.minimum(actions.low, 0), np.maximum(actions.high, 0), codes=actions.codes)

    def append(parts: tuple[Any, Any], join: Callable, main: Space, x: Any) -> Any:
        if _is_vector(main):
            return join((x, *parts))
        if isinstance(main, dict) and set(main) == {"observation"} and _is_vector(main["observation"]):
            return {"observation": join((x["observation"], *parts))}
        extra = dict(zip(("previous_action", "previous_reward"), parts, strict=True))
        if isinstance(main, dict) and extra.keys() & main.keys():
            raise ValueError(f"the observation space {main} shows the previous action or reward already")
        return {**(x if isinstance(main, dict) else {"observation": x}), **extra}

    def join_spaces(spaces: tuple[Space, ...]) -> Box:
        return encoded_space(spaces)

    def join(arrays: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.concatenate([x.astype(jnp.float32) for x in arrays])

    def observe(obs: Any, action: jax.Array, reward: jax.Array) -> Any:
        return on_views(partial(append, (action, reward[None]), join), env.observation_space, obs)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        env_state, obs = env.reset(key)
        return env_state, observe(obs, jnp.zeros(actions.shape, jnp.float32), jnp.zeros((), jnp.float32))

    def step(key: jax.Array, env_state: Any, action: Any) -> tuple[Any, TimeStep]:
        env_state, timestep = env.step(key, env_state, action)
        obs = observe(timestep.obs, encode(env.action_space, action), timestep.reward)
        return env_state, timestep._replace(obs=obs, final_obs=obs)

    space = on_views(partial(append, (actions, reward), join_spaces), env.observation_space, env.observation_space)
    return env._replace(reset=reset, step=step, observation_space=space)


class FrameStackState(NamedTuple):
    """State of `frame_stack`."""

    env_state: Any
    frames: Any  # the stacked observation that was shown last; leaves [..., n*C], the oldest first


def frame_stack(env: Env, num_frames: int) -> Env:
    """The last `num_frames` observations, concatenated along the last axis, the newest last.

    [D] becomes [n*D], [H, W, C] becomes [H, W, n*C]; an image without channels, [H, W], becomes [H, W, n] and a scalar
    [n]. Of dicts and tuples every array is stacked by itself; an action mask is not, it stays that of the newest.
    An episode starts with n copies of its first observation.

    Raises:
        ValueError: num_frames < 1.
    """
    if num_frames < 1:
        raise ValueError(f"frame_stack needs num_frames >= 1, not {num_frames}")

    def stacked(main: Space, _: Space) -> Space:
        return jax.tree.map(partial(_stacked, num_frames), main)

    def start(main: Space, obs: Any) -> Any:
        return jax.tree.map(lambda x: jnp.concatenate([_as_frame(x)] * num_frames, axis=-1), obs)

    def push(main: Space, obs: Any, frames: Any) -> Any:
        def newest(x: jax.Array, old: jax.Array) -> jax.Array:
            frame = _as_frame(x)
            return jnp.concatenate([old[..., frame.shape[-1] :], frame], axis=-1)

        return jax.tree.map(newest, obs, frames)

    space = env.observation_space

    def reset(key: jax.Array) -> tuple[FrameStackState, Any]:
        env_state, obs = env.reset(key)
        frames = on_views(start, space, obs)
        return FrameStackState(env_state, frames), frames

    def step(key: jax.Array, state: FrameStackState, action: Any) -> tuple[FrameStackState, TimeStep]:
        env_state, timestep = env.step(key, state.env_state, action)
        frames = on_views(push, space, timestep.obs, state.frames)
        return FrameStackState(env_state, frames), timestep._replace(obs=frames, final_obs=frames)

    return env._replace(reset=reset, step=step, observation_space=on_views(stacked, space, space))


def _as_frame(x: Any) -> Any:
    """An array with an axis to stack along: [H, W] beside each other would be one wide image."""
    return x[..., None] if x.ndim in (0, 2) else x


def _stacked(num_frames: int, leaf: Box | Discrete | MultiDiscrete) -> Space:
    """The space of `num_frames` elements of a leaf of a space."""
    if isinstance(leaf, Box):
        bounds = (leaf.low, leaf.high, leaf.codes)
        low, high, codes = (np.concatenate([_as_frame(x)] * num_frames, axis=-1) for x in bounds)
        return Box(low, high, leaf.pixels, codes)
    return MultiDiscrete(((leaf.n,) if isinstance(leaf, Discrete) else leaf.nvec) * num_frames)
