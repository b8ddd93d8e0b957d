"""Selections between pytrees are bitwise."""

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.trees import tree_where


def test_tree_where_leaves_trees_bitwise_unchanged():
    """Unusual bit patterns (-0, NaN, subnormal, inf), integers and bools are kept; lanes of a vmap are independent."""
    floats = np.array([0x80000000, 0x7FC00001, 0x00000001, 0x7F800000, 0x3F800000], np.uint32).view(np.float32)
    old = {"w": jnp.asarray(floats), "count": jnp.int32(7), "flag": jnp.asarray([True, False])}
    new = {"w": jnp.zeros(5), "count": jnp.int32(8), "flag": jnp.asarray([False, True])}

    def same(a, b):
        return all(
            np.asarray(x).tobytes() == np.asarray(y).tobytes()
            for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
        )

    assert same(tree_where(jnp.bool_(False), new, old), old)
    assert same(tree_where(jnp.bool_(True), new, old), new)
    lanes = jax.jit(jax.vmap(tree_where, in_axes=(0, None, None)))(jnp.asarray([False, True]), new, old)
    assert same(jax.tree.map(lambda x: x[0], lanes), old)
    assert same(jax.tree.map(lambda x: x[1], lanes), new)
