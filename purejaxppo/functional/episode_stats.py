"""Returns and lengths of finished episodes, reduced on the device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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
