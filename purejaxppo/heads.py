"""From the numbers that a policy head gives to a distribution over any action space, masks included."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config import NetworkConfig
from purejaxppo.distributions import (
    MASKED_LOGIT,
    Categorical,
    DiagonalGaussian,
    Joint,
    MultiCategorical,
    TanhGaussian,
)
from purejaxppo.environment import Box, Discrete, MultiDiscrete, Space

Array = jax.Array
LOG_STD_RANGE = 5.0
UNBOUNDED = 1e30  # bounds near the largest float stand for "none"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shaped:
    """A distribution whose actions take the shapes of the environment: for a Box that is no vector.

    Log-probability, entropy and KL are those of `base`, whose actions are the same numbers as vectors.
    """

    base: Any
    shapes: tuple[tuple[int, ...] | None, ...] = dataclasses.field(metadata={"static": True})
    # of each leaf of the action; None: as `base` has it

    def _to_env(self, action: Any) -> Any:
        leaves, structure = jax.tree.flatten(action)
        pairs = zip(leaves, self.shapes, strict=True)
        return structure.unflatten([x if s is None else x.reshape(*x.shape[:-1], *s) for x, s in pairs])

    def _to_base(self, action: Any) -> Any:
        leaves, structure = jax.tree.flatten(action)
        pairs = zip(leaves, self.shapes, strict=True)
        return structure.unflatten([x if s is None else _raveled(x, len(s)) for x, s in pairs])

    def noise(self, key: Array, shape: tuple[int, ...] = ()) -> Any:
        """The noise of `base`."""
        return self.base.noise(key, shape)

    def sample_from(self, noise: Any) -> Any:
        """The action of `base`, shaped."""
        return self._to_env(self.base.sample_from(noise))

    def sample(self, key: Array) -> Any:
        """A random action."""
        return self.sample_from(self.noise(key))

    def mode(self) -> Any:
        """The greedy action."""
        return self._to_env(self.base.mode())

    def log_prob(self, action: Any) -> Array:
        """log π(a) [...]."""
        return self.base.log_prob(self._to_base(action))

    def entropy(self) -> Array:
        """H(π) [...] (12)."""
        return self.base.entropy()

    def kl(self, new: Shaped) -> Array:
        """KL(self ‖ new) [...]."""
        return self.base.kl(new.base)


def _raveled(x: Array, rank: int) -> Array:
    """[..., *shape] -> [..., D] where `rank` is the number of axes of the shape."""
    lead = x.shape[: x.ndim - rank]
    return x.reshape(*lead, math.prod(x.shape[len(lead) :]))


def num_logits(space: Space) -> int:
    """How many numbers of the policy head are logits."""
    sizes = {Discrete: lambda s: s.n, MultiDiscrete: lambda s: sum(s.nvec), Box: lambda s: 0}
    return sum(sizes[type(leaf)](leaf) for leaf in jax.tree.leaves(space))


def num_means(space: Space) -> int:
    """How many components of an action are continuous."""
    return sum(leaf.low.size for leaf in jax.tree.leaves(space) if isinstance(leaf, Box))


def policy(space: Space, config: NetworkConfig, outputs: Array, log_std: Array | None, mask: Any = None) -> Any:
    """The distribution over `space` that the numbers of the policy head stand for.

    outputs [..., D]: logits and means, part by part in the order of the space's leaves; log_std [..., A], None where
    nothing is continuous; mask: as `check_action_space` says. A dict or tuple of spaces gives a Joint of its structure.
    """
    leaves, structure = jax.tree.flatten(space)
    parts, shapes, start, std_start = [], [], 0, 0
    for leaf, leaf_mask in zip(leaves, _leaf_masks(space, mask), strict=True):
        end, std_end = start + num_logits(leaf) + num_means(leaf), std_start + num_means(leaf)
        log_stds = None if log_std is None else _slice(log_std, std_start, std_end)
        parts.append(_leaf_policy(leaf, config, _slice(outputs, start, end), log_stds, leaf_mask))
        start, std_start = end, std_end
        shapes.append(leaf.shape if isinstance(leaf, Box) and len(leaf.shape) != 1 else None)
    distribution = parts[0] if jax.tree_util.treedef_is_leaf(structure) else Joint(structure.unflatten(parts))
    return Shaped(distribution, tuple(shapes)) if any(shape is not None for shape in shapes) else distribution


def _slice(x: Array, start: int, end: int) -> Array:
    return x if (start, end) == (0, x.shape[-1]) else x[..., start:end]


def _leaf_policy(space: Any, config: NetworkConfig, numbers: Array, log_std: Any, mask: Any) -> Any:
    if isinstance(space, Discrete):
        return Categorical(_masked(numbers, mask))
    if isinstance(space, MultiDiscrete):
        ends = np.cumsum(space.nvec).tolist()[:-1]
        logits = jnp.split(numbers, ends, axis=-1)
        if mask is None:
            return MultiCategorical(tuple(logits))
        masks = mask if isinstance(mask, tuple) else jnp.split(mask, ends, axis=-1)
        return MultiCategorical(tuple(_masked(x, m) for x, m in zip(logits, masks, strict=True)))
    if config.action_distribution == "gaussian":
        return DiagonalGaussian(numbers, log_std)
    low, high = (jnp.asarray(bound.ravel(), jnp.float32) for bound in (space.low, space.high))
    return TanhGaussian(numbers, log_std, *(jnp.broadcast_to(bound, numbers.shape) for bound in (low, high)))


def _masked(logits: Array, mask: Array | None) -> Array:
    """Logits with those of forbidden actions replaced, which also stops their gradient."""
    return logits if mask is None else jnp.where(mask.astype(bool), logits, MASKED_LOGIT)


def _leaf_masks(space: Any, mask: Any) -> list[Any]:
    """The mask of every leaf of an action space, None where it has none; of mask spaces as of masks."""
    if mask is None:
        return [None] * len(jax.tree.leaves(space))
    if isinstance(space, dict):
        return [m for name in sorted(space) for m in _leaf_masks(space[name], mask.get(name))]
    if isinstance(space, tuple):
        masks = [None if isinstance(m, tuple) and not m else m for m in mask]
        return [m for child, masked in zip(space, masks, strict=True) for m in _leaf_masks(child, masked)]
    return [mask]


# --- what cannot be acted in --------------------------------------------------------------------------------------


def check_action_space(space: Space, config: NetworkConfig, mask_space: Space | None = None) -> None:
    """Check that there is a policy over `space`, and that the mask fits.

    A mask is an array of bools or numbers, true (not 0) where an action is allowed: [n] for Discrete(n); for
    MultiDiscrete the concatenated [Σ nᵢ], or a tuple of [nᵢ]; for a dict of spaces a dict with some of its keys; for a
    tuple of spaces a tuple as long, with () for parts without a mask.

    Raises:
        ValueError: names what is wrong with the space or with the mask.
    """
    leaves = jax.tree.leaves(space)
    if not leaves:
        raise ValueError("the action space is empty")
    for leaf in leaves:
        _check_leaf(leaf, config)
    if mask_space is not None:
        _check_mask(space, mask_space)


def _check_leaf(leaf: Any, config: NetworkConfig) -> None:
    if isinstance(leaf, Discrete | MultiDiscrete):
        return
    if not isinstance(leaf, Box):
        raise ValueError(f"no policy over an action space of type {type(leaf).__name__}")
    if leaf.dtype not in (np.float32, np.float64):
        raise ValueError(f"actions of {leaf} would have to be {leaf.dtype}: use MultiDiscrete or map_action")
    bounded = (leaf.low > -UNBOUNDED) & (leaf.high < UNBOUNDED) & (leaf.low < leaf.high)
    if config.action_distribution == "tanh_gaussian" and not bounded.all():
        raise ValueError(
            f'action_distribution = "tanh_gaussian" needs finite bounds, low < high, not those of {leaf}: '
            'give the environment bounds with map_action, or use "gaussian"'
        )


def _check_mask(space: Space, mask: Any) -> None:
    what = f'the "action_mask" {mask} does not fit the action space {space}'
    if isinstance(space, dict):
        if not isinstance(mask, dict) or not set(mask) <= set(space):
            raise ValueError(f"{what}: it must be a dict with some of the keys {', '.join(map(str, sorted(space)))}")
        for name in mask:
            _check_mask(space[name], mask[name])
    elif isinstance(space, tuple):
        if not isinstance(mask, tuple) or len(mask) != len(space):
            raise ValueError(f"{what}: it must be a tuple of {len(space)}, () for a part without a mask")
        for child, child_mask in zip(space, mask, strict=True):
            if child_mask != ():
                _check_mask(child, child_mask)
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
