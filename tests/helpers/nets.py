"""Helpers for tests of networks: parameters without compiled initializers, and spaces of every kind."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.schema import NetworkConfig
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box, sample_space

T, N = 3, 2  # axes of the blocks of time
SMALL = NetworkConfig(hidden_sizes=(8,), rnn_size=4)


def small(**changes):
    return dataclasses.replace(SMALL, **changes)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def lead(space, *axes):
    """Return the shapes and dtypes of elements of a space with leading axes."""
    one = jax.eval_shape(partial(sample_space, space), jax.eval_shape(lambda: jax.random.key(0)))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), one)


def x64():
    """Return a context in which new arrays are 64 bits wide by default."""
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()


def uniforms(rng, *shape):
    return jnp.asarray(rng.uniform(-1, 1, size=shape), jnp.float32)


def dense(params, x):
    return x @ np.float64(params["kernel"]) + np.float64(params["bias"])


def env_of(observation_space, action_space):
    """Make an environment of these spaces: random observations, reward 1, a fifth of the steps end an episode."""

    def reset(key):
        return jnp.int32(0), sample_space(observation_space, key)

    def step(key, state, action):
        obs_key, end_key, cut_key = jax.random.split(key, 3)
        obs = sample_space(observation_space, obs_key)
        ends = (jax.random.bernoulli(k, 0.1) for k in (end_key, cut_key))
        return state + 1, TimeStep(obs, jnp.float32(1.0), *ends, obs)

    return Env(reset, step, observation_space, action_space)


def params_of(network, seed=0):
    """Draw parameters of the right shapes, normal, scaled by their fan-in."""
    rng = np.random.default_rng(seed)

    def draw(x):
        fan_in = np.prod(x.shape[:-1]) if len(x.shape) > 1 else 1
        return jnp.asarray(rng.normal(size=x.shape) / np.sqrt(fan_in), x.dtype)

    return jax.tree.map(draw, jax.eval_shape(network.init, jax.random.key(0)))


def sample_block(space, *lead, seed=0):
    """Draw elements of a bounded space, leaves [*lead, ...], with NumPy, so that nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if isinstance(leaf, Discrete):
            return rng.integers(leaf.n, size=lead, dtype=np.int32)
        if isinstance(leaf, MultiDiscrete):
            return rng.integers(leaf.nvec, size=(*lead, len(leaf.nvec)), dtype=np.int32)
        x = leaf.low + rng.random((*lead, *leaf.shape)) * (leaf.high.astype(np.float64) - leaf.low)
        return (x if leaf.dtype == np.float32 else np.round(x)).astype(leaf.dtype)

    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf)), space)


BOOLS = {n: box(0, 1, (n,), bool) for n in (2, 3, 5)}
IMAGE = box(0, 255, (5, 6, 2), np.uint8, pixels=True)
SYMBOLS = box(0, [10, 5, 2], (5, 4, 3), np.uint8, codes=True)  # as MiniGrid: 11 objects, 6 colors, 3 states
OBSERVATIONS = {
    "vector": box(-1, 1, (3,)),
    "scalar": box(-1, 1, ()),
    "matrix": box(-1, 1, (4, 3)),
    "int vector": box(0, 9, (3,), np.int32),
    "bool image": box(0, 1, (5, 6, 2), bool),
    "pixels": IMAGE,
    "uint8 image": box(0, 9, (5, 6, 2), np.uint8),
    "flat image": box(0, 255, (5, 6), np.uint8, pixels=True),
    "large image": box(0, 255, (36, 40, 1), np.uint8, pixels=True),
    "symbols": SYMBOLS,
    "flat symbols": box(1, 4, (5, 4), np.int32, codes=True),
    "symbol vector": box(-1, [1, 2], (2,), np.int32, codes=True),
    "video": box(0, 1, (2, 5, 6, 2)),
    "discrete": Discrete(4),
    "multi-discrete": MultiDiscrete((2, 3)),
    "dict": {"image": IMAGE, "b": Discrete(3), "a": box(-1, 1, (2,))},
    "tuple": (box(-1, 1, (2,)), {"x": Discrete(2), "y": IMAGE}),
    "masked": {"observation": IMAGE, "action_mask": box(0, 1, (3,), bool)},
    "asymmetric": {"actor": IMAGE, "critic": {"state": box(-1, 1, (4,)), "image": IMAGE}},
}
ACTIONS = {
    "discrete": Discrete(3),
    "multi-discrete": MultiDiscrete((3, 2)),
    "box": box(-2, 2, (2,)),
    "one number": box(-2, 2, ()),
    "matrix": box(-2, 2, (2, 3)),
    "dict": {"b": box(-1, 1, (2,)), "a": Discrete(2)},
    "tuple": (MultiDiscrete((2, 2)), {"x": box(-1, 1, ()), "y": box(-2, 2, (2, 2))}),
}
