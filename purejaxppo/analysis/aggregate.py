"""Aggregate scores over seeds: interquartile mean and bootstrap intervals.

Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice", arXiv:2108.13264,
recommend both for the few seeds that a paper can afford.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array


def iqm(x: Array | Sequence[float], axis: int | None = None) -> Array:
    """Return the interquartile mean: the mean of the middle half of the sorted values.

    Sorted value i of n has the weight |[i, i+1] ∩ [n/4, 3n/4]| / (n/2). This is defined for every n, and if 4 divides n
    it is the mean without the lowest and the highest quarter. Agarwal et al. (2021), arXiv:2108.13264.

    Args:
        x: values, any shape.
        axis: axis of the n values; None: all values.

    Returns:
        x without `axis`, float32; NaN if any of the n values is NaN.
    """
    values = jnp.asarray(x, jnp.float32)
    values = jnp.sort(values.reshape(-1) if axis is None else jnp.moveaxis(values, axis, -1), axis=-1)
    n = values.shape[-1]
    # An infinity outside the middle half does not count, although 0 · inf is NaN. A NaN, sorted last, always counts.
    inner = values[..., n // 4 : n - n // 4]
    index = jnp.arange(n // 4, n - n // 4, dtype=jnp.float32)
    weights = jnp.minimum(index + 1.0, 0.75 * n) - jnp.maximum(index, 0.25 * n)
    mean = jnp.sum(jnp.broadcast_to(weights, inner.shape) * inner, axis=-1) / (0.5 * n)
    return jnp.where(jnp.isnan(values[..., -1]), jnp.nan, mean)


def bootstrap_interval(
    key: Array,
    x: Array | Sequence[float],
    statistic: Callable[[Array], Array] = iqm,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Return the percentile bootstrap interval (low, high) of a statistic.

    With fewer than 10 seeds the interval is too short: at 5 seeds it covers the interquartile mean in 81 to 91 % of
    cases instead of 95 %. Efron (1979), "Bootstrap methods"; Agarwal et al. (2021), arXiv:2108.13264.

    Args:
        key: of the resampling.
        x: values [S, ...], resampled with replacement along the first axis (seeds).
        statistic: maps an array like x to a scalar or to an array; the interval of an array is element-wise.
        num_resamples: how often x is resampled.
        level: confidence level.

    Returns:
        Lower and upper bound, like the result of `statistic`.
    """
    values = jnp.asarray(x, jnp.float32)
    n = values.shape[0]
    rows = jax.random.randint(key, (num_resamples, n), 0, n)
    # In batches, so that learning curves do not need num_resamples copies at once.
    replicates = jax.lax.map(lambda row: statistic(values[row]), rows, batch_size=min(num_resamples, 256))
    tail = 0.5 * (1.0 - level)
    low, high = jnp.quantile(replicates, jnp.asarray([tail, 1.0 - tail], jnp.float32), axis=0)
    return low, high
