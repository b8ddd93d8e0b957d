"""Next-observation prediction: an auxiliary loss that trains the layers that policy and value share.

Shelhamer et al. (2016), "Loss is its own reward: self-supervision for reinforcement learning", arXiv:1612.07307.
"""

import flax.linen as nn
import jax.numpy as jnp

from purejaxppo import Network
from purejaxppo.distributions import Categorical


class Model(nn.Module):
    """Policy, value and a model of the environment on one torso. Vector observations, Discrete actions."""

    num_actions: int
    obs_size: int
    width: int = 64

    def setup(self):
        """Declare the layers."""
        self.torso = nn.Sequential([nn.Dense(self.width), nn.tanh, nn.Dense(self.width), nn.tanh])
        self.policy = nn.Dense(self.num_actions, kernel_init=nn.initializers.orthogonal(0.01))
        self.value = nn.Dense(1)
        self.change = nn.Dense(self.num_actions * self.obs_size)

    def __call__(self, obs):
        """Return logits [..., A], value [...] and the predicted change for each action [..., A, D]."""
        x = self.torso(obs)
        change = self.change(x).reshape(*x.shape[:-1], self.num_actions, self.obs_size)
        return self.policy(x), self.value(x)[..., 0], change


def next_observation(env, coef=1.0):
    """Return a network for `env`, and the auxiliary loss for `make_ppo`: mean squared error of the predicted s' - s."""
    model = Model(env.action_space.n, env.observation_space.shape[0])

    def init(key):
        return model.init(key, jnp.zeros(env.observation_space.shape))

    def apply(params, rnn_state, obs, is_first):
        logits, value, _ = model.apply(params, obs)
        return rnn_state, Categorical(logits), value

    def auxiliary_loss(params, batch, h):
        change = model.apply(params, batch.obs)[2]
        predicted = jnp.take_along_axis(change, batch.action[..., None, None], axis=-2)[..., 0, :]
        return coef * jnp.square(predicted - (batch.next_obs - batch.obs)).mean()

    return Network(init, apply), auxiliary_loss
