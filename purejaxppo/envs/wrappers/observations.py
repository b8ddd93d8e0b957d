"""Wrappers that change observations.

Those that read an observation as a whole treat an action mask separately, and the entries of an asymmetric observation
{"actor": ..., "critic": ...} one by one. Sections: any function; selection and flattening; history.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Action, EnvState, Observation, PRNGKey, PyTree
from purejaxppo.envs.families import lift
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

FrameArray = TypeVar("FrameArray", jax.Array, np.ndarray)

# Any function --------------------------------------------------------------------------------------------------------


@lift
def map_observation(env: Env, function: Callable[[Observation], Observation], space: Space) -> Env:
    """Apply a function to observations.

    Args:
        env: the environment.
        function: maps an element of its observation space to an element of `space`.
        space: the new observation space.
    """

    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        env_state, obs = env.reset(key)
        return env_state, function(obs)

    def step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.step(key, env_state, action)
        obs = function(timestep.obs)
        return env_state, timestep._replace(obs=obs, final_obs=obs)

    return env._replace(reset=reset, step=step, observation_space=space)


def on_views(function: Callable[..., PyTree], space: Space, *trees: PyTree) -> PyTree:
    """Apply a function to an observation without its action mask, or separately to the actor's and critic's entry.

    Args:
        function: (space, *trees) -> tree.
        space: an observation space.
        trees: observations, or spaces, of the structure of `space`.

    Returns:
        The results in the places of their arguments, with the masks of the first tree.
    """
    if not is_asymmetric(space):
        return _without_mask(function, space, *trees)
    entries: PyTree = space
    seen = {name: _without_mask(function, entries[name], *(x[name] for x in trees)) for name in ("actor", "critic")}
    return {**trees[0], **seen}


def _without_mask(function: Callable[..., PyTree], space: Space, *trees: PyTree) -> PyTree:
    """Apply a function to trees without their "action_mask", and add the mask of the first tree to the result."""
    if not (isinstance(space, dict) and "action_mask" in space):
        return function(space, *trees)
    seen = function(*({k: v for k, v in x.items() if k != "action_mask"} for x in (space, *trees)))
    return {**(seen if isinstance(seen, dict) else {"observation": seen}), "action_mask": trees[0]["action_mask"]}


def _is_image(space: Space) -> bool:
    """Return whether a space is an image by its dtype and rank."""
    return isinstance(space, Box) and len(space.shape) >= 2 and space.dtype in (np.uint8, np.bool_)


def _is_vector(space: Space) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1


# Selection and flattening --------------------------------------------------------------------------------------------


@lift
def flatten_observation(env: Env, *, images: bool = False) -> Env:
    """Encode observations as one float32 vector [D]: integers one-hot, arrays raveled, dict entries by sorted key.

    An observation with an "action_mask" becomes {"observation": [D], "action_mask": unchanged}. The entries of
    {"actor": ..., "critic": ...} are flattened separately.

    Args:
        env: the environment.
        images: whether to ravel bool and uint8 images too. An image that is the whole observation (except for a mask)
            is otherwise left as it is.

    Raises:
        ValueError: an image is one of several entries, and `images` is false.
    """

    def stays(main: Space) -> bool:
        leaves = jax.tree.leaves(main)
        return not images and len(leaves) == 1 and _is_image(leaves[0])

    def flat_space(main: Space, _: Space) -> Space:
        if stays(main):
            return main
        if not images and any(_is_image(leaf) for leaf in jax.tree.leaves(main)):
            raise ValueError(
                f"the observation space {main} holds an image and other entries: write "
                "flatten_observation(env, images=True) to ravel it too, or choose an entry with map_observation"
            )
        return encoded_space(main)

    space = env.observation_space
    new = on_views(flat_space, space, space)
    flatten = partial(on_views, lambda main, obs: obs if stays(main) else encode(main, obs), space)
    return env if new == space else map_observation(env, flatten, new)


@lift
def mask_observation(env: Env, keep_indices: Sequence[int]) -> Env:
    """Hide all entries of a vector observation [D] but some.

    Args:
        env: the environment. The vector may be the entry "observation" of a dict, whose other entries stay.
        keep_indices: indices of the entries that are seen, in the new order.

    Raises:
        ValueError: the observation is not a vector, or the indices are empty, repeated or out of range.
    """
    space = env.observation_space
    inside = isinstance(space, dict) and "observation" in space
    main: PyTree = space["observation"] if isinstance(space, dict) and inside else space
    if not _is_vector(main):
        raise ValueError(f"mask_observation needs a vector as observation, not {main}: {_to_a_vector(space)}")
    size, keep = main.shape[0], [int(i) for i in keep_indices]
    if not keep or len(set(keep)) != len(keep) or not all(0 <= i < size for i in keep):
        raise ValueError(f"keep_indices must be distinct, at least one, and in 0 .. {size - 1}, not {keep}")
    index = np.asarray(keep)

    def put(x: PyTree, kept: PyTree) -> PyTree:
        return {**x, "observation": kept} if inside else kept

    def choose(obs: Observation) -> Observation:
        return put(obs, (obs["observation"] if inside else obs)[index])

    return map_observation(
        env, choose, put(space, Box(main.low[index], main.high[index], main.pixels, main.codes[index]))
    )


def _to_a_vector(space: Space) -> str:
    """Return advice on how to turn such an observation into a vector."""
    if is_asymmetric(space):
        return "use map_observation to choose what the actor sees"
    images = any(_is_image(leaf) for leaf in jax.tree.leaves(space))
    return f"use flatten_observation{'(env, images=True)' if images else ''} before it"


# History -------------------------------------------------------------------------------------------------------------


@lift
def append_previous(env: Env) -> Env:
    """Add the previous action, one-hot if it is discrete, and the previous reward to observations.

    Both are zero at the start of an episode. A vector [D] becomes a vector [D + size of the encoded action + 1],
    float32. Any other observation becomes a dict with the further entries "previous_action" and "previous_reward" [1],
    float32; an observation that is not a dict is its entry "observation". Actor and critic of an asymmetric observation
    both get them.

    append_previous(sticky_actions(env)) shows the action that the agent gave, sticky_actions(append_previous(env)) the
    one that was carried out.

    Raises:
        ValueError: an observation that is a dict has one of these entries already.
    """
    actions, reward = encoded_space(env.action_space), box(-np.inf, np.inf, (1,))
    # An episode starts with zeros, whether or not the bounds of the action allow them.
    actions = Box(np.minimum(actions.low, 0), np.maximum(actions.high, 0), codes=actions.codes)

    def append(previous: tuple[PyTree, PyTree], join: Callable, main: Space, x: PyTree) -> PyTree:
        if _is_vector(main):
            return join((x, *previous))
        if isinstance(main, dict) and set(main) == {"observation"} and _is_vector(main["observation"]):
            return {"observation": join((x["observation"], *previous))}
        extra = dict(zip(("previous_action", "previous_reward"), previous, strict=True))
        if isinstance(main, dict) and extra.keys() & main.keys():
            raise ValueError(f"the observation space {main} shows the previous action or reward already")
        return {**(x if isinstance(main, dict) else {"observation": x}), **extra}

    def join_spaces(spaces: tuple[Space, ...]) -> Box:
        return encoded_space(spaces)

    def join(arrays: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.concatenate([x.astype(jnp.float32) for x in arrays])

    def observe(obs: Observation, action: jax.Array, reward: jax.Array) -> Observation:
        return on_views(partial(append, (action, reward[None]), join), env.observation_space, obs)

    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        env_state, obs = env.reset(key)
        return env_state, observe(obs, jnp.zeros(actions.shape, jnp.float32), jnp.zeros((), jnp.float32))

    def step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.step(key, env_state, action)
        obs = observe(timestep.obs, encode(env.action_space, action), timestep.reward)
        return env_state, timestep._replace(obs=obs, final_obs=obs)

    space = on_views(partial(append, (actions, reward), join_spaces), env.observation_space, env.observation_space)
    return env._replace(reset=reset, step=step, observation_space=space)


class FrameStackState(NamedTuple):
    """State of `frame_stack`."""

    env_state: EnvState
    frames: Observation  # the last stacked observation; leaves [..., n * C], the oldest frame first


@lift
def frame_stack(env: Env, num_frames: int) -> Env:
    """Concatenate the last observations along the last axis, the newest last.

    With n frames, [D] becomes [n * D] and [H, W, C] becomes [H, W, n * C]; an image without channels, [H, W], becomes
    [H, W, n], and a scalar [n]. The arrays of dicts and tuples are stacked separately. An action mask is not stacked:
    it remains that of the newest observation. An episode starts with n copies of its first observation.

    Args:
        env: the environment.
        num_frames: number of observations n.

    Raises:
        ValueError: num_frames < 1.
    """
    if num_frames < 1:
        raise ValueError(f"frame_stack needs num_frames >= 1, not {num_frames}")

    def stacked(main: Space, _: Space) -> Space:
        return jax.tree.map(partial(_stacked, num_frames), main)

    def start(main: Space, obs: Observation) -> Observation:
        return jax.tree.map(lambda x: jnp.concatenate([_as_frame(x)] * num_frames, axis=-1), obs)

    def push(main: Space, obs: Observation, frames: Observation) -> Observation:
        def newest(x: jax.Array, old: jax.Array) -> jax.Array:
            frame = _as_frame(x)
            return jnp.concatenate([old[..., frame.shape[-1] :], frame], axis=-1)

        return jax.tree.map(newest, obs, frames)

    space = env.observation_space

    def reset(key: PRNGKey) -> tuple[FrameStackState, Observation]:
        env_state, obs = env.reset(key)
        frames = on_views(start, space, obs)
        return FrameStackState(env_state, frames), frames

    def step(key: PRNGKey, state: FrameStackState, action: Action) -> tuple[FrameStackState, TimeStep]:
        env_state, timestep = env.step(key, state.env_state, action)
        frames = on_views(push, space, timestep.obs, state.frames)
        return FrameStackState(env_state, frames), timestep._replace(obs=frames, final_obs=frames)

    return env._replace(reset=reset, step=step, observation_space=on_views(stacked, space, space))


def _as_frame(x: FrameArray) -> FrameArray:
    """Return an array with an axis to stack along; stacked along W, images [H, W] would be one wide image."""
    return x[..., None] if x.ndim in (0, 2) else x


def _stacked(num_frames: int, leaf: Box | Discrete | MultiDiscrete) -> Space:
    """Return the space of `num_frames` stacked elements of a leaf of a space."""
    if isinstance(leaf, Box):
        bounds = (leaf.low, leaf.high, leaf.codes)
        low, high, codes = (np.concatenate([_as_frame(x)] * num_frames, axis=-1) for x in bounds)
        return Box(low, high, leaf.pixels, codes)
    return MultiDiscrete(((leaf.n,) if isinstance(leaf, Discrete) else leaf.nvec) * num_frames)
