"""Initializers of kernels; the orthogonal ones need no LAPACK and share one random draw.

jaxlib's QR decomposition of a batch waits, on a thread of XLA's CPU pool, for work that it submitted to the same pool.
If a program runs as many such decompositions at once as the pool has threads, it deadlocks: with two cores and
parameters drawn under `vmap`, about one run in twenty (jaxlib 0.10.2). Gram-Schmidt needs matrix products only.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from purejaxppo._util.aliases import Params, PRNGKey
from purejaxppo.config.schema import KernelInit

Array = jax.Array

PANEL = 64  # columns of a panel: 1024 rows of it take 256 KB, which the cache of a core holds
MANY_COLUMNS = 256  # above this number, panels are faster than single columns, also with what they cost to compile

DrawFn: TypeAlias = Callable[[PRNGKey, tuple[int, int]], Array]  # (key, (m, n)) -> orthonormal columns [m, n], m >= n


def gram_schmidt(a: Array) -> Array:
    """Orthonormalize the columns of a matrix: q_j ∝ a_j − Σ_{i<j} q_i (q_iᵀ a_j).

    The result is the factor Q of a = QR with a positive diagonal of R. If the entries of `a` are independent standard
    normal, Q is uniform (Haar) over matrices with orthonormal columns (Mezzadri 2007, arXiv:math-ph/0609050). Each
    column is projected twice, which keeps the columns orthogonal to float32 rounding (Giraud et al. 2005). More than
    MANY_COLUMNS columns are orthonormalized panel by panel: most of the work is then a product of matrices, which reads
    Q once for a whole panel (Barlow and Smoktunowicz 2013, arXiv:1108.4209).

    Args:
        a: [m, n] with m >= n.

    Returns:
        Q [m, n]. A column of zeros stays zero.
    """
    rows, columns = a.shape
    if columns <= MANY_COLUMNS:
        return _orthonormalize(a)
    count = -(-columns // PANEL)
    padded = jnp.pad(a, ((0, 0), (0, count * PANEL - columns)))
    panels = padded.reshape(rows, count, PANEL).swapaxes(0, 1)

    def next_panel(q: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        j, panel = inputs

        def project(_: Array, x: Array) -> Array:  # the columns of q from this panel on are still zero
            return _orthonormalize(x - jnp.matmul(q, jnp.matmul(q.T, x, precision="highest"), precision="highest"))

        panel = jax.lax.fori_loop(0, 2, project, panel)
        return jax.lax.dynamic_update_slice(q, panel, (0, j * PANEL)), None

    return jax.lax.scan(next_panel, jnp.zeros_like(padded), (jnp.arange(count), panels))[0][:, :columns]


def _orthonormalize(a: Array) -> Array:
    """Orthonormalize the columns of one panel, one by one; see `gram_schmidt`."""

    def next_column(q: Array, j: Array) -> tuple[Array, None]:
        column = a[:, j]
        for _ in range(2):  # the columns of q from j on are still zero
            column = column - jnp.matmul(q, jnp.matmul(column, q, precision="highest"), precision="highest")
        length = jnp.linalg.norm(column)
        return q.at[:, j].set(column / jnp.where(length > 0.0, length, 1.0)), None

    return jax.lax.scan(next_column, jnp.zeros_like(a), jnp.arange(a.shape[1]))[0]


def draw_orthonormal(key: PRNGKey, shape: tuple[int, int]) -> Array:
    """Draw a uniformly random matrix with orthonormal columns.

    Args:
        key: a PRNG key.
        shape: (m, n) with m >= n.

    Returns:
        float32 [m, n].
    """
    return gram_schmidt(jax.random.normal(key, shape, jnp.float32))


def draw_zeros(key: PRNGKey, shape: tuple[int, int]) -> Array:
    """Return zeros, float32 [m, n], in place of a draw, for shapes alone.

    Whenever a flax module is applied, flax traces its initializers to compare shapes. With this source there is
    nothing to trace.
    """
    return jnp.zeros(shape, jnp.float32)


def orthogonal(scale: float = 1.0, draw: DrawFn = draw_orthonormal) -> Callable[..., Array]:
    """Make an orthogonal initializer (Saxe et al. 2014, arXiv:1312.6120).

    Args:
        scale: gain; √2 for hidden layers is the usual choice in PPO (Huang et al. 2022, "The 37 Implementation Details
            of Proximal Policy Optimization", detail 2).
        draw: source of matrices with orthonormal columns; `batched_init` passes its own.

    Returns:
        (key, shape, dtype) -> array of `shape`. As a matrix [inputs, outputs], where the last axis is that of the
        outputs, it is `scale` times a matrix with orthonormal rows or columns.
    """

    def init(key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        rows, columns = prod(shape[:-1]), shape[-1]
        q = draw(key, (max(rows, columns), min(rows, columns)))
        return (scale * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)

    return init


LECUN: dict[str, Callable[..., Array]] = {
    "lecun_uniform": nn.initializers.lecun_uniform(),
    "lecun_normal": nn.initializers.lecun_normal(),
}


def initial_kernel(name: KernelInit, scale: float, draw: DrawFn) -> Callable[..., Array]:
    """Return the initializer with this name.

    The entries of lecun_uniform and lecun_normal, the default of flax, have mean 0 and variance 1 / inputs, whatever
    `scale` is (LeCun et al. 1998, "Efficient BackProp", section 4.6). Those of lecun_normal are from a normal
    distribution truncated at two standard deviations.

    Args:
        name: a value of `NetworkConfig.kernel_init`.
        scale: gain of "orthogonal".
        draw: source of matrices with orthonormal columns for "orthogonal".

    Returns:
        (key, shape, dtype) -> array of `shape`.
    """
    return orthogonal(scale, draw) if name == "orthogonal" else LECUN[name]


def orthogonal_gates(num_gates: int, draw: DrawFn = draw_orthonormal) -> Callable[..., Array]:
    """Make an initializer of the kernels of all gates of a recurrent cell, each orthogonal.

    Args:
        num_gates: number of gates, G.
        draw: source of matrices with orthonormal columns.

    Returns:
        (key, (D, G * H), dtype) -> [D, G * H], the kernels [D, H] of the gates side by side.
    """

    def init(key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        one, gate = orthogonal(1.0, draw), (shape[0], shape[1] // num_gates)
        return jnp.concatenate([one(k, gate, dtype) for k in jax.random.split(key, num_gates)], axis=1)

    return init


def batched_init(init: Callable[[PRNGKey, DrawFn], Params]) -> Callable[[PRNGKey], Params]:
    """Serve all orthonormal matrices of an initialization from one random draw.

    The distribution is that of separate draws, with less to compile: XLA compiles each small draw and each loop of
    Gram-Schmidt as separate programs. Matrices with equally many rows go through one vmapped loop, padded with
    columns of zeros on the right, which leave the columns before them unchanged.

    Args:
        init: (key, draw) -> parameters. It must ask `draw` for the same shapes in the same order whenever it is
            called. If it calls `draw` under a `vmap`, all copies receive the same matrix.

    Returns:
        (key) -> parameters.
    """

    def init_batched(key: PRNGKey) -> Params:
        rest, draw_key = jax.random.split(key)
        shapes = _requested_shapes(init, rest)
        matrices = _draw_all(draw_key, shapes)
        return init(rest, lambda key, shape: matrices[shape].pop(0))

    return init_batched


def _requested_shapes(init: Callable[[PRNGKey, DrawFn], Params], key: PRNGKey) -> list[tuple[int, int]]:
    """Trace `init` and list the shapes of the matrices that it asks for, in order."""
    shapes: list[tuple[int, int]] = []

    def record(key: PRNGKey, shape: tuple[int, int]) -> Array:
        shapes.append(shape)
        return draw_zeros(key, shape)

    # eval_shape caches by function: a new lambda makes it trace.
    jax.eval_shape(lambda key: init(key, record), jax.ShapeDtypeStruct(key.shape, key.dtype))
    return shapes


def _draw_all(key: PRNGKey, shapes: list[tuple[int, int]]) -> dict[tuple[int, int], list[Array]]:
    """Draw one orthonormal matrix per entry of `shapes`, grouped by shape."""
    shapes = sorted(shapes, key=list(dict.fromkeys(shapes)).index)  # equal shapes next to each other
    sizes = [prod(shape) for shape in shapes]
    values = jnp.split(jax.random.normal(key, (sum(sizes),), jnp.float32), np.cumsum(sizes)[:-1])
    matrices: dict[tuple[int, int], list[Array]] = {shape: [] for shape in shapes}
    for rows in dict.fromkeys(rows for rows, _ in shapes):
        group = [(shape, x.reshape(shape)) for shape, x in zip(shapes, values, strict=True) if shape[0] == rows]
        widest = max(columns for (_, columns), _ in group)
        padded = jnp.stack([jnp.pad(x, ((0, 0), (0, widest - x.shape[1]))) for _, x in group])
        for (shape, _), q in zip(group, jax.vmap(gram_schmidt)(padded), strict=True):
            matrices[shape].append(q[:, : shape[1]])
    return matrices
