"""Several devices for one run or for many seeds: what is shared out among them, and what each of them has whole.

With `num_devices` = 1 nothing here does anything. With more the program says what goes where and XLA moves it: every
number is the one that a single device would find, up to the order of sums.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Array = jax.Array

AXIS = "devices"

SMALL_MINIBATCH = 512

OUTPUTS = "xla_cpu_use_multi_output_fusion"

CPU_FLAGS = {
    "xla_cpu_prefer_vector_width": "512",
    "xla_cpu_copy_insertion_use_region_analysis": "true",
    "xla_backend_extra_options": OUTPUTS,
}

SMALL_FLAGS = {  # where minibatches are small
    "xla_cpu_enable_concurrency_optimized_scheduler": "false",
    "xla_backend_extra_options": f"{OUTPUTS},xla_cpu_small_while_loop_byte_threshold=32768",
}


def prepare_cpu(minibatch_size: int | None = None, num_seeds: int | None = None) -> None:
    """Set a CPU up for PPO; to be called before JAX looks for devices, later it does nothing.

    Each core becomes a device of its own, unless JAX_NUM_CPU_DEVICES is set: one program on one device spreads single
    operations over the cores, which loses half of what they could do; a share of the work for each loses little.
    minibatch_size: samples. Where they are few, the next operation starts on the core that has done the last one, and
    loops over little data, such as those of random bits, become one function each. If moreover num_seeds = 1, there is
    nothing to share out and no second device.

    For any size XLA_FLAGS gets, unless they are there: vectors of 512 bits, which a CPU without them takes for two of
    256; a search for copies that may be left out, as XLA does it on GPUs; and several results from one kernel.
    """
    few = minibatch_size is not None and minibatch_size <= SMALL_MINIBATCH
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", 1 if few and num_seeds == 1 else cores)
    flags = os.environ.get("XLA_FLAGS", "")
    if (0, 7) <= jax.__version_info__[:2] < (0, 12):  # XLA ends the process over a flag that it does not know
        wanted = CPU_FLAGS | (SMALL_FLAGS if few else {})
        more = [f"--{name}={value}" for name, value in wanted.items() if name not in flags]
        os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *more])


def largest_share(count: int, *sizes: int) -> int:
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


def shared_out(tree: Any, num_devices: int, axis: int = 0) -> Any:
    """The same arrays, cut along `axis` into one piece for each device; those that cannot be cut stay as they are."""
    if num_devices == 1:
        return tree
    place = NamedSharding(mesh(num_devices), PartitionSpec(*[None] * axis, AXIS))

    def cut(x: Any) -> Any:
        fits = x.ndim > axis and x.shape[axis] % num_devices == 0
        return jax.lax.with_sharding_constraint(x, place) if fits else x

    return jax.tree.map(cut, tree)


def everywhere(tree: Any, num_devices: int) -> Any:
    """The same arrays, whole on every device."""
    if num_devices == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh(num_devices), PartitionSpec()))


def in_shares(function: Callable[..., Any], whole: Any, parts: Any, num_devices: int) -> Any:
    """`function(whole, parts)`, every device with a share of the leading axis of `parts` and all of `whole`.

    Results are joined along their leading axis and stay where they were made.
    """
    if num_devices == 1:
        return function(whole, parts)
    alike, shares = PartitionSpec(), PartitionSpec(AXIS)
    specs: dict[str, Any] = {"in_specs": (alike, shares), "out_specs": shares}
    return jax.shard_map(function, mesh=mesh(num_devices), **specs, check_vma=False)(whole, parts)


def mean_of_shares(function: Callable[..., tuple], whole: Any, parts: Any, num_devices: int) -> tuple[Array, Array]:
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


def spread(function: Callable[..., Any], num_devices: int) -> Callable[..., Any]:
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
