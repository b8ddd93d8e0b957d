"""Networks that suites publish with their own PPO, for purejaxppo: layers of flax, with the peers' initial weights.

`NETWORKS` maps the entry "published" of a specification to a function (env, spec) -> (env, network). The environment is
returned because a network may read more than the environment shows by default. A name that ends in "_patches" stands
for the same functions and parameters with this package's convolution, a matrix product over all patches. Inside a loop
XLA's CPU backend takes twelve times as long for the gradient of a minibatch of MinAtar's network as outside of one.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import orthogonal, variance_scaling

import purejaxppo as pp
from purejaxppo.distributions import Categorical
from purejaxppo.envs import box
from purejaxppo.envs.spaces import zero_of
from purejaxppo.envs.wrappers import append_previous
from purejaxppo.networks.cpu_layers import PatchConvolution
from purejaxppo.networks.recurrent import GRU

# Haiku's layers start as a normal of variance 1 / inputs, truncated at two standard deviations. Flax divides by the
# standard deviation that is left after truncation; the factor takes that back.
HAIKU = {"kernel_init": variance_scaling(0.87962566103423978**2, "fan_in", "truncated_normal")}
TABLE = variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=-2)  # of nn.Embed


def convolution(x, width, kernel_init, patches):
    """Convolve images [B, H, W, C] by 2 x 2, without padding."""
    if patches:
        return PatchConvolution(width, 2, kernel_init, jnp.float32)(x)
    return nn.Conv(width, (2, 2), padding="VALID", kernel_init=kernel_init)(x)


class MinAtar(nn.Module):
    """The network of pgx for MinAtar: a pooled convolution, a shared dense layer, two layers for each head."""

    num_actions: int
    patches: bool = False  # convolve by a product over patches

    @nn.compact
    def __call__(self, obs):
        """Map images [T, N, 10, 10, C] to a distribution [T, N] and values [T, N]."""
        steps = obs.shape[:2]
        x = obs.reshape(-1, *obs.shape[2:]).astype(jnp.float32)
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # as "SAME" does
        x = nn.relu(convolution(x, 32, HAIKU["kernel_init"], self.patches))
        # Haiku's window (2, 2) covers the last two axes: pairs of columns and pairs of filters.
        x = nn.avg_pool(x[..., None], (1, 2, 2), (1, 2, 2))
        x = nn.relu(nn.Dense(64, **HAIKU)(x.reshape(len(x), -1)))
        logits, value = self.head(x, self.num_actions), self.head(x, 1)
        return Categorical(logits.reshape(*steps, -1)), value.reshape(steps)

    def head(self, x, size):
        """Map features [B, D] to [B, size]."""
        for _ in range(2):
            x = nn.tanh(nn.Dense(64, **HAIKU)(x))
        return nn.Dense(size, **HAIKU)(x)


class XLand(nn.Module):
    """The network of XLand-MiniGrid: embedded symbols, three convolutions, a shared GRU, two layers for each head."""

    num_actions: int
    num_symbols: tuple[int, int]  # tiles, colors
    embedding_size: int
    rnn_size: int
    head_size: int
    patches: bool = False  # convolve by a product over patches

    @nn.compact
    def __call__(self, rnn_state, obs, is_first):
        """Map observations [T, N, ...] to the next recurrent state [N, H], logits [T, N, A] and values [T, N]."""
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), obs)
        view = rows["view"].astype(jnp.int32)
        tables = [nn.Embed(n, self.embedding_size)(view[..., i]) for i, n in enumerate(self.num_symbols)]
        x = jnp.concatenate(tables, axis=-1)
        for width in (16, 32, 64):
            x = nn.relu(convolution(x, width, orthogonal(2.0**0.5), self.patches))
        direction = nn.Dense(16)(rows["direction"])
        action = nn.Dense(16, use_bias=False, kernel_init=TABLE)(rows["previous_action"])
        x = jnp.concatenate([x.reshape(len(x), -1), direction, action, rows["previous_reward"]], axis=-1)
        rnn_state, x = GRU(self.rnn_size)(rnn_state, x.reshape(*is_first.shape, -1), is_first)
        x = x.reshape(-1, self.rnn_size)
        logits, value = self.head(x, self.num_actions, 0.01), self.head(x, 1, 1.0)
        return rnn_state, logits.reshape(*is_first.shape, -1), value.reshape(is_first.shape)

    def head(self, x, size, scale):
        """Map features [B, D] to [B, size]."""
        x = nn.tanh(nn.Dense(self.head_size, kernel_init=orthogonal(2.0))(x))
        return nn.Dense(size, kernel_init=orthogonal(scale))(x)


def with_direction(env):
    """Return an environment of XLand-MiniGrid that also shows the direction of the agent, one-hot."""

    def see(timestep, view):
        return {"view": view, "direction": jax.nn.one_hot(timestep.state.agent.direction, 4)}

    def reset(key):
        state, view = env.reset(key)
        return state, see(state, view)

    def step(key, state, action):
        state, timestep = env.step(key, state, action)
        obs = see(state, timestep.obs)
        return state, timestep._replace(obs=obs, final_obs=obs)

    space = {"view": env.observation_space, "direction": box(0, 1, (4,))}
    return env._replace(reset=reset, step=step, observation_space=space)


def minatar(env, spec, patches=False):
    """Return the network of pgx's examples/minatar-ppo."""
    return env, pp.from_module(MinAtar(env.action_space.n, patches), env)


def xland(env, spec, patches=False):
    """Return the network of XLand-MiniGrid's training/nn.py, with the sizes of the specification."""
    settings = spec["network"]
    (head_size,) = settings["hidden_sizes"]
    symbols = tuple(int(n) + 1 for n in env.observation_space.high.reshape(-1, 2).max(0))
    env = append_previous(with_direction(env))
    module = XLand(env.action_space.n, symbols, settings["embedding_size"], settings["rnn_size"], head_size, patches)

    def initial_rnn_state(num_envs):
        return jnp.zeros((num_envs, settings["rnn_size"]))

    def init(key):
        obs = jax.tree.map(lambda x: x[None, None], zero_of(env.observation_space))
        return module.init(key, initial_rnn_state(1), obs, jnp.ones((1, 1), bool))

    def apply(params, rnn_state, obs, is_first):
        rnn_state, logits, value = module.apply(params, rnn_state, obs, is_first)
        return rnn_state, Categorical(logits), value

    return env, pp.Network(init, apply, initial_rnn_state)


NETWORKS = {"pgx_minatar": minatar, "xland": xland}
NETWORKS |= {f"{name}_patches": partial(make, patches=True) for name, make in NETWORKS.items()}
