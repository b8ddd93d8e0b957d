"""Random network distillation: a reward for observations that a predictor has not learned yet.

Burda et al. (2019), "Exploration by random network distillation", arXiv:1810.12894.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from purejaxppo.hooks import IntrinsicReward
from purejaxppo.optimizer import gradient_step


class State(NamedTuple):
    """The state of the intrinsic reward."""

    target: dict  # parameters of the random network; they never change
    predictor: dict  # parameters of the network that imitates it
    opt_state: optax.OptState
    mean_square: jax.Array  # [] running mean of the squared error, the scale of the bonus


def rnd(coef=1.0, learning_rate=1e-3, num_steps=4, width=64, decay=0.99) -> IntrinsicReward:
    """Return the prediction error of vector observations as an intrinsic reward.

    Args:
        coef: root mean square of the bonus.
        learning_rate: of the predictor.
        num_steps: gradient steps of the predictor per rollout.
        width: of both networks.
        decay: of the running mean.
    """
    net = nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(width)])
    optimizer = optax.adam(learning_rate)

    def init(key, obs):
        target_key, predictor_key = jax.random.split(key)
        predictor = net.init(predictor_key, obs)
        return State(net.init(target_key, obs), predictor, optimizer.init(predictor), jnp.float32(1.0))

    def apply(state, rollout, h):
        goal = net.apply(state.target, rollout.final_obs)

        def errors(predictor):
            return jnp.square(net.apply(predictor, rollout.final_obs) - goal).mean(-1)

        def step(carry, _):
            predictor, opt_state = carry
            return gradient_step(optimizer, jax.grad(lambda p: errors(p).mean())(predictor), opt_state, predictor), None

        error = errors(state.predictor)
        mean_square = decay * state.mean_square + (1.0 - decay) * jnp.square(error).mean()
        (predictor, opt_state), _ = jax.lax.scan(step, (state.predictor, state.opt_state), length=num_steps)
        state = State(state.target, predictor, opt_state, mean_square)
        return state, coef * error / jnp.sqrt(mean_square + 1e-12), {"rnd_error": error.mean()}

    return IntrinsicReward(init, apply)
