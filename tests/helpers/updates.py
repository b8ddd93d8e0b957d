"""Small algorithms and one update of each, for tests of the page."""

from functools import cache, partial

import jax
import jax.numpy as jnp
from plain_net import plain
from probes import chain, endless, reward_by_distance

import purejaxppo as pp
from purejaxppo import Config, ppo
from purejaxppo.training.loop import as_traced

CHAIN, PUSH, ENDLESS = chain(limit=5), reward_by_distance(action_dim=2), endless(limit=4)

TINY = Config(num_envs=3, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=24 * 4)


@cache
def algorithm(env, config=TINY):
    return pp.make_ppo(env, plain(env), config)


@cache
def compiled(function):
    """Return one program per function, shared by all tests: compilation takes most of their time."""
    return jax.jit(function)


def one_update(algo, h=None, seed=0, updates=1):
    h = as_traced(h)
    state = compiled(algo.init)(jax.random.key(seed), h)
    step = compiled(algo.update)
    for _ in range(updates):
        before, (state, metrics) = again(state), step(state, h)
    return before, state, metrics


def again(tree):
    """Return equal values with unused keys: a test may read a state twice, the library may not use a key twice."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.clone(x) if is_key(x) else x, tree)


def values_of(algo, seed=0):
    state = compiled(algo.init)(jax.random.key(seed), as_traced(None))
    components = algo.components
    after, rollout = jax.jit(partial(ppo.collect_rollout, components))(state, jax.random.key(5))
    values, next_values = jax.jit(partial(ppo.state_values, components))(state.params, after, rollout)
    return state, after, rollout, values, next_values
