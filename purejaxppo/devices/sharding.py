"""Several devices for one run or for many seeds: what is shared out among them, and what each of them has whole.

With `num_devices` = 1 nothing here does anything. With more the program says what goes where and XLA moves it: every
number is the one that a single device would find, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Array = jax.Array

AXIS = "devices"


def largest_device_count(count: int, *sizes: int) -> int:
    """The largest number of devices up to `count` and up to those there are that divides all `sizes`."""
    available = range(min(count, jax.local_device_count()), 0, -1)
    return next(n for n in available if all(size % n == 0 for size in sizes))


def mesh(num_devices: int) -> Mesh:
    """The first `num_devices` devices in a row. Raises ValueError where there are fewer."""
    devices = jax.local_devices()
    if len(devices) < num_devices:
        raise ValueError(
            f"num_devices = {num_devices}: JAX sees {len(devices)} ({devices[0].platform}); the cores of a CPU "
            "count as one unless the environment variable JAX_NUM_CPU_DEVICES says otherwise"
        )
    return jax.make_mesh((num_devices,), (AXIS,), (AxisType.Auto,), devices=devices[:num_devices])


def shard(tree: Any, num_devices: int, axis: int = 0) -> Any:
    """The same arrays, cut along `axis` into one piece for each device; those that cannot be cut stay as they are."""
    if num_devices == 1:
        return tree
    place = NamedSharding(mesh(num_devices), PartitionSpec(*[None] * axis, AXIS))

    def cut(x: Any) -> Any:
        fits = x.ndim > axis and x.shape[axis] % num_devices == 0
        return jax.lax.with_sharding_constraint(x, place) if fits else x

    return jax.tree.map(cut, tree)


def replicate(tree: Any, num_devices: int) -> Any:
    """The same arrays, whole on every device."""
    if num_devices == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh(num_devices), PartitionSpec()))


def map_shards(function: Callable[..., Any], whole: Any, parts: Any, num_devices: int) -> Any:
    """`function(whole, parts)`, every device with a share of the leading axis of `parts` and all of `whole`.

    Results are joined along their leading axis and stay where they were made.
    """
    if num_devices == 1:
        return function(whole, parts)
    alike, shares = PartitionSpec(), PartitionSpec(AXIS)
    specs: dict[str, Any] = {"in_specs": (alike, shares), "out_specs": shares}
    return jax.shard_map(function, mesh=mesh(num_devices), **specs, check_vma=False)(whole, parts)


def mean_over_shards(function: Callable[..., tuple], whole: Any, parts: Any, num_devices: int) -> tuple[Array, Array]:
    """As `in_shares`, of function(whole, share) -> (a [n], b [m, ...]): the mean of a, all b joined; whole everywhere.

    Both travel in one all-reduce: on a CPU each of them is 50 µs of waiting, whatever its size.
    """
    if num_devices == 1:
        return function(whole, parts)

    def share(whole: Any, parts: Any) -> tuple[Array, Array]:
        a, b = function(whole, parts)
        places = jnp.zeros((num_devices, *b.shape), b.dtype).at[jax.lax.axis_index(AXIS)].set(b)
        total = jax.lax.psum(jnp.concatenate([a, places.ravel()]), AXIS)
        return total[: a.size] / num_devices, total[a.size :].reshape(-1, *b.shape[1:])

    alike, shares = PartitionSpec(), PartitionSpec(AXIS)
    specs: dict[str, Any] = {"in_specs": (alike, shares), "out_specs": alike}
    return jax.shard_map(share, mesh=mesh(num_devices), **specs, check_vma=False)(whole, parts)


def shard_runs(function: Callable[..., Any], num_devices: int) -> Callable[..., Any]:
    """`function`, every device with a share of the leading axis of all arguments but the last, of which it has all.

    Results are joined along their leading axis.
    """
    if num_devices == 1:
        return function

    def over(*args: Any) -> Any:
        specs = (*[PartitionSpec(AXIS)] * (len(args) - 1), PartitionSpec())
        places = {"in_specs": specs, "out_specs": PartitionSpec(AXIS)}
        return jax.shard_map(function, mesh=mesh(num_devices), **places, check_vma=False)(*args)

    return over
