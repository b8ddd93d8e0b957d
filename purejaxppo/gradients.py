"""The gradient of a minibatch, part by part.

The activations of a large minibatch do not fit a core's cache (65,536 rows through a 64-wide layer are 16 MB), and
a CPU then waits for memory. Parts of a few thousand rows stay in the cache; the mean of their gradients is the gradient
of the mean. Where memory is short the same parts bound what one step needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
CACHED_ROWS = 2048


def num_parts(columns: int, length: int, limit: int) -> int:
    """Into how many equal parts to cut `columns` sequences of `length` steps, for at most `limit` steps in each.

    limit = 0: CACHED_ROWS on a CPU, one part on anything else. The number divides `columns`; where no divisor near
    enough exists (a prime number of columns), or one sequence is longer than `limit`, the parts are as near as they get
    without being less than half as large as they may be.
    """
    if not limit and jax.default_backend() != "cpu":
        return 1
    wanted = -(-columns * length // (limit or CACHED_ROWS))
    near = range(max(wanted, 1), min(2 * wanted, columns) + 1)
    return next((n for n in near if columns % n == 0), 1)


def mean_gradient(loss: Callable[..., Any], params: Any, data: Any, parts: Any) -> tuple[Any, Any]:
    """Gradient by `params` of the mean of `loss` over parts, and what each part reports.

    loss(params, data, *part) -> (number, report); parts: leaves [P, ...]. Returns (gradient, reports [P, ...]).
    """
    gradient = jax.grad(loss, has_aux=True)
    count = jax.tree.leaves(parts)[0].shape[0]
    if count == 1:
        grads, report = gradient(params, data, *jax.tree.map(lambda x: x[0], parts))
        return grads, jax.tree.map(lambda x: x[None], report)

    def add(total: Any, part: Any) -> tuple[Any, Any]:
        grads, report = gradient(params, data, *part)
        return jax.tree.map(jnp.add, total, grads), report

    total, reports = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
    return jax.tree.map(lambda x: x / count, total), reports
