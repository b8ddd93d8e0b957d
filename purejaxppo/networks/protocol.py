"""The network protocol: an actor-critic as pure functions, and the checks that a network keeps to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import Action, Distribution, Params, PRNGKey, PyTree, RnnState
from purejaxppo.config.checks import check_settings
from purejaxppo.config.schema import Config, NetworkConfig
from purejaxppo.distributions import Categorical
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.envs.spaces import Discrete, zero_of


class Network(NamedTuple):
    """An actor-critic as pure functions; any three functions with these signatures are a network.

    The distribution is a pytree with leaves [T, N, ...] and the methods that `purejaxppo.distributions` describes; the
    value is float32 [T, N]. Parameters are a pytree of floats. `make_network` builds networks from settings, and
    `from_module` wraps a flax.linen module. A model of another library is wrapped by splitting it into its parameters
    and the rest. flax nnx:

        graph = nnx.graphdef(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))

        def init(key):
            return nnx.state(Model(nnx.Rngs(key)), nnx.Param)

        def apply(params, rnn_state, obs, is_first):
            logits, value = nnx.merge(graph, params)(obs)
            return rnn_state, Categorical(logits), value

        network = Network(init, apply)

    equinox, whose layers take one observation:

        static = eqx.filter(Model(jax.random.key(0)), eqx.is_inexact_array, inverse=True)

        def init(key):
            return eqx.filter(Model(key), eqx.is_inexact_array)

        def apply(params, rnn_state, obs, is_first):
            logits, value = jax.vmap(jax.vmap(eqx.combine(params, static)))(obs)
            return rnn_state, Categorical(logits), value
    """

    init: Callable[[PRNGKey], Params]  # (key) -> params
    apply: Callable[..., tuple[RnnState, Distribution, Array]]
    # (params, rnn_state [N, ...], obs [T, N, ...], is_first [T, N]) -> (rnn_state [N, ...], distribution, value [T, N])
    initial_rnn_state: Callable[[int], RnnState] = lambda num_envs: ()
    # (num_envs) -> recurrent state, leaves [N, ...]; () for a feed-forward network


METHODS = ("noise", "sample_from", "mode", "to_env", "log_prob", "entropy", "kl")  # of a distribution


def check_fit(
    env: Env | VecEnv, network: Network, config: Config, objective: Callable[..., Array] | None = None
) -> bool:
    """Check settings, environment and network, and by shapes that the network fits the environment.

    Args:
        env: the environment.
        network: the network.
        config: settings of the algorithm.
        objective: an objective function handed to `make_ppo`, if any.

    Returns:
        Whether the network is recurrent.

    Raises:
        ConfigError: `config` is invalid; lists all problems.
        TypeError: `network` is no Network.
        ValueError: `check_env` finds a fault, or the network does not fit; lists everything that does not.
    """
    check_is_network(network)
    if objective and config.policy_step == "trpo":
        raise ValueError(
            'policy_step "trpo" always maximizes the unclipped surrogate (5) and does not accept `objective`'
        )
    with _described("initial_rnn_state(num_envs)"):
        recurrent = bool(jax.tree.leaves(jax.eval_shape(lambda: network.initial_rnn_state(1))))
    check_settings(config, recurrent=recurrent)
    check_env(env, config.num_envs)
    problems = _misfits(env, network)
    if problems:
        named = f"the environment {env.name}" if env.name else "the environment"
        raise ValueError(f"the network does not fit {named}: {'; '.join(problems)}")
    return recurrent


def check_is_network(network: Any) -> None:
    """Check that `network` is a Network of functions.

    Raises:
        TypeError: it is something else; says what to write instead.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a Network, not {_advice(network)}")
    for name, function in network._asdict().items():
        if not callable(function):
            raise TypeError(f"Network.{name} must be a function, not a {type(function).__name__}")


