"""Random orders of the samples of a rollout, one per epoch.

Stochastic gradient descent only depends on which samples share a minibatch. `permutation` sorts random keys: every
order is equally likely. `feistel_permutation` is a keyed bijection without a sort, several times cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import PRNGKey

Shuffle: TypeAlias = Callable[[PRNGKey, int], Array]  # (key, size) -> permutation of 0..size-1, int32 [size]

ROUNDS = 8
MIN_FACTOR = 4  # a smaller left half has too few bits to mix with


def permutation(key: PRNGKey, size: int) -> Array:
    """Return a uniformly random permutation of 0..size-1, int32 [size]."""
    return jax.random.permutation(key, size)


def mix(x: Array) -> Array:
    """Hash uint32 [...] by multiplication and xor-shift; every input bit affects every output bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def feistel_permutation(key: PRNGKey, size: int) -> Array:
    """Return a pseudo-random permutation of 0..size-1, int32 [size]: a Feistel network over a mixed radix.

    Let size = a * b, with a the largest divisor of at most √size. An index is a pair (l, r), and the rounds
    r ← (r + F(l)) mod b and l ← (l + F(r)) mod a alternate. Each round is invertible, hence their composition is a
    permutation. If a < 4, the function falls back to `permutation`. Black & Rogaway (2002), "Ciphers with Arbitrary
    Finite Domains".
    """
    a = next(d for d in range(isqrt(size), 0, -1) if size % d == 0)
    if a < MIN_FACTOR:
        return permutation(key, size)
    b = size // a
    keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)
    index = jax.lax.iota(jnp.uint32, size)
    left = index // b
    right = index % b
    for i in range(0, ROUNDS, 2):
        right = (right + mix(left ^ keys[i]) % b) % b
        left = (left + mix(right ^ keys[i + 1]) % a) % a
    # The barrier keeps XLA from fusing this into the gather, which would recompute it for every element.
    return jax.lax.optimization_barrier((left * b + right).astype(jnp.int32))


SHUFFLES: dict[str, Shuffle] = {"permutation": permutation, "hash": feistel_permutation}
