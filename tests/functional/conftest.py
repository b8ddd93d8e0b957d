"""Three ways to call a formula: op by op, compiled, and under vmap."""

import functools

import jax
import jax.numpy as jnp
import pytest
from slow import slow_except


@functools.cache
def compiled(fn, mapped):
    return jax.jit(jax.vmap(fn) if mapped else fn)


@pytest.fixture(params=slow_except(["plain", "jit", "vmap"], "jit", "vmap"))
def run(request):
    """Call a function op by op, compiled, or as the second lane of a vmap whose first lane has other values."""

    def other(x):
        return x[::-1] if x.ndim else jnp.ones_like(x)

    def call(fn, *args):
        args = jax.tree.map(jnp.asarray, args)
        if request.param == "plain":
            return fn(*args)
        if request.param == "jit":
            return compiled(fn, False)(*args)
        lanes = jax.tree.map(lambda x: jnp.stack([other(x), x]), args)
        return jax.tree.map(lambda x: x[1], compiled(fn, True)(*lanes))

    return call
