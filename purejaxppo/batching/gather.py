"""Gather minibatches from a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo._util.aliases import PyTree
from purejaxppo._util.trees import Tree
from purejaxppo.devices.sharding import replicate

NARROW = 32  # at most so many 4-byte elements per row are packed


def to_device_layout(columns: Array, num_envs: int, num_devices: int) -> Array:
    """Map column indices of the one-device layout of `to_sequences` to the layout of several devices.

    Args:
        columns: a permutation of all M columns, int32 [M].
        num_envs: N.
        num_devices: a divisor of N.
    """
    if num_devices == 1:
        return columns
    share = columns.size // num_devices
    envs = num_envs // num_devices
    time = columns // num_envs
    env = columns % num_envs
    return env // envs * share + time * envs + env % envs


def pack(batch: Tree, num_devices: int = 1) -> tuple[PyTree, Callable[[PyTree, Array], Tree]]:
    """Concatenate the narrow 4-byte leaves of a batch, so that a minibatch takes one gather instead of one per leaf.

    Wide leaves, such as images, are gathered individually, in their own dtype.

    Args:
        batch: leaves [L, M, ...], possibly sharded along M.
        num_devices: devices that receive all of the packed data.

    Returns:
        The packed data, and a function take(data, index [C]) that returns the batch with leaves [L, C, ...].
    """
    leaves, structure = jax.tree.flatten(batch)
    widths = [math.prod(x.shape[2:]) for x in leaves]
    groups: dict[int, list[int]] = {}  # length L -> leaves that are packed
    for i, x in enumerate(leaves):
        if x.dtype.itemsize == 4 and widths[i] <= NARROW:
            groups.setdefault(x.shape[0], []).append(i)
    packed = {i for group in groups.values() for i in group}
    wide = {i: x for i, x in enumerate(leaves) if i not in packed}

    def bits(i: int) -> Array:
        return jax.lax.bitcast_convert_type(leaves[i], jnp.uint32).reshape(*leaves[i].shape[:2], widths[i])

    def columns(x: Array, index: Array) -> Array:
        return x.at[:, index].get(mode="promise_in_bounds")

    def take(data: tuple, index: Array) -> Tree:
        rows, wide = data
        taken = {i: columns(x, index) for i, x in wide.items()}
        for length, group in groups.items():
            ends = np.cumsum([widths[i] for i in group]).tolist()
            for i, x in zip(group, jnp.split(columns(rows[length], index), ends[:-1], axis=-1), strict=True):
                x = x.reshape(*x.shape[:2], *leaves[i].shape[2:])
                taken[i] = jax.lax.bitcast_convert_type(x, leaves[i].dtype)
        return structure.unflatten([taken[i] for i in range(len(leaves))])

    rows = {length: jnp.concatenate([bits(i) for i in group], axis=-1) for length, group in groups.items()}
    return replicate((rows, wide), num_devices), take
