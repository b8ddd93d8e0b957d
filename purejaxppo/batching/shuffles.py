"""From a rollout to minibatches: sequences out of a block of time, and random orders of them, one per epoch.

Only the membership of the minibatches matters to stochastic gradient descent. `permutation` sorts (exact,
every order equally likely); `hashed` is a keyed bijection without a sort, several times cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.devices.sharding import everywhere

Array = jax.Array

ROUNDS = 8

NARROW = 32  # numbers in a row


def to_sequences(x: Array, length: int, num_devices: int = 1) -> Array:
    """[T, N, ...] -> [length, T / length * N, ...]: each column is a stretch of one environment's time.

    Columns go through the environments of a device, then through time, then through the devices, which so have equal
    runs of columns and nothing to exchange. Time is cut before it is moved; a single reshape would mix environments.
    """
    num_steps, num_envs, *rest = x.shape
    x = x.reshape(num_steps // length, length, num_devices, num_envs // num_devices, *rest)
    return jnp.moveaxis(x, 0, 2).reshape(length, -1, *rest)


def located(columns: Array, num_envs: int, num_devices: int) -> Array:
    """Where `num_devices` devices have what a single one has at `columns`: int32 [M], an order of all M, -> [M]."""
    if num_devices == 1:
        return columns
    share, envs = columns.size // num_devices, num_envs // num_devices
    time, env = columns // num_envs, columns % num_envs
    return env // envs * share + time * envs + env % envs


def block(tree: Any) -> Any:
    """One step as a block of time: leaves [N, ...] -> [1, N, ...]."""
    return jax.tree.map(lambda x: x[None], tree)


def first(tree: Any) -> Any:
    """The first step of a block of time: leaves [T, N, ...] -> [N, ...]."""
    return jax.tree.map(lambda x: x[0], tree)


def packed(batch: Any, num_devices: int = 1) -> tuple[Any, Callable[[Any, Array], Any]]:
    """(data, take): take(data, index [C]) is `batch` with leaves [L, C, ...], of leaves [L, M, ...].

    A batch may be shared out among devices; each of them gets all of `data`.

    All narrow leaves of 4 bytes lie side by side in one array, so that a minibatch is one gather of whole rows and not
    one for each leaf. Wide ones, such as images, stay where they are, in their own dtype, and are not copied.
    """
    leaves, structure = jax.tree.flatten(batch)
    width = [math.prod(x.shape[2:]) for x in leaves]
    together: dict[int, list[int]] = {}  # by length L
    for i, x in enumerate(leaves):
        if x.dtype.itemsize == 4 and width[i] <= NARROW:
            together.setdefault(x.shape[0], []).append(i)

    def bits(i: int) -> Array:
        return jax.lax.bitcast_convert_type(leaves[i], jnp.uint32).reshape(*leaves[i].shape[:2], width[i])

    rows = {length: jnp.concatenate([bits(i) for i in group], axis=-1) for length, group in together.items()}

    def columns(x: Array, index: Array) -> Array:
        return x.at[:, index].get(mode="promise_in_bounds")

    apart = {i: x for i, x in enumerate(leaves) if not any(i in group for group in together.values())}

    def take(data: tuple, index: Array) -> Any:
        rows, apart = data
        taken = {i: columns(x, index) for i, x in apart.items()}
        for length, group in together.items():
            ends = np.cumsum([width[i] for i in group]).tolist()
            for i, x in zip(group, jnp.split(columns(rows[length], index), ends[:-1], axis=-1), strict=True):
                x = x.reshape(*x.shape[:2], *leaves[i].shape[2:])
                taken[i] = jax.lax.bitcast_convert_type(x, leaves[i].dtype)
        return structure.unflatten([taken[i] for i in range(len(leaves))])

    return everywhere((rows, apart), num_devices), take


def permutation(key: Array, size: int) -> Array:
    """A uniformly random order of 0..size-1, int32 [size], by sorting random keys."""
    return jax.random.permutation(key, size)


def mix(x: Array) -> Array:
    """A 32-bit finaliser by multiply and xor-shift: uint32 [...] -> uint32 [...], each input bit moves all."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hashed(key: Array, size: int) -> Array:
    """A keyed bijection of 0..size-1 as an order, int32 [size]: a Feistel network over mixed radix, no sort.

    size = a * b with a the largest divisor up to √size; an index is a pair (l, r), and in turn
    r <- (r + F(l)) mod b and l <- (l + F(r)) mod a, each of which can be undone. A size without a divisor
    above 4 falls back to `permutation`: there is too little of l to mix with.
    """
    a = next(d for d in range(isqrt(size), 0, -1) if size % d == 0)
    if a < 4:
        return permutation(key, size)
    b = size // a
    keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)
    index = jax.lax.iota(jnp.uint32, size)
    left, right = index // b, index % b
    for i in range(0, ROUNDS, 2):
        right = (right + mix(left ^ keys[i]) % b) % b
        left = (left + mix(right ^ keys[i + 1]) % a) % a
    # worked out here: a gather that XLA has it put into computes it number by number
    return jax.lax.optimization_barrier((left * b + right).astype(jnp.int32))


SHUFFLES: dict[str, Callable[[Array, int], Array]] = {"permutation": permutation, "hash": hashed}
