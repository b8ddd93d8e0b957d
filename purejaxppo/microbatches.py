"""Work on a large batch, part by part.

The activations of a large batch do not fit a core's cache (65,536 rows through a 64-wide layer are 16 MB), and a CPU
then waits for memory. Parts of a few thousand rows stay in the cache, and bound what one step needs where memory is
short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

Array = jax.Array
CACHED_ROWS = 8192


def num_parts(columns: int, length: int, limit: int) -> int:
    """Into how many equal parts to cut `columns` sequences of `length` steps, for at most `limit` steps in each.

    A part is at least one whole sequence, and the number of parts divides `columns`: the smallest such number that
    keeps to `limit`. limit = 0: one part, on a CPU parts of about CACHED_ROWS. Those may be larger where they would
    else be less than half of that, as with a prime number of columns.
    """
    if not limit and jax.default_backend() != "cpu":
        return 1
    wanted = min(-(-columns * length // (limit or CACHED_ROWS)), columns)
    enough = next(n for n in range(wanted, columns + 1) if columns % n == 0)
    if limit or enough <= 2 * wanted:
        return enough
    return next(n for n in range(wanted, 0, -1) if columns % n == 0)


def mean_gradient(loss: Callable[..., Any], params: Any, parts: Any) -> tuple[Array, Any]:
    """Gradient by `params` of the mean of `loss` over parts, raveled, and what each part reports.

    The mean of the gradients of equal parts is the gradient of the mean. loss(params, *part) -> (number, report);
    parts: leaves [P, ...]. Returns (gradient [number of parameters], reports [P, ...]).
    """
    gradient = jax.grad(loss, has_aux=True)
    count = jax.tree.leaves(parts)[0].shape[0]

    def add(total: Array, part: Any) -> tuple[Array, Any]:
        grads, report = gradient(params, *part)
        return total + ravel_pytree(grads)[0], report

    if count == 1:
        grads, report = gradient(params, *jax.tree.map(lambda x: x[0], parts))
        return ravel_pytree(grads)[0], jax.tree.map(lambda x: x[None], report)
    total, reports = jax.lax.scan(add, jnp.zeros_like(ravel_pytree(params)[0]), parts)
    return total / count, reports


def map_parts(function: Callable[[Any], Any], batch: Any, limit: int) -> Any:
    """`function(batch)`, leaves [L, M, ...] to leaves [L', M, ...], part by part of the second axis.

    The number of parts is that of `num_parts`; the steps are those of the longest leaf.
    """
    length, columns = max(x.shape[:2] for x in jax.tree.leaves(batch))
    count = num_parts(columns, length, limit)
    if count == 1:
        return function(batch)

    def cut(x: Array) -> Array:
        return x.reshape(x.shape[0], count, -1, *x.shape[2:]).swapaxes(0, 1)

    def join(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])

    return jax.tree.map(join, jax.lax.map(function, jax.tree.map(cut, batch)))
