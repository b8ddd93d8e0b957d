"""A network of one's own: that of pgx's PPO for MinAtar (examples/minatar-ppo in sotetsuk/pgx), with its settings.

    python docs/recipes/minatar.py breakout STEPS

Koyamada et al. (2023), "Pgx: Hardware-accelerated parallel game simulators for reinforcement learning",
arXiv:2303.17503; Young and Tian (2019), "MinAtar", arXiv:1903.03176.
"""

import sys
import time

import flax.linen as nn
import jax.numpy as jnp

import purejaxppo as pp
from purejaxppo.distributions import Categorical


class Model(nn.Module):
    """Policy and value on one convolution, pooled, and one dense layer; then two dense layers each."""

    num_actions: int

    @nn.compact
    def __call__(self, obs):
        """Return a distribution [...] and values [...] for grids [..., H, W, C]."""
        *batch, height, width, _ = obs.shape
        padded = jnp.pad(obs.astype(jnp.float32), [(0, 0)] * len(batch) + [(0, 1), (0, 1), (0, 0)])
        patches = [padded[..., i : i + height, j : j + width, :] for i in (0, 1) for j in (0, 1)]
        x = nn.relu(nn.Dense(32)(jnp.concatenate(patches, axis=-1)))  # nn.Conv(32, (2, 2)), many times as fast on a CPU
        x = x.reshape(*batch, height, width // 2, 2, 16, 2).mean((-3, -1))  # pgx pools pairs of columns and of filters
        x = nn.relu(nn.Dense(64)(x.reshape(*batch, -1)))
        logits, value = (self.head(x, size) for size in (self.num_actions, 1))
        return Categorical(logits), value[..., 0]

    def head(self, x, size):
        """Map features [..., D] to [..., size]."""
        return nn.Dense(size)(nn.tanh(nn.Dense(64)(nn.tanh(nn.Dense(64)(x)))))


def network(env):
    """Return the network for an environment with grids and Discrete actions."""
    return pp.from_module(Model(env.action_space.n), env)


if __name__ == "__main__":
    game, steps = sys.argv[1], int(sys.argv[2])
    pp.prepare_cpu()
    env = pp.make(f"pgx/minatar-{game}")
    config = pp.Config(4096, 128, num_epochs=3, num_minibatches=128, total_timesteps=steps)
    algo = pp.make_ppo(env, network(env), config)
    h = pp.Hyperparams(learning_rate=3e-4, lr_anneal=0.0, ent_coef=0.01, vf_coef=0.25, vf_clip_eps=0.2)
    start = time.perf_counter()
    for state, metrics in pp.iterate(algo, pp.init_state(algo, 0, h), h, chunk=1):
        minutes = (time.perf_counter() - start) / 60
        steps = state.num_updates * config.timesteps_per_update
        played = pp.evaluate(algo, state, 0, num_episodes=100, greedy=False).returns.mean()  # as pgx does
        ended = metrics.episode_return_mean[0]
        print(f"{steps} steps, {minutes:.1f} min: {ended:.2f} in training, {played:.2f} in new episodes", flush=True)
