"""Gather minibatches from a batch: packed rows and the column layout of several devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.devices.sharding import replicate

NARROW = 32  # numbers in a row


def to_device_layout(columns: Array, num_envs: int, num_devices: int) -> Array:
    """Where `num_devices` devices have what a single one has at `columns`: int32 [M], an order of all M, -> [M]."""
    if num_devices == 1:
        return columns
    share, envs = columns.size // num_devices, num_envs // num_devices
    time, env = columns // num_envs, columns % num_envs
    return env // envs * share + time * envs + env % envs


def pack(batch: Any, num_devices: int = 1) -> tuple[Any, Callable[[Any, Array], Any]]:
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

    return replicate((rows, apart), num_devices), take
