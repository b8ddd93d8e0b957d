"""From the numbers that a policy head gives to a distribution over any action space, masks included."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.schema import NetworkConfig
from purejaxppo.distributions import MASKED_LOGIT, Categorical, DiagonalGaussian, Joint, MultiCategorical, TanhGaussian
from purejaxppo.envs.masks import check_mask, component_masks, leaf_masks
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space

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

    def to_env(self, action: Any) -> Any:
        """The action of `base` as the environment takes it, shaped."""
        return self._to_env(self.base.to_env(self._to_base(action)))

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
    nothing is continuous; mask: see `purejaxppo.envs.masks`. A dict or tuple of spaces gives a Joint of its structure.
    """
    leaves, structure = jax.tree.flatten(space)
    parts, shapes, start, std_start = [], [], 0, 0
    for leaf, leaf_mask in zip(leaves, leaf_masks(space, mask), strict=True):
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
        return Categorical(numbers if mask is None else _masked(numbers, mask))
    if isinstance(space, MultiDiscrete):
        logits = jnp.split(numbers, np.cumsum(space.nvec).tolist()[:-1], axis=-1)
        if mask is None:
            return MultiCategorical(tuple(logits))
        return MultiCategorical(tuple(map(_masked, logits, component_masks(space, mask))))
    if config.action_distribution == "gaussian":
        return DiagonalGaussian(numbers, log_std)
    low, high = (jnp.asarray(bound.ravel(), jnp.float32) for bound in (space.low, space.high))
    return TanhGaussian(numbers, log_std, *(jnp.broadcast_to(bound, numbers.shape) for bound in (low, high)))


def _masked(logits: Array, mask: Array) -> Array:
    """Logits with those of forbidden actions replaced, which also stops their gradient.

    All of them NaN where none is allowed: there is no policy in such a state, and what follows from it shows.
    """
    allowed = mask.astype(bool)
    forbidden = jnp.where(allowed.any(-1, keepdims=True), MASKED_LOGIT, jnp.nan)
    return jnp.where(allowed, logits, jnp.broadcast_to(forbidden, logits.shape))


def check_action_space(space: Space, config: NetworkConfig, mask_space: Space | None = None) -> None:
    """Check that there is a policy over `space`, and that the mask fits (`purejaxppo.envs.masks` says of which form).

    Raises:
        ValueError: names what is wrong with the space or with the mask.
    """
    leaves = jax.tree.leaves(space)
    if not leaves:
        raise ValueError("the action space is empty")
    for leaf in leaves:
        _check_leaf(leaf, config)
    if mask_space is not None:
        check_mask(space, mask_space)


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
