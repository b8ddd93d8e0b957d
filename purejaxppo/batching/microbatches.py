"""Work on a large batch, part by part.

The activations of a large batch do not fit a core's cache (65,536 rows through a 64-wide layer are 16 MB), and a CPU
then waits for memory. Parts of a few thousand rows stay in the cache, and bound what one step needs where memory is
short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purejaxppo.devices.sharding import largest_device_count, map_shards, mean_over_shards, mesh

Array = jax.Array

CACHED_ROWS = 2048

SHARED_ROWS = 512


class Partition(NamedTuple):
    """How work is cut."""

    limit: int = 0  # samples in a part; 0: as `num_parts` says
    num_devices: int = 1  # that share the parts


ALL_AT_ONCE = Partition()


def choose_partition(config: Any, length: int, columns: int) -> Partition:
    """The Cut of a config for minibatches of `columns` sequences of `length` steps.

    num_devices = 0: as many of a CPU's as have SHARED_ROWS samples of a minibatch each, since with fewer, waiting for
    each other costs more than sharing saves; of anything that is no CPU, 1. Raises ValueError where there are too few.
    """
    num_devices = config.num_devices
    if not num_devices:
        pay = columns * length // SHARED_ROWS if jax.default_backend() == "cpu" else 1
        num_devices = largest_device_count(max(pay, 1), config.num_envs, columns)
    mesh(num_devices)
    return Partition(config.microbatch_size, num_devices)


def num_microbatches(columns: int, length: int, cut: Partition, cached_rows: int = CACHED_ROWS) -> int:
    """Into how many equal parts to cut `columns` sequences of `length` steps, for at most `cut.limit` steps in each.

    A part is at least one whole sequence, and the number of parts divides `columns`: the smallest such number that
    keeps to that. limit = 0: one part, on a CPU parts of about `cached_rows`. Those may be larger where they would
    else be less than half of that, as with a prime number of columns. Devices have equally many parts.
    """
    limit, num_devices = cut
    columns //= num_devices
    if not limit and jax.default_backend() != "cpu":
        return num_devices
    wanted = min(-(-columns * length // (limit or cached_rows)), columns)
    enough = next(n for n in range(wanted, columns + 1) if columns % n == 0)
    if limit or enough <= 2 * wanted:
        return num_devices * enough
    return num_devices * next(n for n in range(wanted, 0, -1) if columns % n == 0)


def mean_gradient(loss: Callable[..., Any], params: Any, data: Any, parts: Any, cut: Partition = ALL_AT_ONCE) -> Any:
    """Gradient by `params` of the mean of `loss` over parts, raveled, and what each part reports.

    The mean of the gradients of equal parts is the gradient of the mean. loss(params, data, *part) -> (number, report);
    parts: leaves [P, ...]. Returns (gradient [number of parameters], reports [P, ...]).
    """
    gradient = jax.grad(loss, has_aux=True)

    def mean(whole: Any, parts: Any) -> tuple[Array, Any]:
        count = jax.tree.leaves(parts)[0].shape[0]

        def add(total: Any, part: Any) -> tuple[Any, Any]:
            grads, report = gradient(*whole, *part)
            return total + ravel_pytree(grads)[0], report

        if count == 1:
            grads, report = gradient(*whole, *jax.tree.map(lambda x: x[0], parts))
            return ravel_pytree(grads)[0], jax.tree.map(lambda x: x[None], report)
        total, reports = jax.lax.scan(add, jnp.zeros_like(ravel_pytree(whole[0])[0]), parts)
        return total / count, reports

    return mean_over_shards(mean, (params, data), parts, cut.num_devices)


def map_microbatches(function: Callable[[Any], Any], batch: Any, cut: Partition) -> Any:
    """`function(batch)`, leaves [L, M, ...] to leaves [L', M, ...], part by part of the second axis.

    The number of parts is that of `num_parts`; the steps are those of the longest leaf.
    """
    length, columns = max(x.shape[:2] for x in jax.tree.leaves(batch))
    count = num_microbatches(columns, length, cut, 4 * CACHED_ROWS)  # without a gradient there is less to hold
    if count == 1:
        return function(batch)

    def split(x: Array) -> Array:
        return x.reshape(x.shape[0], count, -1, *x.shape[2:]).swapaxes(0, 1)

    def join(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])

    parts = jax.tree.map(split, batch)
    results = map_shards(lambda _, parts: jax.lax.map(function, parts), (), parts, cut.num_devices)
    return jax.tree.map(join, results)
