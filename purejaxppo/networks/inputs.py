"""Split observations of any space into what a network reads: a vector, images and grids of symbols.

Observations reach the network as the environment returns them, in their own dtype, with leading axes [T, N]. The cast
to float32 happens here, inside the network, so that a rollout stores images in bytes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Mask, Observation
from purejaxppo.config.schema import NetworkConfig
from purejaxppo.envs.masks import action_mask
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, check_space

Array = jax.Array

MIN_IMAGE_SIDE = 3  # the smallest convolution is 3 x 3

MAX_SYMBOLS = 65_536  # of one channel; the bounds of a Box that declares none span more


class Views(NamedTuple):
    """What actor and critic read of an observation (or of its space); `critic is actor` if both read the same."""

    actor: Observation | Space
    critic: Observation | Space
    mask: Mask  # the "action_mask" entry; None if there is no mask


def views(x: Observation | Space) -> Views:
    """Split an observation, or its space, into the actor's view, the critic's view and the action mask.

    A dict of "actor" and "critic" is an asymmetric observation: each network reads its own entry (asymmetric
    actor-critic, Pinto et al. 2017, arXiv:1710.06542). Both read any other observation. "action_mask" may be an entry
    of the dict itself or of the actor's entry; neither network reads it as a feature.
    """
    mask, x = action_mask(x), _without_mask(x)
    if not isinstance(x, dict) or set(x) != {"actor", "critic"}:
        return Views(x, x, mask)
    return Views(_without_mask(x["actor"]), _without_mask(x["critic"]), mask)


def _without_mask(x: Observation | Space) -> Observation | Space:
    return {name: entry for name, entry in x.items() if name != "action_mask"} if isinstance(x, dict) else x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Symbols:
    """The codes of one integer Box; channel c holds codes 0, …, sizes[c] - 1."""

    codes: Array  # int32 [..., *positions, C]
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    convolve: bool = dataclasses.field(metadata={"static": True})  # positions are [H, W], to be convolved


class Inputs(NamedTuple):
    """An observation as arrays with leading axes [...]."""

    vector: Array | None  # float32 [..., D]; None if everything is an image or symbols
    images: tuple[Array, ...]  # float32 [..., H, W, C] each
    symbols: tuple[Symbols, ...] = ()  # to be embedded


def is_image(space: Space) -> bool:
    """Return whether a space is a Box [H, W] or [H, W, C] with room for the smallest convolution."""
    return isinstance(space, Box) and len(space.shape) in (2, 3) and min(space.shape[:2]) >= MIN_IMAGE_SIDE


def is_symbolic(space: Space) -> bool:
    """Return whether a space is a Box of integers that are all codes, such as objects and colors of a grid world."""
    return isinstance(space, Box) and np.issubdtype(space.dtype, np.integer) and bool(space.codes.all())


def symbol_bounds(space: Box) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the smallest code of each channel, int64 [C], and how many codes each channel has.

    The last axis is that of the channels; a Box [H, W] or [] has one channel.
    """
    low, high = (x.astype(np.int64) for x in (space.low, space.high))
    if len(space.shape) in (0, 2):
        low, high = low[..., None], high[..., None]
    channels = low.shape[-1]
    low, high = low.reshape(-1, channels).min(0), high.reshape(-1, channels).max(0)
    return low, tuple((high - low + 1).tolist())


def to_inputs(space: Space, obs: Observation, config: NetworkConfig) -> Inputs:
    """Convert an observation to network inputs.

    Discrete and MultiDiscrete leaves become one-hot codes, and so do symbols (a Box of integers declared as codes)
    unless `config.symbols` says otherwise. Pixels are divided by 255; other bool and integer arrays are cast. If
    `config.convolves`, images stay images; everything else is raveled and concatenated.

    Args:
        space: the space of the observation, without the action mask.
        obs: an element with leading axes [...].
        config: settings of the network.

    Raises:
        ValueError: codes arrive as floats.
    """
    leaves, structure = jax.tree.flatten(space)
    vectors: list[Array] = []
    images: list[Array] = []
    symbols: list[Symbols] = []
    for leaf, x in zip(leaves, structure.flatten_up_to(obs), strict=True):
        convolve = config.convolves and is_image(leaf)
        if isinstance(leaf, Discrete | MultiDiscrete):
            vectors += _one_hot_components(leaf, x)
        elif config.symbols == "embedding" and is_symbolic(leaf):
            symbols.append(Symbols(_codes(leaf, x), symbol_bounds(leaf)[1], convolve))
        elif convolve:
            images.append(_with_channels(_features(leaf, x, config), x.ndim - len(leaf.shape)))
        else:
            vectors.append(_ravel(_features(leaf, x, config), x.ndim - len(leaf.shape)))
    vector = None
    if vectors:
        vector = vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors, axis=-1)
    return Inputs(vector, tuple(images), tuple(symbols))


