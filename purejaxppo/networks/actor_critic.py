"""Actor-critic networks behind one signature, feed-forward and recurrent.

`apply` reads a block of time: obs [T, N, ...] and is_first [T, N]. If is_first[t], the recurrent state is reset before
obs[t] is read. A feed-forward network has the empty recurrent state `()` and ignores `is_first`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo._util.aliases import Distribution, Observation, Params, PRNGKey, RnnState
from purejaxppo.config.checks import check_settings
from purejaxppo.config.schema import RECURRENT_KINDS, Activation, NetworkConfig
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.envs.spaces import zero_of
from purejaxppo.networks.cpu_layers import Dense
from purejaxppo.networks.encoders import encode
from purejaxppo.networks.initializers import DrawFn, batched_init, draw_orthonormal, draw_zeros, initial_kernel
from purejaxppo.networks.inputs import Inputs, check_observation_space, to_inputs, views
from purejaxppo.networks.policy_heads import (
    bound_log_std,
    check_action_space,
    log_std_around,
    num_logits,
    num_means,
    policy,
)
from purejaxppo.networks.protocol import Network
from purejaxppo.networks.recurrent import CELLS

Array = jax.Array


class ActorCritic(nn.Module):
    """The layers: encoder, recurrent cell if any, and heads; separate for actor and critic unless they share a torso.

    Kernels start orthogonal with gain √2 in the encoder, 0.01 at the policy head and 1 at the value head, biases at 0
    (Huang et al. 2022, "The 37 Implementation Details of Proximal Policy Optimization", details 2 and 13). Another
    `kernel_init` has no gains. Parameters and both heads are float32 whatever the compute dtype.
    """

    config: NetworkConfig
    num_logits: int
    num_means: int
    draw: DrawFn = draw_orthonormal  # source of the initial kernels

    def initial_rnn_state(self, num_envs: int) -> RnnState:
        """Return the zero recurrent states of actor and critic, leaves [N, ...]; () without a recurrent cell."""
        if self.config.kind not in RECURRENT_KINDS:
            return ()
        names = ("shared",) if self.config.shared_torso else ("actor", "critic")
        cell = CELLS[self.config.kind](self.config.rnn_size, parent=None)
        return {name: cell.initial_rnn_state(num_envs) for name in names}

    @nn.compact
    def __call__(
        self, rnn_state: RnnState, actor: Inputs, critic: Inputs, is_first: Array
    ) -> tuple[RnnState, Array, Array | None, Array]:
        """Apply all layers to a block of time.

        Args:
            rnn_state: recurrent state before the first step, leaves [N, ...].
            actor: inputs of the actor, leaves [T, N, ...].
            critic: inputs of the critic, leaves [T, N, ...].
            is_first: bool [T, N].

        Returns:
            The recurrent state after the last step, logits and means [T, N, D], log σ [T, N, A] (None if A = 0), and
            values [T, N].
        """
        steps = jax.tree.leaves(actor)[0].shape[:2]
        actor, critic = (jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs) for inputs in (actor, critic))
        if self.config.shared_torso:
            rnn_state, actor_features = self._torso(rnn_state, actor, is_first, "shared")
            critic_features = actor_features
        else:
            actor_state, actor_features = self._torso(rnn_state, actor, is_first, "actor")
            critic_state, critic_features = self._torso(rnn_state, critic, is_first, "critic")
            rnn_state = {**actor_state, **critic_state} if rnn_state else rnn_state
        kernel_init = initial_kernel(self.config.kernel_init, 1.0, self.draw)
        value = Dense(1, kernel_init=kernel_init, name="value")(critic_features)
        outputs = self._policy(actor_features)
        outputs, log_std = jax.tree.map(lambda x: x.reshape(*steps, x.shape[-1]), outputs)
        return rnn_state, outputs, log_std, value.reshape(steps)

    def _torso(self, rnn_state: RnnState, inputs: Inputs, is_first: Array, name: str) -> tuple[RnnState, Array]:
        """Encode inputs [T * N, ...] and apply the recurrent cell if there is one.

        Returns:
            The entry `name` of the recurrent state as a dict, and features float32 [T * N, D].
        """
        config = _critic_config(self.config) if name == "critic" else self.config
        x = encode(inputs, config, name, self.draw)
        if config.kind not in RECURRENT_KINDS:
            return rnn_state, x.astype(jnp.float32)
        cell = CELLS[config.kind](config.rnn_size, config.compute_dtype, self.draw, name=f"{name}_{config.kind}")
        cell_state, x = cell(rnn_state[name], x.reshape(*is_first.shape, x.shape[-1]), is_first)
        return {name: cell_state}, x.reshape(-1, x.shape[-1]).astype(jnp.float32)

    def _policy(self, features: Array) -> tuple[Array, Array | None]:
        """Compute logits and means [B, D], and log σ [B, A], a parameter per component or an output; None if A = 0."""
        config, means = self.config, self.num_means
        from_state = means if config.state_dependent_std else 0
        size = self.num_logits + means
        kernel_init = initial_kernel(config.kernel_init, 0.01, self.draw)
        outputs = Dense(size + from_state, kernel_init=kernel_init, name="policy")(features)
        if from_state:
            return outputs[..., :size], log_std_around(config.log_std_init, outputs[..., size:])
        if not means:
            return outputs, None
        log_std = self.param("log_std", nn.initializers.constant(config.log_std_init), (means,), jnp.float32)
        return outputs, jnp.broadcast_to(bound_log_std(log_std), (*outputs.shape[:-1], means))


def _critic_config(config: NetworkConfig) -> NetworkConfig:
    """Return the settings of the critic's torso."""
    activation = config.activation if config.critic_activation == "same" else config.critic_activation
    hidden_sizes = config.critic_hidden_sizes or config.hidden_sizes
    return dataclasses.replace(config, hidden_sizes=hidden_sizes, activation=activation)


