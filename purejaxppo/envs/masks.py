"""Action masks: where an observation carries one, what it allows, and how to draw allowed actions.

A mask is an array of bools or numbers, nonzero where an action is allowed:

* for Discrete(n), [n];
* for MultiDiscrete, the concatenated masks [Σ nᵢ] of its components, or a tuple of them, [nᵢ] each;
* for a dict of spaces, a dict with some of its keys;
* for a tuple of spaces, a tuple of the same length, with () for an entry without a mask.

The space of a mask has the same structure. Masks in a batch have leading axes [...].
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Action, Mask, Observation, PyTree
from purejaxppo.envs.spaces import Box, Discrete, Leaf, MultiDiscrete, Space, sample_space

Array = jax.Array


# Finding a mask ------------------------------------------------------------------------------------------------------


def is_asymmetric(x: Observation | Space) -> bool:
    """Return whether an observation or its space is {"actor": ..., "critic": ...}, with or without "action_mask"."""
    return isinstance(x, dict) and {"actor", "critic"} == set(x) - {"action_mask"}


def action_mask(x: Observation | Space) -> Mask:
    """Return the "action_mask" of an observation or of its space, or None.

    It is an entry of the observation, or of the entry "actor" of an asymmetric one.
    """
    whole: PyTree = x
    for entry in (whole, whole["actor"] if is_asymmetric(x) else None):
        if isinstance(entry, dict) and "action_mask" in entry:
            return entry["action_mask"]
    return None


def with_mask(x: Observation, mask: Mask) -> Observation:
    """Return an observation that has an "action_mask" with another one instead."""
    if "action_mask" in x:
        return {**x, "action_mask": mask}
    return {**x, "actor": {**x["actor"], "action_mask": mask}}


# Splitting a mask -----------------------------------------------------------------------------------------------------


def leaf_masks(space: Space, mask: Mask) -> list[Mask]:
    """Return the mask of each leaf of an action space, None for a leaf without one; also for spaces of masks."""
    if mask is None:
        return [None] * len(jax.tree.leaves(space))
    if isinstance(space, dict):
        return [m for name in sorted(space) for m in leaf_masks(space[name], mask.get(name))]
    if isinstance(space, tuple):
        masks = [None if isinstance(m, tuple) and not m else m for m in mask]
        return [m for child, masked in zip(space, masks, strict=True) for m in leaf_masks(child, masked)]
    return [mask]


def component_masks(leaf: Discrete | MultiDiscrete, mask: Mask) -> list[Array]:
    """Return the mask [..., nᵢ] of each categorical component of a leaf of an action space."""
    if isinstance(leaf, Discrete):
        return [mask]
    return list(mask) if isinstance(mask, tuple) else jnp.split(mask, np.cumsum(leaf.nvec).tolist()[:-1], axis=-1)


# Allowed actions ------------------------------------------------------------------------------------------------------


def has_action(space: Space, mask: Mask) -> Array:
    """Return whether a mask allows an action, [...]: a choice for each component of `space` that has a mask."""
    pairs = zip(jax.tree.leaves(space), leaf_masks(space, mask), strict=True)
    components = [component for leaf, m in pairs if m is not None for component in component_masks(leaf, m)]
    flags = [component.astype(bool).any(-1) for component in components]
    return functools.reduce(jnp.logical_and, flags, jnp.bool_(True))


def is_allowed(space: Space, mask: Mask, action: Action) -> Array:
    """Return whether a mask allows an action of `space`, [...]: its choice in each component that has a mask."""
    leaves, structure = jax.tree.flatten(space)
    triples = zip(leaves, leaf_masks(space, mask), structure.flatten_up_to(action), strict=True)
    allowed = [_is_choice_allowed(leaf, m, choice) for leaf, m, choice in triples if m is not None]
    return functools.reduce(jnp.logical_and, allowed, jnp.bool_(True))


def _is_choice_allowed(leaf: Discrete | MultiDiscrete, mask: Mask, choice: Array) -> Array:
    """Return whether all entries of a mask that a choice selects are true, [...].

    Args:
        leaf: a leaf of an action space.
        mask: its mask.
        choice: int [...] for Discrete, [..., len(nvec)] for MultiDiscrete.
    """
    components = component_masks(leaf, mask)
    choices = [choice] if isinstance(leaf, Discrete) else [choice[..., i] for i in range(len(components))]
    pairs = zip(components, choices, strict=True)
    entries = [jnp.take_along_axis(m.astype(bool), i[..., None], axis=-1)[..., 0] for m, i in pairs]
    return functools.reduce(jnp.logical_and, entries)


def allow_all_if_none(space: Space, mask: Mask) -> Mask:
    """Return a mask that allows every choice of a component of which it would allow none.

    Args:
        space: the action space.
        mask: its mask, without leading axes.
    """
    if isinstance(space, dict):
        return {name: allow_all_if_none(space[name], m) for name, m in mask.items()}
    if isinstance(space, tuple):
        pairs = zip(space, mask, strict=True)
        return tuple(m if isinstance(m, tuple) and not m else allow_all_if_none(child, m) for child, m in pairs)
    assert not isinstance(space, Box), "continuous actions have no mask"
    opened = [jnp.where(m.astype(bool).any(), m, jnp.ones_like(m)) for m in component_masks(space, mask)]
    if isinstance(mask, tuple):
        return tuple(opened)
    return opened[0] if isinstance(space, Discrete) else jnp.concatenate(opened)


# Sampling -------------------------------------------------------------------------------------------------------------


def sample_allowed(space: Space, mask: Mask, key: Array) -> Action:
    """Draw an element of an action space uniformly among those that a mask (without leading axes) allows.

    If it allows none, the result is still an element of `space`.
    """
    leaves, structure = jax.tree.flatten(space)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(map(_sample_leaf, leaves, leaf_masks(space, mask), keys))


def _sample_leaf(leaf: Leaf, mask: Mask, key: Array) -> Array:
    if mask is None:
        return sample_space(leaf, key)
    assert not isinstance(leaf, Box), "continuous actions have no mask"
    masks = component_masks(leaf, mask)
    keys = jax.random.split(key, len(masks))
    logits = [jnp.where(m.astype(bool), jnp.float32(0.0), jnp.float32(-1e9)) for m in masks]
    draws = [jax.random.categorical(k, x).astype(jnp.int32) for k, x in zip(keys, logits, strict=True)]
    return draws[0] if isinstance(leaf, Discrete) else jnp.stack(draws)


# Checking ------------------------------------------------------------------------------------------------------------


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
            raise ValueError(f"{what}: it must be a tuple of {len(space)}, with () for an entry without a mask")
        for child, child_mask in zip(space, mask, strict=True):
            if child_mask != ():
                check_mask(child, child_mask)
    elif isinstance(space, Box):
        raise ValueError(f"{what}: continuous actions have no mask")
    else:
        _check_leaf_mask(what, space, mask)


def _check_leaf_mask(what: str, space: Discrete | MultiDiscrete, mask: Space) -> None:
    sizes = (space.n,) if isinstance(space, Discrete) else space.nvec
    may_be_tuple = isinstance(space, MultiDiscrete)
    if isinstance(mask, tuple):
        fits = may_be_tuple and tuple(map(_length, mask)) == sizes
    else:
        fits = _length(mask) == sum(sizes)
    if not fits:
        raise ValueError(f"{what}: it must have the length {sum(sizes)}")


def _length(space: Any) -> int | None:
    """Return the length of a vector, None for any other space."""
    if isinstance(space, MultiDiscrete):
        return len(space.nvec)
    return space.shape[0] if isinstance(space, Box) and len(space.shape) == 1 else None
