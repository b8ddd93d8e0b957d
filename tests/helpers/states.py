"""A state with every kind of leaf that a checkpoint stores, and an algorithm that makes it without compiling."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.schema import Config
from purejaxppo.envs.spaces import Discrete, Space


class Inner(NamedTuple):
    weights: Any
    counts: Any


class OddState(NamedTuple):
    params: Any
    inner: Any
    env_state: Any
    key: jax.Array
    num_updates: jax.Array


class FakeEnv(NamedTuple):
    name: str = "odd"
    observation_space: Space = Discrete(2)
    action_space: Space = Discrete(2)


def odd_state(key: jax.Array, width: int = 3, more: bool = False) -> OddState:
    """NaN, infinities, -0, denormals, empty arrays, flags, half precision, keys of two kinds and weak types."""
    numbers = jnp.array([jnp.nan, -jnp.inf, -0.0, 1e-40, 3.4e38, *range(width)], jnp.float32)
    params = {"dense/0": numbers.astype(jnp.bfloat16), "dense": {"0": numbers, "empty": jnp.zeros((0, 2))}}
    params |= {"more": jnp.ones(2)} if more else {}
    env_state = {
        "keys": jax.random.split(key, 4),
        "flags": jnp.arange(5) % 2 == 0,
        "bytes": jnp.arange(6, dtype=jnp.uint8).reshape(2, 3),
        "nothing": (),
    }
    inner = Inner(weights=jnp.asarray(2.5), counts=(jnp.int32(-7), jnp.full((2, 1), 3)))  # the first is weakly typed
    return OddState(params, inner, env_state, jax.random.clone(key), jnp.int32(41))


class OddAlgorithm(NamedTuple):
    config: Any = Config(num_envs=2)
    env: Any = FakeEnv()
    width: int = 3
    more: bool = False

    def init(self, key, hyperparams):
        return odd_state(key, self.width, self.more)


def bits(tree: Any) -> list:
    """Return everything that makes two trees equal: structure, dtypes, weak types, kinds of keys and bytes."""

    def of(leaf: Any) -> tuple:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        return str(leaf.dtype), bool(getattr(leaf, "weak_type", False)), data.shape, data.tobytes()

    return [jax.tree.structure(tree), *map(of, jax.tree.leaves(tree))]
