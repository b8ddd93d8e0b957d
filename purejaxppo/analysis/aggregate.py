"""Aggregate scores over seeds: interquartile mean and bootstrap intervals."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp


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
