"""Running statistics: observation moments and reward scaling."""

import math
from collections.abc import Sequence
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


def normalize(moments: RunningMoments, x: Any, clip: float = 10.0, only: Sequence | None = None) -> Any:
    """(x - mean) / √(var + 1e-8), clipped to ±clip; x itself as float32 while the count is 0.

    The leaves of x are [..., *shape]; the result is float32 of the same shape. `only` has one flag per leaf, in pytree
    order: where it is false the leaf is left as it is (masks and codes are not quantities). A flag may be a tuple of
    flags, one for each entry of the raveled leaf.
    """

    def some(flag: Any, mean: jax.Array, var: jax.Array, leaf: jax.Array) -> jax.Array:
        if not isinstance(flag, tuple):
            return one(mean, var, leaf) if flag else leaf
        mask = jnp.broadcast_to(jnp.asarray(flag).reshape(mean.shape), leaf.shape)
        return jnp.where(mask, one(mean, var, leaf), leaf.astype(jnp.float32))

    def one(mean: jax.Array, var: jax.Array, leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf).astype(jnp.float32)
        mean, scale = (jnp.broadcast_to(v, leaf.shape) for v in (mean, jax.lax.rsqrt(var + 1e-8)))
        return jnp.where(moments.count > 0.0, jnp.clip((leaf - mean) * scale, -clip, clip), leaf)

    leaves, structure = jax.tree.flatten(x)
    means, variances = jax.tree.leaves(moments.mean), jax.tree.leaves(moments.var)
    flags = [True] * len(leaves) if only is None else only
    rows = zip(flags, means, variances, leaves, strict=True)
    return structure.unflatten([some(*row) for row in rows])


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
