"""Orthogonal initialisation without LAPACK, its random numbers from one draw.

jaxlib's QR of a *batch* waits, on a thread of XLA's CPU pool, for work it gave to the same pool. With as many such
QRs in a program as the pool has threads, all of them wait: two cores, parameters drawn under `vmap`, and one run in
about twenty stops for ever (seen on jaxlib 0.10.2). Gram-Schmidt needs nothing but matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

_draw: ContextVar[Callable[[tuple[int, int]], Array] | None] = ContextVar("draw", default=None)


@contextmanager
def _drawing(draw: Callable[[tuple[int, int]], Array]) -> Iterator[None]:
    token = _draw.set(draw)
    try:
        yield
    finally:
        _draw.reset(token)


def orthonormal(key: Array, shape: tuple[int, int]) -> Array:
    """A uniformly random [m, n], m >= n, with orthonormal columns: from `key`, or from around it (`drawn_together`)."""
    draw = _draw.get()
    return gram_schmidt(jax.random.normal(key, shape)) if draw is None else draw(shape)


def batched_init(init: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """`init(key)` with all its `orthonormal` matrices from one draw, those with as many rows side by side.

    The same law in half of the time to compile: a dozen small draws and loops are a dozen programs to XLA. Narrower
    ones get columns of zeros behind their own, which no column before them sees.
    Where `init` asks for one inside of a vmap of its own, all copies see the same.
    """

    def together(key: Array) -> Any:
        rest, draw_key = jax.random.split(key)
        shapes: list[tuple[int, int]] = []

        def note(shape: tuple[int, int]) -> Array:
            shapes.append(shape)
            return jnp.zeros(shape)

        with _drawing(note):  # a function made here: eval_shape remembers others, and does not ask them again
            jax.eval_shape(lambda key: init(key), jax.ShapeDtypeStruct(rest.shape, rest.dtype))
        shapes.sort(key=list(dict.fromkeys(shapes)).index)  # equal ones next to each other
        sizes = [prod(shape) for shape in shapes]
        numbers = jnp.split(jax.random.normal(draw_key, (sum(sizes),)), np.cumsum(sizes)[:-1])
        matrices: dict[tuple[int, int], list[Array]] = {shape: [] for shape in shapes}
        for rows in dict.fromkeys(rows for rows, _ in shapes):
            alike = [(shape, x.reshape(shape)) for shape, x in zip(shapes, numbers, strict=True) if shape[0] == rows]
            most = max(columns for (_, columns), _ in alike)
            padded = jnp.stack([jnp.pad(x, ((0, 0), (0, most - x.shape[1]))) for _, x in alike])
            for (shape, _), q in zip(alike, jax.vmap(gram_schmidt)(padded), strict=True):
                matrices[shape].append(q[:, : shape[1]])
        with _drawing(lambda shape: matrices[shape].pop(0)):
            return init(rest)

    return together


def gram_schmidt(a: Array) -> Array:
    """Orthonormal columns [m, n] that span those of a [m, n], m >= n: q_j ∝ a_j - Σ_{i<j} q_i (q_iᵀ a_j).

    The factor Q of a = QR with a positive diagonal of R; of a Gaussian `a` it is uniform (Haar) over such matrices.
    Each column is projected twice, which keeps the columns orthogonal to float32 rounding. A column of zeros stays one.
    """

    def next_column(q: Array, j: Array) -> tuple[Array, None]:
        column = a[:, j]
        for _ in range(2):  # columns of q from j on are still zero
            column = column - jnp.matmul(q, jnp.matmul(column, q, precision="highest"), precision="highest")
        length = jnp.linalg.norm(column)
        return q.at[:, j].set(column / jnp.where(length > 0.0, length, 1.0)), None

    return jax.lax.scan(next_column, jnp.zeros_like(a), jnp.arange(a.shape[1]))[0]


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """An initialiser (key, shape, dtype) -> `scale` times a uniformly random matrix with orthonormal rows or columns.

    The last axis is that of the outputs, the others together are the inputs, as in a dense or convolution kernel.
    """

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        rows, columns = prod(shape[:-1]), shape[-1]
        q = orthonormal(key, (max(rows, columns), min(rows, columns)))
        return (scale * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)

    return init
