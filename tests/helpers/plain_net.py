"""A plain actor-critic: two small tanh MLPs whose weights are large enough to distinguish states."""

from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.distributions import Categorical, DiagonalGaussian
from purejaxppo.envs.protocol import Env
from purejaxppo.envs.spaces import Discrete
from purejaxppo.networks.protocol import Network


def bias(b: jax.Array, x: jax.Array) -> jax.Array:
    """Reshape b [D] to the rank of x."""
    return b.reshape((1,) * (x.ndim - 1) + (-1,))


def plain(env: Env, width: int = 4) -> Network:
    """Make a Network for a vector observation and a Discrete or Box action."""
    size = env.observation_space.shape[0]
    discrete = isinstance(env.action_space, Discrete)
    outputs = env.action_space.n if discrete else env.action_space.shape[0]

    def init(key: jax.Array) -> dict[str, jax.Array]:
        params = {} if discrete else {"log_std": jnp.full(outputs, -0.3)}
        for name, last in (("actor", outputs), ("critic", 1)):
            key, first_key, last_key = jax.random.split(key, 3)
            params |= {f"{name}_w0": jax.random.normal(first_key, (size, width)), f"{name}_b0": jnp.full(width, 0.1)}
            params |= {f"{name}_w1": jax.random.normal(last_key, (width, last)), f"{name}_b1": jnp.full(last, -0.1)}
        return params

    def head(params: Any, name: str, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(x @ params[f"{name}_w0"] + bias(params[f"{name}_b0"], x))
        return hidden @ params[f"{name}_w1"] + bias(params[f"{name}_b1"], x)

    def apply(params: Any, rnn_state: Any, obs: jax.Array, is_first: jax.Array) -> tuple[Any, Any, jax.Array]:
        out, value = head(params, "actor", obs), head(params, "critic", obs)[..., 0]
        if discrete:
            return rnn_state, Categorical(out), value
        return rnn_state, DiagonalGaussian(out, jnp.broadcast_to(bias(params["log_std"], out), out.shape)), value

    return Network(init, apply)
