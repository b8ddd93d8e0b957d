"""Returns and lengths of finished episodes, reduced on the device."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from purejaxppo._util.aliases import Carry

UNIT = 2.0**32  # sums of returns are taken in this unit, in which those of 2³² episodes do not overflow


class EpisodeStats(NamedTuple):
    """Undiscounted return and length so far of the running episode of each environment."""

    returns: Array  # [N] float32; NaN or infinite if a reward was, or if the sum overflowed
    lengths: Array  # [N] int32


class EpisodeSummary(NamedTuple):
    """Statistics of finished episodes, float32 scalars. If `num_episodes` is 0, the others are 0 and mean nothing."""

    num_episodes: Array
    return_mean: Array
    return_min: Array
    return_max: Array
    length_mean: Array
    length_min: Array
    length_max: Array


def init_episode_stats(num_envs: int) -> EpisodeStats:
    """Return the statistics with all environments at the start of an episode."""
    return EpisodeStats(jnp.zeros(num_envs, jnp.float32), jnp.zeros(num_envs, jnp.int32))


class _Extent(NamedTuple):
    """Sum, minimum and maximum of values that count, over any axes: of each step [T, N] or of each environment [N]."""

    total: Array  # in units of UNIT
    low: Array
    high: Array

    @staticmethod
    def empty(num_envs: int) -> "_Extent":
        zeros = jnp.zeros(num_envs, jnp.float32)
        return _Extent(zeros, zeros + jnp.inf, zeros - jnp.inf)

    @staticmethod
    def of(value: Array, counted: Array) -> "_Extent":
        """Return the extent of each value alone."""
        return _Extent(
            jnp.where(counted, value / UNIT, 0.0),
            jnp.where(counted, value, jnp.inf),
            jnp.where(counted, value, -jnp.inf),
        )

    def add(self, value: Array, end: Array) -> "_Extent":
        one = _Extent.of(value, end)
        return _Extent(self.total + one.total, jnp.minimum(self.low, one.low), jnp.maximum(self.high, one.high))

    def reduce(self, count: Array) -> list[Array]:
        """Return mean, minimum and maximum, [] each, of `count` values; 0 if that is 0.

        The mean of very small values, whose sum in units of UNIT underflows, is clipped to their minimum.
        """
        low, high = jnp.min(self.low), jnp.max(self.high)
        mean = jnp.clip(jnp.sum(self.total) / jnp.maximum(count, 1.0) * UNIT, low, high)
        values = (mean, low, high)
        return [jnp.where(count > 0.0, value, 0.0) for value in values]


def summarize_episodes(
    stats: EpisodeStats, rewards: Array, done: Array, dropped: Array | tuple[()] = ()
) -> tuple[EpisodeStats, EpisodeSummary]:
    """Summarize the episodes that finished in a rollout.

    An episode that began in an earlier rollout counts as a whole. One that has not finished is continued in the
    statistics returned. One whose return is NaN or infinite does not count, and changes no other.

    Args:
        stats: the running episodes before the rollout.
        rewards: unscaled rewards, [T, N].
        done: the episode ended with this step, [T, N] bool.
        dropped: the episode does not count, [T, N] bool; read where it ended. () counts all.

    Returns:
        The running episodes after the rollout, and the summary of the finished ones.
    """
    num_envs = stats.returns.shape[0]
    counted = _counted(done, dropped)

    def step(carry: Carry, inputs: tuple[Array, Array, Array]) -> tuple[Carry, None]:
        (returns, lengths), count, return_extent, length_extent = carry
        reward, end, counts = inputs
        returns, lengths = returns + reward, lengths + 1
        counts &= jnp.isfinite(returns)
        return_extent = return_extent.add(returns, counts)
        length_extent = length_extent.add(lengths.astype(jnp.float32), counts)
        stats = EpisodeStats(jnp.where(end, 0.0, returns), jnp.where(end, 0, lengths))
        return (stats, count + counts.astype(jnp.float32), return_extent, length_extent), None

    empty = _Extent.empty(num_envs)
    start = (stats, jnp.zeros(num_envs, jnp.float32), empty, empty)
    (stats, counts, return_extent, length_extent), _ = lax.scan(step, start, (rewards, done, counted))
    count = jnp.sum(counts)
    return stats, EpisodeSummary(count, *return_extent.reduce(count), *length_extent.reduce(count))


def mean_info(info: dict[str, Array] | tuple[()], done: Array, dropped: Array | tuple[()] = ()) -> dict[str, Array]:
    """Return the means of further quantities over the episodes that finished in a rollout, by "episode_info_" + name.

    Args:
        info: quantities by name, [T, N] each; only the values at the last step of an episode count, and of these the
            finite ones. () if there are none.
        done: the episode ended with this step, [T, N] bool.
        dropped: as of `summarize_episodes`.

    Returns:
        float32 scalars; 0 if no episode finished.
    """
    counted = _counted(done, dropped)
    return {f"episode_info_{name}": _mean(x, counted) for name, x in dict(info).items()}


def _mean(x: Array, counted: Array) -> Array:
    """Return the mean of the finite values that count, 0 if there are none."""
    x = x.astype(jnp.float32)
    counted &= jnp.isfinite(x)
    return _Extent.of(x, counted).reduce(counted.sum(dtype=jnp.float32))[0]


def _counted(done: Array, dropped: Array | tuple[()]) -> Array:
    """Return which steps end an episode that counts."""
    return done if isinstance(dropped, tuple) else done & ~dropped
