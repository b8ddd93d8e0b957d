"""Actor-critic networks behind one signature, feed-forward and recurrent alike.

`apply` reads a block of time: obs [T, N, ...] and reset [T, N], where reset[t] says that the carry is to be
emptied *before* obs[t] is read. A feed-forward network has the empty carry `()` and ignores `reset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo.distributions import Categorical, DiagonalGaussian
from purejaxppo.environment import Discrete, Env, zero_of

Array = jax.Array


class Network(NamedTuple):
    """An actor-critic as three pure functions.

    The starting carry has a function of its own (the design has it inside `init`): evaluation needs a carry
    for another number of environments without drawing parameters.
    """

    init: Callable[[Array], Any]  # (key) -> params
    initial_carry: Callable[[int], Any]  # (num_envs) -> carry, leaves [N, ...]; () where there is no memory
    apply: Callable[..., tuple[Any, Any, Array]]
    # (params, carry [N, ...], obs [T, N, ...], reset [T, N]) -> (carry [N, ...], distribution [T, N], value [T, N])


class MLPActorCritic(nn.Module):
    """Two separate MLPs: orthogonal init, gain √2 in the trunk, 0.01 at the policy head, 1 at the value head."""

    action_space: Any
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"

    def trunk(self, x: Array, name: str) -> Array:
        """Hidden layers of one of the two networks, x [..., D] -> [..., hidden_sizes[-1]]."""
        for i, width in enumerate(self.hidden_sizes):
            dense = nn.Dense(width, kernel_init=nn.initializers.orthogonal(2**0.5), name=f"{name}_{i}")
            x = getattr(nn, self.activation)(dense(x))
        return x

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Any, Array]:
        """Obs [..., D] -> (distribution [...], value [...])."""
        actor = self.trunk(obs, "actor")
        critic = self.trunk(obs, "critic")
        value = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")(critic)
        head = nn.initializers.orthogonal(0.01)
        if isinstance(self.action_space, Discrete):
            logits = nn.Dense(self.action_space.n, kernel_init=head, name="policy")(actor)
            return Categorical(logits), value[..., 0]
        size = int(self.action_space.low.size)
        mean = nn.Dense(size, kernel_init=head, name="policy")(actor)
        log_std = self.param("log_std", nn.initializers.zeros, (size,))
        return DiagonalGaussian(mean, jnp.broadcast_to(log_std, mean.shape)), value[..., 0]


def mlp(env: Env, hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh") -> Network:
    """A feed-forward actor-critic for `env`: separate actor and critic MLPs."""
    module = MLPActorCritic(env.action_space, tuple(hidden_sizes), activation)

    def init(key: Array) -> Any:
        return module.init(key, flat(zero_of(env.observation_space)))

    def flat(obs: Array) -> Array:
        lead = obs.ndim - len(env.observation_space.shape)
        return obs.reshape(*obs.shape[:lead], -1).astype(jnp.float32)

    def apply(params: Any, carry: Any, obs: Any, reset: Array) -> tuple[Any, Any, Array]:
        distribution, value = module.apply(params, flat(obs))
        return carry, distribution, value

    return Network(init, lambda num_envs: (), apply)
