"""Running mean and variance, return-based reward scaling, statistics of finished episodes, and robust averages.

Axes: `T` time, `N` environments. Everything is float32; variances are population variances.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class RunningMoments(NamedTuple):
    """Mean and population variance of everything seen so far; `mean` and `var` may be pytrees of equal structure."""

    mean: Any  # [*shape] per leaf
    var: Any  # [*shape] per leaf
    count: jax.Array  # []  number of samples, float32


def init_moments(example: Any) -> RunningMoments:
    """Moments of nothing (mean 0, variance 1, count 0) for one sample like `example`.

    `example` is a shape (a tuple of ints), or a pytree of arrays or `jax.ShapeDtypeStruct` without batch axes.
    """
    if isinstance(example, tuple) and all(isinstance(size, int) for size in example):
        example = jax.ShapeDtypeStruct(example, jnp.float32)
    mean = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), example)
    var = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.float32), example)
    return RunningMoments(mean, var, jnp.zeros((), jnp.float32))


def merge_moments(a: RunningMoments, b: RunningMoments) -> RunningMoments:
    """Moments of the union of two samples (parallel merge), exact also when either count is 0.

    With w = n_b / (n_a + n_b) and δ = mean_b - mean_a:  mean = mean_a + w δ,  var = (1-w) var_a + w var_b + w (1-w) δ².
    """
    count = a.count + b.count
    weight = b.count / jnp.maximum(count, 1.0)
    mean = jax.tree.map(lambda m, n: m + weight * (n - m), a.mean, b.mean)
    var = jax.tree.map(
        lambda v, u, m, n: (1.0 - weight) * v + weight * u + weight * (1.0 - weight) * jnp.square(n - m),
        a.var,
        b.var,
        a.mean,
        b.mean,
    )
    return RunningMoments(mean, var, count)


def update_moments(moments: RunningMoments, batch: Any) -> RunningMoments:
    """Moments with a batch merged in; its leaves are [*batch axes, *shape], integers and booleans become float32.

    Raises ValueError if a leaf does not end in the shape of its moments, or if leaves differ in the number of samples.
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
    batch_moments = [_mean_and_var(leaf, mean.shape) for mean, leaf in pairs]
    mean, var = (structure.unflatten(leaves) for leaves in zip(*batch_moments, strict=True))
    return merge_moments(moments, RunningMoments(mean, var, jnp.float32(sizes.pop())))


