"""Orthogonal initialisation without LAPACK.

jaxlib's QR of a *batch* waits, on a thread of XLA's CPU pool, for work it gave to the same pool. With as many such
QRs in a program as the pool has threads, all of them wait: two cores, parameters drawn under `vmap`, and one run in
about twenty stops for ever (seen on jaxlib 0.10.2). Gram-Schmidt needs nothing but matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def gram_schmidt(a: Array) -> Array:
    """Orthonormal columns [m, n] that span those of a [m, n], m >= n: q_j ∝ a_j - Σ_{i<j} q_i (q_iᵀ a_j).

    The factor Q of a = QR with a positive diagonal of R; of a Gaussian `a` it is uniform (Haar) over such matrices.
    Each column is projected twice, which keeps the columns orthogonal to float32 rounding.
    """

    def next_column(q: Array, j: Array) -> tuple[Array, None]:
        column = a[:, j]
        for _ in range(2):  # columns of q from j on are still zero
            column = column - jnp.matmul(q, jnp.matmul(column, q, precision="highest"), precision="highest")
        return q.at[:, j].set(column / jnp.linalg.norm(column)), None

    return jax.lax.scan(next_column, jnp.zeros_like(a), jnp.arange(a.shape[1]))[0]


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """An initialiser (key, shape, dtype) -> `scale` times a uniformly random matrix with orthonormal rows or columns.

    The last axis is that of the outputs, the others together are the inputs, as in a dense or convolution kernel.
    """

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        rows, columns = prod(shape[:-1]), shape[-1]
        gaussian = jax.random.normal(key, (max(rows, columns), min(rows, columns)))
        q = gram_schmidt(gaussian)
        return (scale * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)

    return init
