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

from purejaxppo.config.checks import RECURRENT_KINDS, Config, NetworkConfig, check_parts
from purejaxppo.distributions import Categorical
from purejaxppo.envs.conformance import Env, check_env
from purejaxppo.envs.spaces import Discrete, zero_of
from purejaxppo.networks.dense import Dense
from purejaxppo.networks.encoders import Inputs, encode, has_image, to_inputs, views
from purejaxppo.networks.initializers import drawn_together, orthogonal
from purejaxppo.networks.policy_heads import LOG_STD_RANGE, check_action_space, num_logits, num_means, policy
from purejaxppo.networks.recurrent import CELLS

Array = jax.Array


class Network(NamedTuple):
    """An actor-critic as a pair of pure functions, or three where it has a memory; any that keep to the comments.

    The starting carry has a function of its own: evaluation needs one for another number of environments. The
    distribution is a pytree with leaves [T, N, ...] and the methods that purejaxppo.distributions describes.
    """

    init: Callable[[Array], Any]  # (key) -> params
    apply: Callable[..., tuple[Any, Any, Array]]
    # (params, carry [N, ...], obs [T, N, ...], reset [T, N]) -> (carry [N, ...], distribution [T, N], value [T, N])
    initial_carry: Callable[[int], Any] = lambda num_envs: ()  # (num_envs) -> carry, leaves [N, ...]; (): no memory


class ActorCritic(nn.Module):
    """The layers: encoder, memory where there is one, heads; separate for actor and critic unless they share a torso.

    Orthogonal init, gain √2 in the encoder, 0.01 at the policy head, 1 at the value head. Parameters are float32, and
    so are both heads whatever the compute dtype.
    """

    config: NetworkConfig
    num_logits: int
    num_means: int

    def initial_carry(self, num_envs: int) -> Any:
        """The empty memory of actor and critic, () where there is none."""
        if self.config.kind not in RECURRENT_KINDS:
            return ()
        names = ("shared",) if self.config.shared_torso else ("actor", "critic")
        cell = CELLS[self.config.kind](self.config.rnn_size, parent=None)
        return {name: cell.initial_carry(num_envs) for name in names}

    @nn.compact
    def __call__(self, carry: Any, actor: Inputs, critic: Inputs, reset: Array) -> tuple[Any, Array, Any, Array]:
        """Inputs [T, N, ...] -> (carry, logits and means [T, N, D], log σ [T, N, A] or None, value [T, N])."""
        steps = jax.tree.leaves(actor)[0].shape[:2]
        actor, critic = (jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inputs) for inputs in (actor, critic))
        if self.config.shared_torso:
            carry, features = self._torso(carry, actor, reset, "shared")
            of_actor = of_critic = features
        else:
            actor_carry, of_actor = self._torso(carry, actor, reset, "actor")
            critic_carry, of_critic = self._torso(carry, critic, reset, "critic")
            carry = {**actor_carry, **critic_carry} if carry else carry
        value = Dense(1, kernel_init=orthogonal(1.0), name="value")(of_critic)
        outputs = self._policy(of_actor)
        outputs, log_std = jax.tree.map(lambda x: x.reshape(*steps, x.shape[-1]), outputs)
        return carry, outputs, log_std, value.reshape(steps)

    def _torso(self, carry: Any, inputs: Inputs, reset: Array, name: str) -> tuple[Any, Array]:
        """What a head reads, float32 [T * N, D], and the part of the carry that is called `name`. Inputs [T * N, ...].

        The rows have one axis, since XLA's CPU backend takes twice as long over dense layers with two leading ones.
        """
        config = self.config
        x = encode(inputs, config, name)
        if config.kind not in RECURRENT_KINDS:
            return carry, x.astype(jnp.float32)
        cell = CELLS[config.kind](config.rnn_size, config.compute_dtype, name=f"{name}_{config.kind}")
        memory, x = cell(carry[name], x.reshape(*reset.shape, x.shape[-1]), reset)
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
    "action_mask" forbids actions and is no feature (`purejaxppo.masks` says of which form).
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
        return module.init(key, module.initial_carry(1), *inputs(obs), jnp.ones((1, 1), bool))

    def apply(params: Any, carry: Any, obs: Any, reset: Array) -> tuple[Any, Any, Array]:
        applied: Any = module.apply(params, carry, *inputs(obs), reset)
        carry, outputs, log_std, value = applied
        mask = views(obs).mask
        if [x.dtype for x in jax.tree.leaves(mask)] != mask_dtypes:
            raise ValueError(f"the action mask must arrive as {mask_dtypes}: was it normalised with the observation?")
        return carry, policy(actions, config, outputs, log_std, mask), value

    return Network(drawn_together(init), apply, module.initial_carry)


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


def check_fit(env: Env, network: Network, config: Config, objective: Any = None) -> bool:
    """Check a config, an environment, and by shapes that a network fits both and the comments of `Network`.

    Returns whether the network has a memory. objective: one of the user's own, if any.

    Raises:
        ConfigError: a bad config, all problems at once.
        ValueError: what `check_env` finds; or names everything that does not fit.
    """
    if objective and config.policy_step == "trpo":
        raise ValueError('policy_step "trpo" climbs the surrogate (5): an objective of your own has no place in it')
    recurrent = bool(jax.tree.leaves(jax.eval_shape(lambda: network.initial_carry(1))))
    check_parts(config, recurrent=recurrent)
    check_env(env)
    problems = _misfits(env, network)
    if problems:
        named = f"the environment {env.name}" if env.name else "the environment"
        raise ValueError(f"the network does not fit {named}: {'; '.join(problems)}")
    return recurrent


def _misfits(env: Env, network: Network) -> list[str]:

    def act(key: Array) -> tuple:
        carry = network.initial_carry(2)
        obs = jax.tree.map(lambda x: jnp.broadcast_to(x, (1, 2, *x.shape)), zero_of(env.observation_space))
        after, distribution, value = network.apply(network.init(key), carry, obs, jnp.zeros((1, 2), bool))
        drawn = distribution.mode()
        return carry, after, distribution.to_env(drawn), distribution.log_prob(drawn), value, distribution

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda x: f"{x.dtype} {list(x.shape)}", tree)

    carry, after, action, log_prob, value, distribution = jax.eval_shape(act, jax.random.key(0))
    wanted = jax.eval_shape(lambda: jax.tree.map(lambda x: x[None, None].repeat(2, 1), zero_of(env.action_space)))
    problems = [] if shapes(carry) == shapes(after) else [f"the carry {shapes(carry)} comes back as {shapes(after)}"]
    if shapes(action) != shapes(wanted):
        problems.append(f"its actions [T, N, ...] are {shapes(action)}, not {shapes(wanted)} as of {env.action_space}")
    for what, x in (("value", value), ("log-probability", log_prob)):
        if shapes(x) != "float32 [1, 2]":
            problems.append(f"its {what} must be [T, N], float32 [1, 2] here, not {shapes(x)}")
    if isinstance(distribution, Categorical) and isinstance(env.action_space, Discrete):
        num_actions = distribution.logits.shape[-1]
        if num_actions != env.action_space.n:
            problems.append(f"it has {num_actions} logits for {env.action_space.n} actions")
    return problems


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

    def apply(params: Any, carry: Any, obs: Any, reset: Array) -> tuple[Any, Any, Array]:
        applied: Any = module.apply(params, obs)
        distribution, value = applied
        if value.shape != reset.shape:
            raise ValueError(f"the value of {type(module).__name__} must be [T, N] = {reset.shape}, not {value.shape}")
        return carry, distribution, value

    return Network(init, apply)
