"""Turn the outputs of a policy head into a distribution over any action space, with action masks."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Action, Distribution, Mask, Noise
from purejaxppo.config.schema import NetworkConfig
from purejaxppo.distributions import MASKED_LOGIT, Categorical, DiagonalGaussian, Joint, MultiCategorical, TanhGaussian
from purejaxppo.envs.masks import check_mask, component_masks, leaf_masks
from purejaxppo.envs.spaces import UNBOUNDED, Box, Discrete, Leaf, MultiDiscrete, Space, check_reach, check_space

Array = jax.Array

# Range of log σ if it is a parameter. An action that the reward ignores would otherwise let the entropy bonus raise it
# until exp overflows. NetworkConfig.log_std_init lies in this range.
LOG_STD_MIN = -10.0
LOG_STD_MAX = 10.0

LOG_STD_SPAN = 5.0  # if log σ is an output, its largest distance from log_std_init


def bound_log_std(log_std: Array) -> Array:
    """Bound log σ softly: the identity on [LOG_STD_MIN, LOG_STD_MAX], and at most 1 beyond it.

    Above the range the result is LOG_STD_MAX + tanh(x − LOG_STD_MAX), below it LOG_STD_MIN + tanh(x − LOG_STD_MIN). The
    gradient vanishes far outside of the range, and is not cut off at its ends, so that log σ can return.

    Args:
        log_std: log σ of any shape.

    Returns:
        An array of the same shape, in [LOG_STD_MIN − 1, LOG_STD_MAX + 1].
    """
    above = LOG_STD_MAX + jnp.tanh(log_std - LOG_STD_MAX)
    below = LOG_STD_MIN + jnp.tanh(log_std - LOG_STD_MIN)
    return jnp.where(log_std > LOG_STD_MAX, above, jnp.where(log_std < LOG_STD_MIN, below, log_std))


def log_std_around(center: float, outputs: Array) -> Array:
    """Compute a state-dependent log σ = c + 5 tanh(y / 5): near c + y for small y, and within 5 of c for every y."""
    return center + LOG_STD_SPAN * jnp.tanh(outputs / LOG_STD_SPAN)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shaped:
    """A distribution whose actions have the shapes of the environment's Boxes, which `base` holds as vectors.

    Log-probability, entropy and KL are those of `base`.
    """

    base: Distribution
    shapes: tuple[tuple[int, ...] | None, ...] = dataclasses.field(metadata={"static": True})
    # of each leaf of an action; None: as in `base`
    dtypes: tuple[str | None, ...] = dataclasses.field(metadata={"static": True})
    # of each leaf of an action for the environment; None: as in `base`

    def _shape(self, action: Action) -> Action:
        leaves, structure = jax.tree.flatten(action)
        pairs = zip(leaves, self.shapes, strict=True)
        return structure.unflatten([x if s is None else x.reshape(*x.shape[:-1], *s) for x, s in pairs])

    def _ravel(self, action: Action) -> Action:
        leaves, structure = jax.tree.flatten(action)
        pairs = zip(leaves, self.shapes, strict=True)
        return structure.unflatten([x if s is None else _raveled(x, len(s)) for x, s in pairs])

    def noise(self, key: Array, shape: tuple[int, ...] = ()) -> Noise:
        """Draw the noise of `base`."""
        return self.base.noise(key, shape)

    def sample_from(self, noise: Noise) -> Action:
        """Compute the action of `base` from noise, in shape."""
        return self._shape(self.base.sample_from(noise))

    def sample(self, key: Array) -> Action:
        """Draw a random action."""
        return self.sample_from(self.noise(key))

    def mode(self) -> Action:
        """Return the greedy action."""
        return self._shape(self.base.mode())

    def to_env(self, action: Action) -> Action:
        """Convert an action to what the environment takes, in shape and dtype."""
        leaves, structure = jax.tree.flatten(self._shape(self.base.to_env(self._ravel(action))))
        pairs = zip(leaves, self.dtypes, strict=True)
        return structure.unflatten([x if dtype is None else x.astype(dtype) for x, dtype in pairs])

    def log_prob(self, action: Action) -> Array:
        """Return log π(a) [...]."""
        return self.base.log_prob(self._ravel(action))

    def entropy(self) -> Array:
        """Return H(π) [...] (12)."""
        return self.base.entropy()

    def kl(self, new: Shaped) -> Array:
        """Return KL(self ‖ new) [...]."""
        return self.base.kl(new.base)


def _raveled(x: Array, rank: int) -> Array:
    """[..., *shape] -> [..., D], given the number of axes of the shape."""
    lead = x.shape[: x.ndim - rank]
    return x.reshape(*lead, math.prod(x.shape[len(lead) :]))


def num_logits(space: Space) -> int:
    """Count the outputs of the policy head that are logits."""
    sizes = {Discrete: lambda s: s.n, MultiDiscrete: lambda s: sum(s.nvec), Box: lambda s: 0}
    return sum(sizes[type(leaf)](leaf) for leaf in jax.tree.leaves(space))


def num_means(space: Space) -> int:
    """Count the continuous components of an action, A."""
    return sum(leaf.low.size for leaf in jax.tree.leaves(space) if isinstance(leaf, Box))


def policy(
    space: Space, config: NetworkConfig, outputs: Array, log_std: Array | None, mask: Mask = None
) -> Distribution:
    """Build the distribution over `space` from the outputs of the policy head.

    Args:
        space: the action space. For a dict or tuple of spaces the distribution is a Joint of its structure.
        config: settings of the network.
        outputs: logits and means [..., D], leaf by leaf in the order of the space's leaves.
        log_std: log σ [..., A]; None if no component is continuous.
        mask: an action mask (`purejaxppo.envs.masks`), or None. Forbidden actions get probability 0 by replacing their
            logits (invalid action masking, Huang and Ontañón 2020, arXiv:2006.14171).

    Returns:
        A distribution with leading axes [...].
    """
    leaves, structure = jax.tree.flatten(space)
    distributions, shapes, dtypes, start, std_start = [], [], [], 0, 0
    for leaf, leaf_mask in zip(leaves, leaf_masks(space, mask), strict=True):
        end, std_end = start + num_logits(leaf) + num_means(leaf), std_start + num_means(leaf)
        leaf_log_std = None if log_std is None else _slice(log_std, std_start, std_end)
        distributions.append(_leaf_policy(leaf, config, _slice(outputs, start, end), leaf_log_std, leaf_mask))
        start, std_start = end, std_end
        shapes.append(leaf.shape if isinstance(leaf, Box) and len(leaf.shape) != 1 else None)
        dtypes.append(_action_dtype(leaf))
    single = jax.tree_util.treedef_is_leaf(structure)
    distribution = distributions[0] if single else Joint(structure.unflatten(distributions))
    as_is = all(x is None for x in (*shapes, *dtypes))
    return distribution if as_is else Shaped(distribution, tuple(shapes), tuple(dtypes))


def _action_dtype(leaf: Leaf) -> str | None:
    """Return the dtype of a Box action if it is not float32, as a Box of float64 under jax_enable_x64."""
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype) if isinstance(leaf, Box) else jnp.dtype("float32")
    return None if dtype == jnp.float32 else dtype.name


def _slice(x: Array, start: int, end: int) -> Array:
    return x if (start, end) == (0, x.shape[-1]) else x[..., start:end]


def _leaf_policy(space: Leaf, config: NetworkConfig, outputs: Array, log_std: Array | None, mask: Mask) -> Distribution:
    if isinstance(space, Discrete):
        return Categorical(outputs if mask is None else _masked(outputs, mask))
    if isinstance(space, MultiDiscrete):
        logits = jnp.split(outputs, np.cumsum(space.nvec).tolist()[:-1], axis=-1)
        if mask is None:
            return MultiCategorical(tuple(logits))
        return MultiCategorical(tuple(map(_masked, logits, component_masks(space, mask))))
    assert log_std is not None, "continuous actions have a standard deviation"
    if config.action_distribution == "gaussian":
        return DiagonalGaussian(outputs, log_std)
    low, high = (jnp.asarray(bound.ravel(), jnp.float32) for bound in (space.low, space.high))
    return TanhGaussian(outputs, log_std, *(jnp.broadcast_to(bound, outputs.shape) for bound in (low, high)))


def _masked(logits: Array, mask: Array) -> Array:
    """Replace the logits of forbidden actions, which also stops their gradient.

    If no action is allowed, all logits are NaN: such a state has no policy, and the NaN makes that visible.
    """
    allowed = mask.astype(bool)
    forbidden = jnp.where(allowed.any(-1, keepdims=True), jnp.float32(MASKED_LOGIT), jnp.float32(jnp.nan))
    return jnp.where(allowed, logits, jnp.broadcast_to(forbidden, logits.shape))


def check_action_space(space: Space, config: NetworkConfig, mask_space: Space | None = None) -> None:
    """Check that the network has a policy over `space`, and that the mask fits (`purejaxppo.envs.masks`).

    Raises:
        ValueError: names what is wrong with the space or with the mask.
    """
    check_space(space, "the action space")
    for leaf in jax.tree.leaves(space):
        _check_leaf(leaf, config)
    if mask_space is not None:
        check_mask(space, mask_space)


def _check_leaf(leaf: Leaf, config: NetworkConfig) -> None:
    if isinstance(leaf, Discrete | MultiDiscrete):
        return
    if leaf.dtype not in (np.float32, np.float64):
        raise ValueError(f"actions of {leaf} would have to be {leaf.dtype}: use MultiDiscrete or map_action")
    if config.action_distribution == "gaussian":
        check_reach(leaf, math.exp(config.log_std_init))
    bounded = (leaf.low > -UNBOUNDED) & (leaf.high < UNBOUNDED) & (leaf.low < leaf.high)
    if config.action_distribution == "tanh_gaussian" and not bounded.all():
        raise ValueError(
            f'action_distribution = "tanh_gaussian" needs finite bounds with low < high, not those of {leaf}: '
            'bound the actions with map_action, or use "gaussian"'
        )