def _one_hot_components(space: Discrete | MultiDiscrete, x: Array) -> list[Array]:
    _check_integers(space, x)
    if isinstance(space, Discrete):
        return [jax.nn.one_hot(x, space.n, dtype=jnp.float32)]
    return [jax.nn.one_hot(x[..., i], n, dtype=jnp.float32) for i, n in enumerate(space.nvec)]


def _features(space: Box, x: Array, config: NetworkConfig) -> Array:
    """Convert an array of a Box to float32: one-hot codes [..., *positions, Σ sizes], or numbers [..., *shape]."""
    if config.symbols == "one_hot" and is_symbolic(space):
        codes, sizes = _codes(space, x), symbol_bounds(space)[1]
        channels = [jax.nn.one_hot(codes[..., c], n, dtype=jnp.float32) for c, n in enumerate(sizes)]
        return jnp.concatenate(channels, axis=-1)
    if space.pixels and jnp.issubdtype(x.dtype, jnp.integer):  # normalized pixels are floats already
        return x.astype(jnp.float32) * (1.0 / 255.0)
    return x.astype(jnp.float32)


def _codes(space: Box, x: Array) -> Array:
    """Return codes from 0, int32 [..., *positions, C]; a number out of bounds counts as the nearest code."""
    _check_integers(space, x)
    low, sizes = symbol_bounds(space)
    x = x[..., None] if len(space.shape) in (0, 2) else x
    first, last = (jnp.asarray(bound, jnp.int32) for bound in (low, np.asarray(sizes) - 1))
    codes = x.astype(jnp.int32) - jnp.broadcast_to(first, x.shape)
    return jnp.clip(codes, jnp.int32(0), jnp.broadcast_to(last, x.shape))


def _with_channels(image: Array, lead: int) -> Array:
    """Add an axis of one channel to images [..., H, W], given the number of leading axes."""
    return image if image.ndim == lead + 3 else image[..., None]


def _ravel(x: Array, lead: int) -> Array:
    """[..., *shape] -> [..., D], given the number of leading axes."""
    return x if x.ndim == lead + 1 else x.reshape(*x.shape[:lead], math.prod(x.shape[lead:]))


def _check_integers(space: Space, x: Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"an observation of {space} must arrive as integers, not as {x.dtype}: was it normalized?")


def check_observation_space(space: Space, config: NetworkConfig) -> None:
    """Check that a network of `config` can read the observations of `space`.

    Raises:
        ValueError: says what does not fit.
    """
    seen = views(space)
    for name, view in (("actor", seen.actor), ("critic", seen.critic)):
        if not jax.tree.leaves(view):
            raise ValueError(f"the observation space {space} has nothing to read for the {name}")
        check_space(view, "the observation space")
    leaves = jax.tree.leaves((seen.actor, seen.critic))
    if config.convolves and not any(map(is_image, leaves)):
        key = "kind" if config.kind == "cnn" else "encoder"
        raise ValueError(f'{key} = "cnn" needs an image [H, W] or [H, W, C], at least 3 pixels a side, not {space}')
    if config.symbols == "embedding" and not any(map(is_symbolic, leaves)):
        raise ValueError(
            f'symbols = "embedding" needs a Box of integers with codes, such as box(low, high, shape, np.uint8, '
            f"codes=True), not {space}"
        )
    for leaf in leaves:
        if config.symbols != "scalar" and is_symbolic(leaf) and max(symbol_bounds(leaf)[1]) > MAX_SYMBOLS:
            raise ValueError(
                f"the codes of {leaf} need bounds, at most {MAX_SYMBOLS} codes per channel: declare the Box with its "
                'smallest and largest code, or set symbols = "scalar"'
            )
    if config.shared_torso and seen.critic is not seen.actor:
        raise ValueError("actor and critic read different observations: shared_torso must be false")
