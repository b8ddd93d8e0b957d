"""Random orders of the samples of a rollout, one per epoch."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import jax
import jax.numpy as jnp

Array = jax.Array

ROUNDS = 8


def permutation(key: Array, size: int) -> Array:
    """A uniformly random order of 0..size-1, int32 [size], by sorting random keys."""
    return jax.random.permutation(key, size)


def mix(x: Array) -> Array:
    """A 32-bit finaliser by multiply and xor-shift: uint32 [...] -> uint32 [...], each input bit moves all."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def feistel_permutation(key: Array, size: int) -> Array:
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


SHUFFLES: dict[str, Callable[[Array, int], Array]] = {"permutation": permutation, "hash": feistel_permutation}
