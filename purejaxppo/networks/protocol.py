"""The network protocol: an actor-critic as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.config.checks import check_parts
from purejaxppo.config.schema import Config
from purejaxppo.distributions import Categorical
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.protocol import Env
from purejaxppo.envs.spaces import Discrete, zero_of


class Network(NamedTuple):
    """An actor-critic as a pair of pure functions, or three where it has a memory; any that keep to the comments.

    The starting carry has a function of its own: evaluation needs one for another number of environments. The
    distribution is a pytree with leaves [T, N, ...] and the methods that purejaxppo.distributions describes.
    """

    init: Callable[[Array], Any]  # (key) -> params
    apply: Callable[..., tuple[Any, Any, Array]]
    # (params, carry [N, ...], obs [T, N, ...], reset [T, N]) -> (carry [N, ...], distribution [T, N], value [T, N])
    initial_rnn_state: Callable[[int], Any] = lambda num_envs: ()  # (num_envs) -> carry, leaves [N, ...]; (): no memory


def check_fit(env: Env, network: Network, config: Config, objective: Any = None) -> bool:
    """Check a config, an environment, and by shapes that a network fits both and the comments of `Network`.

    Returns whether the network has a memory. objective: one of the user's own, if any.

    Raises:
        ConfigError: a bad config, all problems at once.
        ValueError: what `check_env` finds; or names everything that does not fit.
    """
    if objective and config.policy_step == "trpo":
        raise ValueError('policy_step "trpo" climbs the surrogate (5): an objective of your own has no place in it')
    recurrent = bool(jax.tree.leaves(jax.eval_shape(lambda: network.initial_rnn_state(1))))
    check_parts(config, recurrent=recurrent)
    check_env(env)
    problems = _misfits(env, network)
    if problems:
        named = f"the environment {env.name}" if env.name else "the environment"
        raise ValueError(f"the network does not fit {named}: {'; '.join(problems)}")
    return recurrent


def _misfits(env: Env, network: Network) -> list[str]:

    def act(key: Array) -> tuple:
        rnn_state = network.initial_rnn_state(2)
        obs = jax.tree.map(lambda x: jnp.broadcast_to(x, (1, 2, *x.shape)), zero_of(env.observation_space))
        after, distribution, value = network.apply(network.init(key), rnn_state, obs, jnp.zeros((1, 2), bool))
        drawn = distribution.mode()
        return rnn_state, after, distribution.to_env(drawn), distribution.log_prob(drawn), value, distribution

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda x: f"{x.dtype} {list(x.shape)}", tree)

    rnn_state, after, action, log_prob, value, distribution = jax.eval_shape(act, jax.random.key(0))
    wanted = jax.eval_shape(lambda: jax.tree.map(lambda x: x[None, None].repeat(2, 1), zero_of(env.action_space)))
    problems = (
        []
        if shapes(rnn_state) == shapes(after)
        else [f"the recurrent state {shapes(rnn_state)} comes back as {shapes(after)}"]
    )
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
