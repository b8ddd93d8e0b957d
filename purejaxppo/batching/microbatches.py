"""Process a large batch in microbatches.

The activations of a large batch exceed the cache of a CPU core (65,536 rows through a layer of width 64 take 16 MB),
and the core then waits for memory. Microbatches of a few thousand rows stay in the cache. They also bound the memory of
a gradient step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from purejaxppo._util.aliases import Params, PyTree
from purejaxppo.config.schema import Config
from purejaxppo.devices.sharding import largest_device_count, map_shards, mean_over_shards, mesh

CACHED_ROWS = 2048  # rows of a microbatch whose activations and gradients fit the cache of a core
MIN_ROWS_PER_DEVICE = 512  # with fewer rows of a minibatch per device, synchronization costs more than sharing saves


class Partition(NamedTuple):
    """How a batch is divided into microbatches and among devices."""

    limit: int = 0  # samples per microbatch; 0: chosen by `num_microbatches`
    num_devices: int = 1


UNDIVIDED = Partition()


def choose_partition(config: Config, length: int, columns: int) -> Partition:
    """Choose the partition for minibatches of `columns` sequences of `length` steps.

    With `config.num_devices` = 0, a CPU uses as many devices as get MIN_ROWS_PER_DEVICE samples of a minibatch each,
    and any other platform uses one.

    Raises:
        ValueError: fewer devices are available than requested.
    """
    num_devices = config.num_devices
    if not num_devices:
        worthwhile = columns * length // MIN_ROWS_PER_DEVICE if jax.default_backend() == "cpu" else 1
        num_devices = largest_device_count(max(worthwhile, 1), config.num_envs, columns)
    mesh(num_devices)
    return Partition(config.microbatch_size, num_devices)


def num_microbatches(columns: int, length: int, partition: Partition, cached_rows: int = CACHED_ROWS) -> int:
    """Return the number of equal microbatches of `columns` sequences of `length` steps.

    A microbatch holds whole sequences. The result is the smallest divisor of `columns` for which a microbatch has at
    most `partition.limit` steps. Without a limit, a CPU gets microbatches of about `cached_rows` steps, and other
    platforms one microbatch per device. Without a limit, microbatches may also be larger than `cached_rows`, if that
    divisor would make them less than half as large (a prime number of columns). All devices get equally many.
    """
    limit, num_devices = partition
    columns //= num_devices
    if not limit and jax.default_backend() != "cpu":
        return num_devices
    wanted = min(-(-columns * length // (limit or cached_rows)), columns)
    enough = next(n for n in range(wanted, columns + 1) if columns % n == 0)
    if limit or enough <= 2 * wanted:
        return num_devices * enough
    return num_devices * next(n for n in range(wanted, 0, -1) if columns % n == 0)


def mean_gradient(
    loss: Callable[..., tuple[Array, Array]],
    params: Params,
    data: PyTree,
    microbatches: PyTree,
    partition: Partition = UNDIVIDED,
) -> tuple[Array, Array]:
    """Return the gradient of the mean loss over microbatches.

    The mean of the gradients of equally large microbatches is the gradient of the mean.

    Args:
        loss: (params, data, *microbatch) -> (scalar, auxiliary output [m]).
        params: parameters to differentiate by.
        data: passed to every call.
        microbatches: leaves [P, ...].
        partition: its devices share the microbatches.

    Returns:
        The gradient as one vector, and the auxiliary outputs [P, m].
    """
    gradient = jax.grad(loss, has_aux=True)

    def mean(whole: PyTree, microbatches: PyTree) -> tuple[Array, Array]:
        count = jax.tree.leaves(microbatches)[0].shape[0]

        def add(total: Array, microbatch: PyTree) -> tuple[Array, Array]:
            grads, aux = gradient(*whole, *microbatch)
            return total + ravel_pytree(grads)[0], aux

        if count == 1:
            grads, aux = gradient(*whole, *jax.tree.map(partial(jnp.squeeze, axis=0), microbatches))
            return ravel_pytree(grads)[0], aux[None]
        total, aux = jax.lax.scan(add, jnp.zeros_like(ravel_pytree(whole[0])[0]), microbatches)
        return total / count, aux

    return mean_over_shards(mean, (params, data), microbatches, partition.num_devices)


def map_microbatches(function: Callable[[PyTree], PyTree], batch: PyTree, partition: Partition) -> PyTree:
    """Return `function(batch)`, computed in microbatches of the second axis.

    Args:
        function: from leaves [L, M, ...] to leaves [L', M, ...].
        batch: leaves [L, M, ...]; the longest leaf decides the number of microbatches.
        partition: its devices share the microbatches.
    """
    length, columns = max(x.shape[:2] for x in jax.tree.leaves(batch))
    count = num_microbatches(columns, length, partition, 4 * CACHED_ROWS)  # without gradients more rows fit
    if count == 1:
        return function(batch)

    def split(x: Array) -> Array:
        return x.reshape(x.shape[0], count, -1, *x.shape[2:]).swapaxes(0, 1)

    def join(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])

    microbatches = jax.tree.map(split, batch)
    results = map_shards(lambda _, shards: jax.lax.map(function, shards), (), microbatches, partition.num_devices)
    return jax.tree.map(join, results)
