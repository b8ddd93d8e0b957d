"""Actor-critic networks behind one signature, feed-forward and recurrent alike.

`apply` reads a block of time: obs [T, N, ...] and reset [T, N], where reset[t] says that the carry is to be
emptied *before* obs[t] is read. A feed-forward network has the empty carry `()` and ignores `reset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo.config.checks import check_parts
from purejaxppo.config.schema import RECURRENT_KINDS, NetworkConfig
from purejaxppo.envs.protocol import Env
from purejaxppo.envs.spaces import zero_of
from purejaxppo.networks.dense import Dense
from purejaxppo.networks.encoders import Inputs, encode, has_image, to_inputs, views
from purejaxppo.networks.initializers import batched_init, orthogonal
from purejaxppo.networks.policy_heads import LOG_STD_RANGE, check_action_space, num_logits, num_means, policy
from purejaxppo.networks.protocol import Network
from purejaxppo.networks.recurrent import CELLS

Array = jax.Array


class ActorCritic(nn.Module):
    """The layers: encoder, memory where there is one, heads; separate for actor and critic unless they share a torso.

    Orthogonal init, gain √2 in the encoder, 0.01 at the policy head, 1 at the value head. Parameters are float32, and
    so are both heads whatever the compute dtype.
    """

    config: NetworkConfig
    num_logits: int
    num_means: int

    def initial_rnn_state(self, num_envs: int) -> Any:
        """The empty memory of actor and critic, () where there is none."""
        if self.config.kind not in RECURRENT_KINDS:
            return ()
        names = ("shared",) if self.config.shared_torso else ("actor", "critic")
        cell = CELLS[self.config.kind](self.config.rnn_size, parent=None)
        return {name: cell.initial_rnn_state(num_envs) for name in names}

    @nn.compact
    def __call__(self, rnn_state: Any, actor: Inputs, critic: Inputs, is_first: Array) -> tuple[Any, Array, Any, Array]:
        """Inputs [T, N, ...] -> (carry, logits and means [T, N, D], log σ [T, N, A] or None, value [T, N])."""
        steps = jax.tree.leaves(actor)[0].shape[:2]
        actor, critic = (jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs) for inputs in (actor, critic))
        if self.config.shared_torso:
            rnn_state, features = self._torso(rnn_state, actor, is_first, "shared")
            of_actor = of_critic = features
        else:
            actor_state, of_actor = self._torso(rnn_state, actor, is_first, "actor")
            critic_state, of_critic = self._torso(rnn_state, critic, is_first, "critic")
            rnn_state = {**actor_state, **critic_state} if rnn_state else rnn_state
        value = Dense(1, kernel_init=orthogonal(1.0), name="value")(of_critic)
        outputs = self._policy(of_actor)
        outputs, log_std = jax.tree.map(lambda x: x.reshape(*steps, x.shape[-1]), outputs)
        return rnn_state, outputs, log_std, value.reshape(steps)

    def _torso(self, rnn_state: Any, inputs: Inputs, is_first: Array, name: str) -> tuple[Any, Array]:
        """What a head reads, float32 [T * N, D], and the part of the carry that is called `name`. Inputs [T * N, ...].

        The rows have one axis, since XLA's CPU backend takes twice as long over dense layers with two leading ones.
        """
        config = self.config
        x = encode(inputs, config, name)
        if config.kind not in RECURRENT_KINDS:
            return rnn_state, x.astype(jnp.float32)
        cell = CELLS[config.kind](config.rnn_size, config.compute_dtype, name=f"{name}_{config.kind}")
        memory, x = cell(rnn_state[name], x.reshape(*is_first.shape, x.shape[-1]), is_first)
        return {name: memory}, x.reshape(-1, x.shape[-1]).astype(jnp.float32)

    def _policy(self, features: Array) -> tuple[Array, Array | None]:
        """Logits and means [B, D]; log σ [B, A], one number per component, or from the state; None where A = 0.

        From the state it is log_std_init + 5 tanh(y / 5): near y where y is small, and never so large that σ overflows.
        """
        config, means = self.config, self.num_means
        from_state = means if config.state_dependent_std else 0
        size = self.num_logits + means
        outputs = Dense(size + from_state, kernel_init=orthogonal(0.01), name="policy")(features)
        if from_state:
            log_std = config.log_std_init + LOG_STD_RANGE * jnp.tanh(outputs[..., size:] / LOG_STD_RANGE)
            return outputs[..., :size], log_std
        if not means:
            return outputs, None
        log_std = self.param("log_std", nn.initializers.constant(config.log_std_init), (means,))
        return outputs, jnp.broadcast_to(log_std, (*outputs.shape[:-1], means))


def make_network(env: Env, config: NetworkConfig | None = None) -> Network:
    """The actor-critic of `config` for the observations and actions of `env`.

    Observations: any Box (bool and integers are cast, uint8 is divided by 255), Discrete, MultiDiscrete, and dicts and
    tuples of them. {"actor": ..., "critic": ...} is asymmetric: the actor reads the one, the critic the other. An
    "action_mask" forbids actions and is no feature (`purejaxppo.envs.masks` says of which form).
    Actions: Discrete, MultiDiscrete, Box of any shape, dicts and tuples of them.
    Everything is raveled, unless kind or encoder is "cnn": then every [H, W] and [H, W, C] Box is convolved first.
    Kinds "gru", "lstm" and "lru" have a memory of `rnn_size` behind the dense layers, of the actor and of the critic.

    Raises:
        ConfigError: a bad `config`, all problems at once.
        ValueError: the spaces of `env` and `config` do not go together; says why. When applied: a mask or an integer
            observation comes as something else, as after a normalisation.
    """
    config = config or NetworkConfig()
    check_parts(network=config)
    space, actions, convolve = env.observation_space, env.action_space, config.convolves
    seen = views(space)
    _check_observation(space, config)
    check_action_space(actions, config, seen.mask)
    module = ActorCritic(config, num_logits(actions), num_means(actions))
    mask_dtypes = [] if seen.mask is None else [x.dtype for x in jax.tree.leaves(zero_of(seen.mask))]

    def inputs(obs: Any) -> tuple[Inputs, Inputs]:
        actor, critic, _ = views(obs)
        for_actor = to_inputs(seen.actor, actor, convolve)
        return for_actor, for_actor if seen.critic is seen.actor else to_inputs(seen.critic, critic, convolve)

    def init(key: Array) -> Any:
        obs = jax.tree.map(lambda x: x[None, None], zero_of(space))
        return module.init(key, module.initial_rnn_state(1), *inputs(obs), jnp.ones((1, 1), bool))

    def apply(params: Any, rnn_state: Any, obs: Any, is_first: Array) -> tuple[Any, Any, Array]:
        applied: Any = module.apply(params, rnn_state, *inputs(obs), is_first)
        rnn_state, outputs, log_std, value = applied
        mask = views(obs).mask
        if [x.dtype for x in jax.tree.leaves(mask)] != mask_dtypes:
            raise ValueError(f"the action mask must arrive as {mask_dtypes}: was it normalised with the observation?")
        return rnn_state, policy(actions, config, outputs, log_std, mask), value

    return Network(batched_init(init), apply, module.initial_rnn_state)


def _check_observation(space: Any, config: NetworkConfig) -> None:
    seen = views(space)
    for name, view in (("actor", seen.actor), ("critic", seen.critic)):
        if not jax.tree.leaves(view):
            raise ValueError(f"there is nothing to see for the {name} in the observation space {space}")
    if config.convolves and not (has_image(seen.actor) or has_image(seen.critic)):
        key = "kind" if config.kind == "cnn" else "encoder"
        raise ValueError(f'{key} = "cnn" needs an image [H, W] or [H, W, C], at least 3 pixels a side, not {space}')
    if config.shared_torso and seen.critic is not seen.actor:
        raise ValueError("actor and critic see different observations: shared_torso must be false")


def mlp(env: Env, hidden_sizes: Sequence[int] = (64, 64), activation: Any = "tanh", **options: Any) -> Network:
    """A feed-forward actor-critic for `env`: dense layers, separate for actor and critic by default.

    `options` are further fields of NetworkConfig. Raises what `make_network` raises.
    """
    return make_network(env, NetworkConfig("mlp", tuple(hidden_sizes), activation, **options))


def from_module(module: nn.Module, env: Env) -> Network:
    """A feed-forward network from a linen module of your own: (obs [T, N, ...]) -> (distribution [T, N], value [T, N]).

        class Mine(nn.Module):
            @nn.compact
            def __call__(self, obs):
                x = nn.relu(nn.Dense(128)(obs))
                return Categorical(nn.Dense(4)(x)), nn.Dense(1)(x)[..., 0]

        algo = make_ppo(env, from_module(Mine(), env))

    Observations come as the environment gives them. A network with a memory is a `Network` of three functions.

    Raises:
        ValueError: when applied, if the module's value is not of the shape [T, N].
    """

    def init(key: Array) -> Any:
        return module.init(key, jax.tree.map(lambda x: x[None, None], zero_of(env.observation_space)))

    def apply(params: Any, rnn_state: Any, obs: Any, is_first: Array) -> tuple[Any, Any, Array]:
        applied: Any = module.apply(params, obs)
        distribution, value = applied
        if value.shape != is_first.shape:
            raise ValueError(
                f"the value of {type(module).__name__} must be [T, N] = {is_first.shape}, not {value.shape}"
            )
        return rnn_state, distribution, value

    return Network(init, apply)
