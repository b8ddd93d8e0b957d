"""Helpers for pytrees of arrays."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

Tree = TypeVar("Tree")


def tree_where(pred: Array, new: Tree, old: Tree) -> Tree:
    """`new` where `pred` [] holds, else `old`: leaf by leaf, bitwise; both of one structure, shapes and dtypes."""
    return jax.tree.map(lambda n, o: jnp.where(pred, n, o), new, old)


def add_time_axis(tree: Any) -> Any:
    """One step as a block of time: leaves [N, ...] -> [1, N, ...]."""
    return jax.tree.map(lambda x: x[None], tree)


def drop_time_axis(tree: Any) -> Any:
    """The first step of a block of time: leaves [T, N, ...] -> [N, ...]."""
    return jax.tree.map(lambda x: x[0], tree)


def strong_dtypes(tree: Any) -> Any:
    """The same arrays without weak types, which an update would strip: then a second compile for the same program."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: x if is_key(x) else jax.lax.convert_element_type(x, x.dtype), tree)
