"""Distribute one run, or many runs, over the devices of a mesh.

With one device every function here is the identity. With several, arrays are sharded along the axis of the environments
or replicated, and XLA inserts the communication: results equal those of one device up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from purejaxppo._util.aliases import PyTree

AXIS = "devices"


def largest_device_count(count: int, *sizes: int) -> int:
    """Return the largest number of local devices, at most `count`, that divides all `sizes`."""
    available = range(min(count, jax.local_device_count()), 0, -1)
    return next(n for n in available if all(size % n == 0 for size in sizes))


def mesh(num_devices: int) -> Mesh:
    """Return a one-dimensional mesh of the first `num_devices` local devices.

    Raises:
        ValueError: fewer devices are available.
    """
    devices = jax.local_devices()
    if len(devices) < num_devices:
        raise ValueError(
            f"num_devices = {num_devices}: JAX sees {len(devices)} ({devices[0].platform}); the cores of a CPU "
            "count as one unless the environment variable JAX_NUM_CPU_DEVICES says otherwise"
        )
    return jax.make_mesh((num_devices,), (AXIS,), (AxisType.Auto,), devices=devices[:num_devices])


def inside_shard_map() -> bool:
    """Return whether the code being traced already runs on one device of the mesh, as inside `shard_runs`."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes


def shard(tree: PyTree, num_devices: int, axis: int = 0) -> PyTree:
    """Shard every leaf along `axis`. Leaves whose size is not divisible by `num_devices` are returned unchanged."""
    if num_devices == 1:
        return tree
    sharding = NamedSharding(mesh(num_devices), PartitionSpec(*[None] * axis, AXIS))

    def constrain(x: Array) -> Array:
        divisible = x.ndim > axis and x.shape[axis] % num_devices == 0
        return jax.lax.with_sharding_constraint(x, sharding) if divisible else x

    return jax.tree.map(constrain, tree)


def replicate(tree: PyTree, num_devices: int) -> PyTree:
    """Replicate every leaf on all devices."""
    if num_devices == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh(num_devices), PartitionSpec()))


def map_shards(function: Callable[..., PyTree], whole: PyTree, shards: PyTree, num_devices: int) -> PyTree:
    """Call `function(whole, shard)` on every device.

    Args:
        function: maps a replicated tree and one shard to results with a leading axis.
        whole: replicated on every device.
        shards: sharded along the leading axis of its leaves.
        num_devices: devices of the mesh.

    Returns:
        The results, concatenated along their leading axis and left where they were computed.
    """
    if num_devices == 1:
        return function(whole, shards)
    replicated, sharded = PartitionSpec(), PartitionSpec(AXIS)
    specs: dict[str, Any] = {"in_specs": (replicated, sharded), "out_specs": sharded}
    return jax.shard_map(function, mesh=mesh(num_devices), **specs, check_vma=False)(whole, shards)


def mean_over_shards(
    function: Callable[..., tuple], whole: PyTree, shards: PyTree, num_devices: int
) -> tuple[Array, Array]:
    """Call `function(whole, shard) -> (a [n], b [m, ...])` on every device; average all `a`, concatenate all `b`.

    Both results share one all-reduce: on a CPU each all-reduce costs about 50 µs, whatever its size.

    Returns:
        The mean of `a` and the concatenation of `b`, replicated.
    """
    if num_devices == 1:
        return function(whole, shards)

    def on_device(whole: PyTree, shards: PyTree) -> tuple[Array, Array]:
        a, b = function(whole, shards)
        slots = jnp.zeros((num_devices, *b.shape), b.dtype).at[jax.lax.axis_index(AXIS)].set(b)
        total = jax.lax.psum(jnp.concatenate([a, slots.ravel()]), AXIS)
        return total[: a.size] / num_devices, total[a.size :].reshape(-1, *b.shape[1:])

    replicated, sharded = PartitionSpec(), PartitionSpec(AXIS)
    specs: dict[str, Any] = {"in_specs": (replicated, sharded), "out_specs": replicated}
    return jax.shard_map(on_device, mesh=mesh(num_devices), **specs, check_vma=False)(whole, shards)


def shard_runs(function: Callable[..., PyTree], num_devices: int) -> Callable[..., PyTree]:
    """Return `function` with the leading axis of all arguments but the last sharded; the last is replicated.

    Results are concatenated along their leading axis.
    """
    if num_devices == 1:
        return function

    def sharded(*args: PyTree) -> PyTree:
        in_specs = (*[PartitionSpec(AXIS)] * (len(args) - 1), PartitionSpec())
        specs: dict[str, Any] = {"in_specs": in_specs, "out_specs": PartitionSpec(AXIS)}
        return jax.shard_map(function, mesh=mesh(num_devices), **specs, check_vma=False)(*args)

    return sharded