def _advice(network: Any) -> str:
    """Describe an object that is not a Network, and what to write instead."""
    is_class = isinstance(network, type)
    kind = network if is_class else type(network)
    modules = {base.__module__.partition(".")[0]: base.__module__ for base in kind.__mro__[:-1]}
    name = kind.__name__
    if modules.get("flax", "").startswith("flax.linen"):
        return f"the flax.linen module {name}: write from_module({name}(...), env)"
    if modules.get("flax", "").startswith("flax.nnx"):
        return f"the flax.nnx module {name}: the docstring of Network shows how to wrap it"
    if "equinox" in modules:
        return f"the equinox module {name}: the docstring of Network shows how to wrap it"
    if kind is NetworkConfig:
        return "a NetworkConfig: write make_network(env, config)"
    if kind is str:
        return f'the string "{network}": write make_network(env, NetworkConfig(kind="{network}"))'
    if callable(network) and not is_class:
        name = getattr(network, "__name__", name)
        return f"the function {name}: write {name}(env), or Network(init, apply)"
    return f"a {name}: write mlp(env), make_network(env, config) or Network(init, apply)"


@contextmanager
def _described(call: str) -> Iterator[None]:
    """Add to an error from a network's function which one it was and how it is called."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised by the network's {call}")
        raise


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: f"{x.dtype} {list(x.shape)}", tree)


def _misfits(env: Env | VecEnv, network: Network) -> list[str]:
    """List what is wrong with a network, by tracing one step of two environments."""
    with _described("init(key)"):
        params = jax.eval_shape(network.init, jax.random.key(0))
    problems = [
        f"init must return floats, but a parameter is {x.dtype} {list(x.shape)}"
        for x in jax.tree.leaves(params)
        if not jnp.issubdtype(x.dtype, jnp.inexact)
    ]

    def act(params: Params) -> tuple:
        rnn_state = network.initial_rnn_state(2)
        obs = jax.tree.map(lambda x: jnp.broadcast_to(x, (1, 2, *x.shape)), zero_of(env.observation_space))
        with _described("apply(params, rnn_state [N, ...], obs [T, N, ...], is_first [T, N])"):
            result = network.apply(params, rnn_state, obs, jnp.zeros((1, 2), bool))
        problems.extend(_result_problems(result))
        if problems:
            return ()
        after, distribution, value = result
        mode = distribution.mode()
        return rnn_state, after, distribution.to_env(mode), distribution.log_prob(mode), value, distribution

    outputs = jax.eval_shape(act, params)
    return problems or _output_problems(env, *outputs)


def _result_problems(result: Any) -> list[str]:
    """List what is wrong with the structure of what `apply` returns."""
    if not isinstance(result, tuple) or len(result) != 3:
        what = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
        return [f"apply must return (rnn_state, distribution, value), not {what}"]
    _, distribution, value = result
    problems = []
    if isinstance(distribution, Array):
        problems.append("its distribution is an array: return Categorical(logits), or another distribution")
    elif missing := [name for name in METHODS if not callable(getattr(distribution, name, None))]:
        problems.append(f"its distribution, a {type(distribution).__name__}, has no method {', '.join(missing)}")
    elif not all(isinstance(x, Array) for x in jax.tree.leaves(distribution)):
        problems.append(f"its distribution, a {type(distribution).__name__}, is no pytree of arrays: use a NamedTuple")
    if not isinstance(value, Array):
        problems.append(f"its value must be an array [T, N], not a {type(value).__name__}")
    return problems


def _output_problems(
    env: Env | VecEnv,
    rnn_state: RnnState,
    after: RnnState,
    action: Action,
    log_prob: Array,
    value: Array,
    distribution: Distribution,
) -> list[str]:
    """List what is wrong with the shapes and dtypes of what `apply` returns."""
    wanted = jax.eval_shape(lambda: jax.tree.map(lambda x: x[None, None].repeat(2, 1), zero_of(env.action_space)))
    problems = []
    if _shapes(rnn_state) != _shapes(after):
        problems.append(f"its recurrent state {_shapes(rnn_state)} is returned as {_shapes(after)}")
    if _shapes(action) != _shapes(wanted):
        actions = f"its actions [T, N, ...] are {_shapes(action)}"
        problems.append(f"{actions}, not {_shapes(wanted)} as of {env.action_space}")
    for what, x in (("value", value), ("log-probability", log_prob)):
        if _shapes(x) != "float32 [1, 2]":
            problems.append(f"its {what} must be [T, N], float32 [1, 2] here, not {_shapes(x)}")
    if isinstance(distribution, Categorical) and isinstance(env.action_space, Discrete):
        num_actions = distribution.logits.shape[-1]
        if num_actions != env.action_space.n:
            problems.append(f"it has {num_actions} logits for {env.action_space.n} actions")
    return problems
