"""Action masks: where an observation carries one, what of the action space it allows, and how to draw from that.

A mask is an array of bools or numbers, true (not 0) where an action is allowed: [n] for Discrete(n); for MultiDiscrete
the concatenated [Σ nᵢ], or a tuple of [nᵢ]; for a dict of spaces a dict with some of its keys; for a tuple of spaces a
tuple as long, with () for parts without a mask. The space of a mask has the same structure.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, sample_space

Array = jax.Array


def is_asymmetric(x: Any) -> bool:
    """Whether an observation (or the space of it) is {"actor": ..., "critic": ...}, with or without "action_mask"."""
    return isinstance(x, dict) and {"actor", "critic"} == set(x) - {"action_mask"}


def action_mask(x: Any) -> Any:
    """The "action_mask" of an observation (or of an observation space): its own or its "actor" entry's; None: none."""
    for entry in (x, x["actor"] if is_asymmetric(x) else None):
        if isinstance(entry, dict) and "action_mask" in entry:
            return entry["action_mask"]
    return None


def leaf_masks(space: Space, mask: Any) -> list[Any]:
    """The mask of every leaf of an action space, None where it has none; of mask spaces as of masks."""
    if mask is None:
        return [None] * len(jax.tree.leaves(space))
    if isinstance(space, dict):
        return [m for name in sorted(space) for m in leaf_masks(space[name], mask.get(name))]
    if isinstance(space, tuple):
        masks = [None if isinstance(m, tuple) and not m else m for m in mask]
        return [m for child, masked in zip(space, masks, strict=True) for m in leaf_masks(child, masked)]
    return [mask]


def component_masks(leaf: Discrete | MultiDiscrete, mask: Any) -> list[Array]:
    """The mask [..., nᵢ] of each categorical component of a leaf of an action space."""
    if isinstance(leaf, Discrete):
        return [mask]
    return list(mask) if isinstance(mask, tuple) else jnp.split(mask, np.cumsum(leaf.nvec).tolist()[:-1], axis=-1)


def has_action(space: Space, mask: Any) -> Array:
    """Whether a mask allows an action at all, [...]: a choice for every component of `space` that has a mask."""
    pairs = zip(jax.tree.leaves(space), leaf_masks(space, mask), strict=True)
    parts = [part for leaf, m in pairs if m is not None for part in component_masks(leaf, m)]
    return functools.reduce(jnp.logical_and, [part.astype(bool).any(-1) for part in parts], jnp.bool_(True))


def is_allowed(space: Space, mask: Any, action: Any) -> Array:
    """Whether a mask allows an action of `space`, [...]: its choice in every component that has a mask."""
    leaves, structure = jax.tree.flatten(space)
    parts = zip(leaves, leaf_masks(space, mask), structure.flatten_up_to(action), strict=True)
    allowed = [_chosen(leaf, m, choice) for leaf, m, choice in parts if m is not None]
    return functools.reduce(jnp.logical_and, allowed, jnp.bool_(True))


def _chosen(leaf: Discrete | MultiDiscrete, mask: Any, choice: Array) -> Array:
    """The entries of the mask that a choice, int [...] or [..., len(nvec)], points at: all of them true, [...]."""
    components = component_masks(leaf, mask)
    choices = [choice] if isinstance(leaf, Discrete) else [choice[..., i] for i in range(len(components))]
    pairs = zip(components, choices, strict=True)
    entries = [jnp.take_along_axis(m.astype(bool), i[..., None], axis=-1)[..., 0] for m, i in pairs]
    return functools.reduce(jnp.logical_and, entries)


def sample_allowed(space: Space, mask: Any, key: Array) -> Any:
    """A random element of an action space, uniform among those that one mask (no leading axes) allows.

    Where none is allowed the element is one of `space` all the same.
    """
    leaves, structure = jax.tree.flatten(space)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(map(_sample_leaf, leaves, leaf_masks(space, mask), keys))


def _sample_leaf(leaf: Any, mask: Any, key: Array) -> Array:
    if mask is None:
        return sample_space(leaf, key)
    masks = component_masks(leaf, mask)
    keys = jax.random.split(key, len(masks))
    logits = [jnp.where(m.astype(bool), 0.0, -1e9) for m in masks]
    draws = [jax.random.categorical(k, x).astype(jnp.int32) for k, x in zip(keys, logits, strict=True)]
    return draws[0] if isinstance(leaf, Discrete) else jnp.stack(draws)


def check_mask(space: Space, mask: Space) -> None:
    """Check that the space of a mask fits an action space.

    Raises:
        ValueError: says what does not fit.
    """
    what = f'the "action_mask" {mask} does not fit the action space {space}'
    if isinstance(space, dict):
        if not isinstance(mask, dict) or not set(mask) <= set(space):
            raise ValueError(f"{what}: it must be a dict with some of the keys {', '.join(map(str, sorted(space)))}")
        for name in mask:
            check_mask(space[name], mask[name])
    elif isinstance(space, tuple):
        if not isinstance(mask, tuple) or len(mask) != len(space):
            raise ValueError(f"{what}: it must be a tuple of {len(space)}, () for a part without a mask")
        for child, child_mask in zip(space, mask, strict=True):
            if child_mask != ():
                check_mask(child, child_mask)
    elif isinstance(space, Box):
        raise ValueError(f"{what}: continuous actions have no mask")
    else:
        sizes = (space.n,) if isinstance(space, Discrete) else tuple(space.nvec)
        found = tuple(_length(m) for m in (mask if isinstance(mask, tuple) else (mask,)))
        split_up = isinstance(mask, tuple) and isinstance(space, MultiDiscrete)
        if found != (sizes if split_up else (sum(sizes),)) or isinstance(mask, tuple) > split_up:
            raise ValueError(f"{what}: it must have the length {sum(sizes)}")


def _length(space: Any) -> int | None:
    """Length of a vector, None for anything else."""
    if isinstance(space, MultiDiscrete):
        return len(space.nvec)
    return space.shape[0] if isinstance(space, Box) and len(space.shape) == 1 else None
