"""Noisy descent as an Algorithm: a problem for searches of hyperparameters that compiles at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import purejaxppo as pp
from purejaxppo.functional.running_stats import init_moments
from purejaxppo.metrics import Metrics
from purejaxppo.types import Algorithm


class Point(NamedTuple):
    params: jax.Array  # [2]
    obs_moments: tuple
    num_updates: jax.Array
    key: jax.Array


def descent():
    """Noisy descent on f(x) = (50 x₁² + x₂²) / 2 from (1, 1); the return of an update is -f.

    Fast progress needs a large step along x₂, and the noise, which is proportional to the step, a small one at the end.
    """

    def init(key, h):
        return Point(jnp.ones(2), init_moments(jnp.zeros(2)), jnp.int32(0), key)

    def update(state, h):
        key, noise_key = jax.random.split(state.key)
        gradient = jnp.array([50.0, 1.0]) * state.params + jax.random.normal(noise_key, (2,))
        params = state.params - h.learning_rate * gradient
        loss = 0.5 * (50.0 * params[0] ** 2 + params[1] ** 2)
        values = dict.fromkeys(Metrics._fields, jnp.float32(0.0)) | {"diagnostics": (), "extra": ()}
        values |= {"total_loss": loss, "episode_return_mean": -loss, "num_episodes": jnp.float32(1.0)}
        return Point(params, state.obs_moments, state.num_updates + 1, key), Metrics(**values)

    return Algorithm(init, update, None, None, pp.Config(), None)
