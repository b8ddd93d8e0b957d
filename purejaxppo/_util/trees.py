"""Helpers for pytrees of arrays."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import PyTree

Tree = TypeVar("Tree")


def tree_where(pred: Array, new: Tree, old: Tree) -> Tree:
    """Return `new` if `pred` [] is true, else `old`, leaf by leaf; both have the same structure, shapes and dtypes."""
    return jax.tree.map(lambda n, o: jnp.where(pred, n, o), new, old)


def all_finite(tree: PyTree) -> Array:
    """Return whether no floating-point number of a tree is NaN or infinite, bool [].

    0 · x is 0 for finite x, else NaN. Leaves of one shape and dtype are summed in one loop.
    """
    groups: dict[tuple, Array] = {}
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            zeros = leaf * jnp.zeros((), leaf.dtype)
            kind = (leaf.shape, leaf.dtype)
            groups[kind] = groups[kind] + zeros if kind in groups else zeros
    return jnp.stack([jnp.sum(zeros) == 0.0 for zeros in groups.values()] or [jnp.bool_(True)]).all()


def stays_finite(new: Tree, old: Tree) -> Array:
    """Return whether every floating-point number of `new` is finite or as it was in `old`, bool [].

    An infinity that an optimizer starts from, such as the best loss so far, may stay.
    """

    def is_sound(n: Array, o: Array) -> Array:
        return (jnp.isfinite(n) | (n == o)).all() if jnp.issubdtype(n.dtype, jnp.floating) else jnp.bool_(True)

    return jnp.stack(jax.tree.leaves(jax.tree.map(is_sound, new, old))).all()


def any_nan(tree: PyTree) -> Array:
    """Return whether a floating-point number of a tree is NaN, bool []."""
    found = [jnp.isnan(x).any() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.bool_(False), *found]).any()


def add_time_axis(tree: PyTree) -> PyTree:
    """Add a leading time axis of length 1: leaves [N, ...] -> [1, N, ...]."""
    return jax.tree.map(lambda x: x[None], tree)


def drop_time_axis(tree: PyTree) -> PyTree:
    """Select the first time step: leaves [T, N, ...] -> [N, ...]."""
    return jax.tree.map(lambda x: x[0], tree)


def nonfinite(tree: PyTree, shape: tuple[int, ...]) -> Array:
    """Return where any floating-point number of a tree is NaN or infinite.

    Args:
        tree: leaves [*shape, ...].
        shape: the axes of the result, such as (T, N).

    Returns:
        bool, of that shape.
    """
    found = jnp.zeros(shape, bool)
    for x in jax.tree.leaves(tree):
        if jnp.issubdtype(x.dtype, jnp.floating):
            found |= ~jnp.isfinite(x).all(axis=tuple(range(len(shape), x.ndim)))
    return found


def strong_dtypes(tree: PyTree) -> PyTree:
    """Remove weak types, so that the first update does not trigger a recompilation."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: x if is_key(x) else jax.lax.convert_element_type(x, x.dtype), tree)