def _mean_and_var(leaf: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and population variance [*shape] of a leaf [*batch axes, *shape]."""
    samples = leaf.astype(jnp.float32).reshape(-1, *shape)
    # Deviations from one of the samples: small also where all values share a large offset.
    deviations = samples - samples[:1]
    offset = jnp.mean(deviations, axis=0, keepdims=True)
    return samples[0] + offset[0], jnp.mean(jnp.square(deviations - offset), axis=0)


def normalize(moments: RunningMoments, x: Any, clip: float = 10.0, only: Sequence[bool] | None = None) -> Any:
    """(x - mean) / √(var + 1e-8), clipped to ±clip; x itself as float32 while the count is 0.

    The leaves of x are [..., *shape]; the result is float32 of the same shape. `only` has one flag per leaf, in pytree
    order: where it is false the leaf is left as it is (masks and codes are not quantities).
    """

    def one(mean: jax.Array, var: jax.Array, leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf).astype(jnp.float32)
        mean, scale = (jnp.broadcast_to(v, leaf.shape) for v in (mean, jax.lax.rsqrt(var + 1e-8)))
        return jnp.where(moments.count > 0.0, jnp.clip((leaf - mean) * scale, -clip, clip), leaf)

    leaves, structure = jax.tree.flatten(x)
    means, variances = jax.tree.leaves(moments.mean), jax.tree.leaves(moments.var)
    flags = [True] * len(leaves) if only is None else only
    rows = zip(flags, means, variances, leaves, strict=True)
    return structure.unflatten([one(*row) if flag else row[-1] for flag, *row in rows])


class RewardScaler(NamedTuple):
    """Discounted return so far of every environment, and the moments of all such returns."""

    returns: jax.Array  # [N]
    moments: RunningMoments  # scalar


def init_reward_scaler(num_envs: int) -> RewardScaler:
    """A scaler that has seen nothing."""
    return RewardScaler(jnp.zeros(num_envs, jnp.float32), init_moments(()))


def scale_rewards(
    scaler: RewardScaler, rewards: jax.Array, done: jax.Array, gamma: float | jax.Array
) -> tuple[RewardScaler, jax.Array]:
    """Rewards [T, N] divided by √(Var[G] + 1e-8), with the scaler moved on; no centring, no clipping.

    Per step: G ← γ G + r; G enters the moments; G ← 0 where `done` [T, N] (bool). The moments take in the whole block
    before the division.
    """

    def step(returns: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reward, end = inputs
        returns = gamma * returns + reward
        return jnp.where(end, 0.0, returns), returns

    rewards = rewards.astype(jnp.float32)
    returns, seen = jax.lax.scan(step, scaler.returns, (rewards, done))
    moments = update_moments(scaler.moments, seen)
    return RewardScaler(returns, moments), rewards * jax.lax.rsqrt(moments.var + 1e-8)


class EpisodeStats(NamedTuple):
    """Undiscounted return and length so far of the running episode of every environment."""

    returns: jax.Array  # [N]  float32
    lengths: jax.Array  # [N]  int32


class EpisodeSummary(NamedTuple):
    """Statistics of the episodes that finished, float32 scalars; all but the number are NaN where none finished."""

    num_episodes: jax.Array
    return_mean: jax.Array
    return_min: jax.Array
    return_max: jax.Array
    length_mean: jax.Array
    length_min: jax.Array
    length_max: jax.Array


def init_episode_stats(num_envs: int) -> EpisodeStats:
    """Every environment at the start of an episode."""
    return EpisodeStats(jnp.zeros(num_envs, jnp.float32), jnp.zeros(num_envs, jnp.int32))


class _Extent(NamedTuple):
    """Sum, minimum and maximum over the finished episodes of each environment [N]."""

    total: jax.Array
    low: jax.Array
    high: jax.Array

    @staticmethod
    def empty(num_envs: int) -> "_Extent":
        zeros = jnp.zeros(num_envs, jnp.float32)
        return _Extent(zeros, zeros + jnp.inf, zeros - jnp.inf)

    def add(self, value: jax.Array, end: jax.Array) -> "_Extent":
        return _Extent(
            self.total + jnp.where(end, value, 0.0),
            jnp.minimum(self.low, jnp.where(end, value, jnp.inf)),
            jnp.maximum(self.high, jnp.where(end, value, -jnp.inf)),
        )

    def reduce(self, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean = jnp.sum(self.total) / jnp.maximum(count, 1.0)
        values = (mean, jnp.min(self.low), jnp.max(self.high))
        return tuple(jnp.where(count > 0.0, value, jnp.nan) for value in values)  # type: ignore[return-value]


def summarize_episodes(stats: EpisodeStats, rewards: jax.Array, done: jax.Array) -> tuple[EpisodeStats, EpisodeSummary]:
    """Statistics of the episodes finished within rewards [T, N], done [T, N] (bool), and the running sums moved on.

    An episode that began before the block counts whole; one that has not ended is carried on in the running sums.
    """
    num_envs = stats.returns.shape[0]

    def step(carry: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        (returns, lengths), count, return_extent, length_extent = carry
        reward, end = inputs
        returns, lengths = returns + reward, lengths + 1
        return_extent = return_extent.add(returns, end)
        length_extent = length_extent.add(lengths.astype(jnp.float32), end)
        stats = EpisodeStats(jnp.where(end, 0.0, returns), jnp.where(end, 0, lengths))
        return (stats, count + end.astype(jnp.float32), return_extent, length_extent), None

    empty = _Extent.empty(num_envs)
    start = (stats, jnp.zeros(num_envs, jnp.float32), empty, empty)
    (stats, counts, return_extent, length_extent), _ = jax.lax.scan(step, start, (rewards, done))
    count = jnp.sum(counts)
    return stats, EpisodeSummary(count, *return_extent.reduce(count), *length_extent.reduce(count))


def iqm(x: jax.Array | Sequence[float], axis: int | None = None) -> jax.Array:
    """Interquartile mean: the mean of the middle half of the sorted values, over `axis` (None: over all).

    Sorted value i of n has the weight |[i, i+1] ∩ [n/4, 3n/4]| / (n/2): right for every n, the plain 25 % trimmed mean
    where 4 divides n. NaN if any value is NaN.
    """
    values = jnp.asarray(x, jnp.float32)
    values = jnp.sort(values.reshape(-1) if axis is None else jnp.moveaxis(values, axis, -1), axis=-1)
    n = values.shape[-1]
    # Outside the middle half an infinity does not count (0 · inf is NaN), a NaN (sorted last) always does.
    inner = values[..., n // 4 : n - n // 4]
    index = jnp.arange(n // 4, n - n // 4, dtype=jnp.float32)
    weights = jnp.minimum(index + 1.0, 0.75 * n) - jnp.maximum(index, 0.25 * n)
    mean = jnp.sum(jnp.broadcast_to(weights, inner.shape) * inner, axis=-1) / (0.5 * n)
    return jnp.where(jnp.isnan(values[..., -1]), jnp.nan, mean)


def bootstrap_interval(
    key: jax.Array,
    x: jax.Array | Sequence[float],
    statistic: Callable[[jax.Array], jax.Array] = iqm,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[jax.Array, jax.Array]:
    """Percentile bootstrap interval (low, high) of `statistic` at the given confidence level.

    x [S, ...] is resampled with replacement over its first axis (seeds); `statistic` maps an array like x to a scalar,
    or to any array: the interval is then element-wise.
    """
    values = jnp.asarray(x, jnp.float32)
    n = values.shape[0]
    rows = jax.random.randint(key, (num_resamples, n), 0, n)
    # In batches, so that a learning curve per seed does not need num_resamples copies at once.
    replicates = jax.lax.map(lambda row: statistic(values[row]), rows, batch_size=min(num_resamples, 256))
    tail = 0.5 * (1.0 - level)
    low, high = jnp.quantile(replicates, jnp.asarray([tail, 1.0 - tail], jnp.float32), axis=0)
    return low, high
