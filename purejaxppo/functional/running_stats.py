"""Running statistics of a training run: moments of observations, and the scale of rewards.

A long run merges batches whose weight is far below the resolution of float32: 256 samples in 10¹¹ move a mean by 10⁻⁹
of their distance. So mean, variance and count are each kept as the unevaluated sum of two float32 numbers, which
resolves 48 bits (Dekker 1971; Knuth 1997). No float64 is needed, and the cost is a few additions per update.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from purejaxppo._util.aliases import PyTree

# Numbers of this size are errors or markers, not measurements: one of them, squared, would be the variance of a whole
# run, and every later number would be normalized to 0. They are left out of all statistics, like NaN and infinity.
LARGEST = 1e15

# Running moments -----------------------------------------------------------------------------------------------------


class LowParts(NamedTuple):
    """What float32 rounds off the running moments; each at most half a unit in the last place of its number."""

    mean: PyTree  # [*shape] per leaf
    var: PyTree  # [*shape] per leaf
    count: Array  # []


class RunningMoments(NamedTuple):
    """Mean and population variance of all samples so far; `mean` and `var` may be pytrees of equal structure."""

    mean: PyTree  # [*shape] per leaf
    var: PyTree  # [*shape] per leaf
    count: Array  # [] number of samples, float32
    low: PyTree = ()  # LowParts, to be added to the three above; () counts as zeros


def init_moments(example: PyTree | tuple[int, ...]) -> RunningMoments:
    """Return the moments of an empty sample: mean 0, variance 1, count 0.

    Args:
        example: one sample without batch axes: a pytree of arrays or `jax.ShapeDtypeStruct`, or a shape (a tuple of
            ints).
    """
    if isinstance(example, tuple) and all(isinstance(size, int) for size in example):
        example = jax.ShapeDtypeStruct(example, jnp.float32)
    mean = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), example)
    var = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.float32), example)
    return _with_low_parts(RunningMoments(mean, var, jnp.zeros((), jnp.float32)))


def merge_moments(a: RunningMoments, b: RunningMoments) -> RunningMoments:
    """Return the moments of the union of two samples; exact if either count is 0.

    With w = n_b / (n_a + n_b) and δ = mean_b − mean_a:
    mean = mean_a + w δ and var = var_a + w (var_b − var_a + (1 − w) δ²).
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance".
    """
    a, b = _with_low_parts(a), _with_low_parts(b)
    count = _add((a.count, a.low.count), (b.count, b.low.count))
    weight = b.count / jnp.maximum(count[0], 1.0)

    def merge_leaf(mean: Array, mean_low: Array, var: Array, var_low: Array, *other: Array) -> tuple[Array, ...]:
        of_mean = _subtract(other[0:2], (mean, mean_low))
        of_var = _subtract(other[2:4], (var, var_low))
        spread = ((1.0 - weight) * of_mean[0]) * of_mean[0]  # 0 for w = 1, also if δ² overflows
        new_mean = _add((mean, mean_low), (weight * of_mean[0], weight * of_mean[1]))
        new_var = _add((var, var_low), (weight * of_var[0], weight * (of_var[1] + spread)))
        return *new_mean, *new_var

    structure = jax.tree.structure(a.mean)
    columns = [structure.flatten_up_to(x) for m in (a, b) for x in (m.mean, m.low.mean, m.var, m.low.var)]
    merged = [merge_leaf(*row) for row in zip(*columns, strict=True)]
    mean, mean_low, var, var_low = (structure.unflatten([row[i] for row in merged]) for i in range(4))
    return RunningMoments(mean, var, count[0], LowParts(mean_low, var_low, count[1]))


def update_moments(moments: RunningMoments, batch: PyTree) -> RunningMoments:
    """Return the moments with a batch merged in, by `merge_moments`.

    A sample with a NaN or a number larger than `LARGEST` is left out as a whole.

    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance".

    Args:
        moments: the moments so far.
        batch: leaves [*batch axes, *shape]; integers and booleans become float32.

    Raises:
        ValueError: a leaf does not end in the shape of its moments, or leaves differ in their number of samples.
    """
    means, structure = jax.tree.flatten(moments.mean)
    pairs = list(zip(means, structure.flatten_up_to(batch), strict=True))
    for mean, leaf in pairs:
        if leaf.ndim < mean.ndim or leaf.shape[leaf.ndim - mean.ndim :] != mean.shape:
            raise ValueError(f"a batch of shape {leaf.shape} does not end in the moments' shape {mean.shape}")
    sizes = {math.prod(leaf.shape[: leaf.ndim - mean.ndim]) for mean, leaf in pairs}
    if len(sizes) > 1:
        raise ValueError(f"the leaves of the batch hold unequal numbers of samples: {sorted(sizes)}")
    if sizes <= {0}:
        return moments
    size = sizes.pop()
    kept = jnp.ones(size, bool)
    for _, leaf in pairs:
        kept &= _is_usable(leaf).reshape(size, -1).all(axis=1)
    count = kept.sum(dtype=jnp.float32)
    rows = [_mean_and_var(leaf, mean.shape, kept, count) for mean, leaf in pairs]
    mean, mean_low, var = (structure.unflatten([row[i] for row in rows]) for i in range(3))
    low = LowParts(mean_low, jax.tree.map(jnp.zeros_like, var), jnp.zeros((), jnp.float32))
    return merge_moments(moments, RunningMoments(mean, var, count, low))


def normalize(moments: RunningMoments, x: PyTree, clip: float = 10.0, only: Sequence | None = None) -> PyTree:
    """Return (x − mean) / √(var + 1e-8), clipped to ±clip, as float32; x itself while the count is 0.

    Huang et al. (2022), "The 37 Implementation Details of Proximal Policy Optimization", on continuous control.

    Args:
        moments: statistics of x.
        x: leaves [..., *shape].
        clip: bound of the result.
        only: one flag per leaf, in pytree order, or instead of a flag a tuple with one flag per entry of the raveled
            leaf. Leaves whose flag is false are returned as they are (masks and codes are not quantities), and so are
            such entries, as float32.
    """

    def normalize_leaf(flag: bool | tuple[bool, ...], mean: Array, var: Array, leaf: Array) -> Array:
        if not isinstance(flag, tuple):
            return normalize_all(mean, var, leaf) if flag else leaf
        mask = jnp.broadcast_to(jnp.asarray(flag).reshape(mean.shape), leaf.shape)
        return jnp.where(mask, normalize_all(mean, var, leaf), leaf.astype(jnp.float32))

    def normalize_all(mean: Array, var: Array, leaf: Array) -> Array:
        leaf = jnp.asarray(leaf).astype(jnp.float32)
        mean, scale = (jnp.broadcast_to(v, leaf.shape) for v in (mean, lax.rsqrt(var + 1e-8)))
        return jnp.where(moments.count > 0.0, jnp.clip((leaf - mean) * scale, -clip, clip), leaf)

    leaves, structure = jax.tree.flatten(x)
    means, variances = jax.tree.leaves(moments.mean), jax.tree.leaves(moments.var)
    flags = [True] * len(leaves) if only is None else only
    rows = zip(flags, means, variances, leaves, strict=True)
    return structure.unflatten([normalize_leaf(*row) for row in rows])


def _with_low_parts(moments: RunningMoments) -> RunningMoments:
    """Return the same moments, with zeros for missing low parts."""
    if isinstance(moments.low, LowParts):
        return moments
    return moments._replace(low=jax.tree.map(jnp.zeros_like, LowParts(*moments[:3])))


def _is_usable(x: Array) -> Array:
    """Return which numbers enter statistics, bool of the same shape; integers and booleans always do."""
    return jnp.abs(x) <= LARGEST if jnp.issubdtype(x.dtype, jnp.floating) else jnp.ones(x.shape, bool)


def _mean_and_var(leaf: Array, shape: tuple[int, ...], kept: Array, count: Array) -> tuple[Array, Array, Array]:
    """Return mean, low part of the mean and population variance, [*shape] each, of some samples.

    Args:
        leaf: [*batch axes, *shape], in all B samples.
        shape: of a sample.
        kept: the samples that count, bool [B].
        count: their number, [].
    """
    samples = leaf.astype(jnp.float32).reshape(-1, *shape)
    mask = kept.reshape(-1, *(1 for _ in shape))
    # Deviations from one of the samples are small even if all values share a large offset.
    origin = jnp.where(count > 0.0, lax.dynamic_index_in_dim(samples, jnp.argmax(kept)), 0.0)
    more = kept.size / jnp.maximum(count, 1.0)  # 1 if all samples count
    deviations = jnp.where(mask, samples - origin, 0.0)
    offset = jnp.mean(deviations, axis=0, keepdims=True) * more
    squares = jnp.where(mask, jnp.square(deviations - offset), 0.0)
    return *_two_sum(origin[0], offset[0]), jnp.mean(squares, axis=0) * more


# Sums of two float32 numbers -----------------------------------------------------------------------------------------


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b rounded to float32, and the rounding error; their sum is exactly a + b."""
    total = a + b
    b_rounded = total - a
    return total, (a - (total - b_rounded)) + (b - b_rounded)