def make_network(env: Env | VecEnv, config: NetworkConfig | None = None) -> Network:
    """Make the actor-critic that `config` describes for the observations and actions of `env`.

    Observations may be any Box, Discrete, MultiDiscrete, and dicts and tuples of them; {"actor": ..., "critic": ...} is
    asymmetric, and an "action_mask" forbids actions (`purejaxppo.envs.masks`). Actions may be Discrete, MultiDiscrete,
    Box of any shape, and dicts and tuples of them.

    Everything is raveled, unless kind or encoder is "cnn": then every Box [H, W] or [H, W, C] is convolved first.
    Discrete values become one-hot codes, pixels (a Box with `pixels`) are divided by 255, and other arrays are cast to
    float32. A Box of integers with `codes`, as the grid of objects, colors and states of MiniGrid, holds symbols: each
    entry of its last axis is a separate kind of code, with the Box's bounds as its range. Symbols become one-hot codes,
    or vectors of `embedding_size` learned values with symbols = "embedding", and are convolved like images:

        space = box(0, [10, 5, 2], (7, 7, 3), np.uint8, codes=True)  # 11 objects, 6 colors, 3 states
        network = make_network(env, NetworkConfig(encoder="cnn", symbols="embedding"))

    Kinds "gru", "lstm" and "lru" put a recurrent cell of `rnn_size` after the dense layers, one for the actor and one
    for the critic.

    Args:
        env: an environment, as `make` returns it.
        config: settings; default NetworkConfig().

    Raises:
        ConfigError: `config` is invalid; lists all problems.
        TypeError: `env` is no environment.
        ValueError: the spaces of `env` do not fit `config`. Also when the network is applied, if a mask or codes have
            become floats, as by normalization.
    """
    config = config or NetworkConfig()
    check_settings(network=config)
    _check_is_env(env)
    space, actions = env.observation_space, env.action_space
    seen = views(space)
    check_observation_space(space, config)
    check_action_space(actions, config, seen.mask)
    module = ActorCritic(config, num_logits(actions), num_means(actions), draw_zeros)
    mask_dtypes = [] if seen.mask is None else [x.dtype for x in jax.tree.leaves(zero_of(seen.mask))]

    def inputs(obs: Observation) -> tuple[Inputs, Inputs]:
        actor, critic, _ = views(obs)
        for_actor = to_inputs(seen.actor, actor, config)
        return for_actor, for_actor if seen.critic is seen.actor else to_inputs(seen.critic, critic, config)

    def init(key: PRNGKey, draw: DrawFn) -> Params:
        obs = jax.tree.map(lambda x: x[None, None], zero_of(space))
        return module.clone(draw=draw).init(key, module.initial_rnn_state(1), *inputs(obs), jnp.ones((1, 1), bool))

    def apply(
        params: Params, rnn_state: RnnState, obs: Observation, is_first: Array
    ) -> tuple[RnnState, Distribution, Array]:
        applied: Any = module.apply(params, rnn_state, *inputs(obs), is_first)
        rnn_state, outputs, log_std, value = applied
        mask = views(obs).mask
        if [x.dtype for x in jax.tree.leaves(mask)] != mask_dtypes:
            raise ValueError(f"the action mask must arrive as {mask_dtypes}: was it normalized with the observation?")
        return rnn_state, policy(actions, config, outputs, log_std, mask), value

    return Network(batched_init(init), apply, module.initial_rnn_state)


def _check_is_env(env: Any) -> None:
    if hasattr(env, "observation_space") and hasattr(env, "action_space"):
        return
    if isinstance(env, str):
        raise TypeError(f'env must be an environment, not the name "{env}": write make("{env}")')
    raise TypeError(f"env must be an environment, as make(...) returns it, not a {type(env).__name__}")


def mlp(
    env: Env | VecEnv, hidden_sizes: Sequence[int] = (64, 64), activation: Activation = "tanh", **options: Any
) -> Network:
    """Make a feed-forward actor-critic for `env`: dense layers, by default separate for actor and critic.

    Args:
        env: an environment.
        hidden_sizes: widths of the dense layers.
        activation: applied after every layer.
        **options: further fields of NetworkConfig.

    Raises:
        ConfigError: a setting is invalid.
        TypeError: `env` is no environment.
        ValueError: the spaces of `env` do not fit the settings.
    """
    return make_network(env, NetworkConfig("mlp", tuple(hidden_sizes), activation, **options))


def from_module(module: nn.Module, env: Env | VecEnv) -> Network:
    """Make a feed-forward network from your own linen module: obs [T, N, ...] -> (distribution [T, N], value [T, N]).

        class Mine(nn.Module):
            @nn.compact
            def __call__(self, obs):
                x = nn.relu(nn.Dense(128)(obs))
                return Categorical(nn.Dense(4)(x)), nn.Dense(1)(x)[..., 0]

        algo = make_ppo(env, from_module(Mine(), env))

    Observations arrive as the environment returns them. Distributions are in `purejaxppo.distributions`; bound the
    log σ of a Gaussian with `purejaxppo.networks.policy_heads.bound_log_std`. For a recurrent network, or one of
    another library (flax nnx, equinox), see `Network`.

    Args:
        module: an instance of a linen module.
        env: the environment that its observations come from.

    Raises:
        TypeError: `module` is no linen module, or `env` no environment.
        ValueError: when applied, if the module does not return a distribution and a value [T, N].
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"from_module takes an instance of a flax.linen module, not {module!r}")
    _check_is_env(env)
    name = type(module).__name__

    def init(key: PRNGKey) -> Params:
        return module.init(key, jax.tree.map(lambda x: x[None, None], zero_of(env.observation_space)))

    def apply(
        params: Params, rnn_state: RnnState, obs: Observation, is_first: Array
    ) -> tuple[RnnState, Distribution, Array]:
        applied: Any = module.apply(params, obs)
        if not isinstance(applied, tuple) or len(applied) != 2:
            raise ValueError(f"{name} must return (distribution, value), not a {type(applied).__name__}")
        distribution, value = applied
        if jnp.shape(value) != is_first.shape:
            raise ValueError(f"the value of {name} must be [T, N] = {is_first.shape}, not {jnp.shape(value)}")
        return rnn_state, distribution, value

    return Network(init, apply)