def _add(x: Sequence[Array], y: Sequence[Array]) -> tuple[Array, Array]:
    """Return x + y for pairs (number, low part)."""
    total, error = _two_sum(x[0], y[0])
    return _two_sum(total, error + (x[1] + y[1]))


def _subtract(x: Sequence[Array], y: Sequence[Array]) -> tuple[Array, Array]:
    """Return x − y for pairs (number, low part)."""
    return _add(x, (-y[0], -y[1]))


# Reward scaling ------------------------------------------------------------------------------------------------------


class RewardScaler(NamedTuple):
    """Discounted return so far of each environment, and the moments of all such returns."""

    returns: Array  # [N]
    moments: RunningMoments  # scalar


def init_reward_scaler(num_envs: int) -> RewardScaler:
    """Return the scaler of a run without rewards so far."""
    return RewardScaler(jnp.zeros(num_envs, jnp.float32), init_moments(()))


def scale_rewards(
    scaler: RewardScaler,
    rewards: Array,
    done: Array,
    gamma: float | Array,
    reward_clip: float | Array = jnp.inf,
) -> tuple[RewardScaler, Array]:
    """Return the scaler after a rollout, and its rewards divided by the deviation of the discounted return G.

    Per step: G ← γ G + r, then G enters the moments, then G ← 0 if the episode ended. The moments take in the whole
    rollout before the division. Rewards are not centered, and their unit does not matter: c·r gives the same result as
    r for every c > 0. A reward that is NaN or larger than `LARGEST` counts as 0 in G. While G has not varied, rewards
    are only clipped. Engstrom et al. (2020), arXiv:2005.12729.

    Args:
        scaler: the scaler so far.
        rewards: r, [T, N].
        done: the episode ended with this step, [T, N] bool.
        gamma: discount γ, [].
        reward_clip: bound of the scaled rewards, []; infinity: off.

    Returns:
        The scaler, and the scaled rewards, [T, N] float32.
    """

    def step(returns: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, end = inputs
        returns = gamma * returns + jnp.where(_is_usable(reward), reward, 0.0)
        return jnp.where(end, 0.0, returns), returns

    rewards = rewards.astype(jnp.float32)
    returns, seen = lax.scan(step, scaler.returns, (rewards, done))
    moments = update_moments(scaler.moments, seen)
    varies = moments.var > 0.0
    # No ε under the root: it would be the scale of every reward smaller than it.
    scale = jnp.where(varies, lax.rsqrt(jnp.where(varies, moments.var, 1.0)), 1.0)
    return RewardScaler(returns, moments), jnp.clip(rewards * scale, -reward_clip, reward_clip)
