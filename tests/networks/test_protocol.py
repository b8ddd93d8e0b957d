"""The network protocol: valid networks pass, and every other gets one sentence that says what is wrong."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from nets import env_of
from probes import quick_jit

from purejaxppo.assembly import make_ppo
from purejaxppo.config.errors import ConfigError
from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig
from purejaxppo.distributions import Categorical
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.networks.actor_critic import mlp
from purejaxppo.networks.protocol import Network, check_fit, check_is_network

CONFIG = Config(num_envs=2, num_steps=4, num_minibatches=2, total_timesteps=64)


def own(num_logits=4, squeeze=True, after=lambda h: h, start=lambda n: ()):
    """Make a Network over Box(2) with the given faults."""

    def apply(params, rnn_state, obs, is_first):
        value = obs @ params["value"]
        return after(rnn_state), Categorical(obs @ params["policy"]), value[..., 0] if squeeze else value

    return Network(lambda key: {"policy": jnp.zeros((2, num_logits)), "value": jnp.zeros((2, 1))}, apply, start)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"squeeze": False}, r"its value must be \[T, N\], float32 \[1, 2\] here, not float32 \[1, 2, 1\]"),
        ({"num_logits": 3}, "it has 3 logits for 4 actions"),
        (
            {"start": lambda n: jnp.zeros(n), "after": lambda h: h[:, None]},
            r"its recurrent state float32 \[2\] is returned as float32 \[2, 1\]",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_a_reason(faults, message):
    env = env_of(box(-1, 1, (2,)), Discrete(4))
    config = Config(num_envs=2, num_steps=4, num_minibatches=2)
    assert make_ppo(env, own(), config).network.initial_rnn_state(3) == ()
    with pytest.raises(ValueError, match=message):
        make_ppo(env, own(**faults), config)


class NotADistribution(NamedTuple):
    logits: jax.Array


class NotAPytree:
    noise = sample_from = mode = to_env = log_prob = entropy = kl = lambda self: None


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda dist, value: (dist, value), r"must return \(rnn_state, distribution, value\), not a tuple of 2"),
        (lambda dist, value: value, "must return .* not a "),
        (lambda dist, value: ((), dist.logits, value), r"return Categorical\(logits\)"),
        (lambda dist, value: ((), NotADistribution(dist.logits), value), "has no method noise, sample_from, mode"),
        (lambda dist, value: ((), NotAPytree(), value), "no pytree of arrays: use a NamedTuple"),
        (lambda dist, value: ((), dist, None), "its value must be an array"),
    ],
)
def test_an_apply_that_returns_something_else_is_refused_in_one_sentence(result, message):
    env, network = env_of(box(-1, 1, (2,)), Discrete(4)), own()

    def apply(*args):
        return result(*network.apply(*args)[1:])

    with pytest.raises(ValueError, match=message):
        check_fit(env, network._replace(apply=apply), CONFIG)


def test_parameters_that_are_integers_are_refused():
    network = own()._replace(init=lambda key: {**own().init(key), "steps": jnp.int32(0)})
    with pytest.raises(ValueError, match="a parameter is int32"):
        check_fit(env_of(box(-1, 1, (2,)), Discrete(4)), network, CONFIG)


def test_an_error_inside_a_network_says_how_the_function_is_called():
    network = own()._replace(apply=lambda params, obs: None)
    with pytest.raises(TypeError) as caught:
        check_fit(env_of(box(-1, 1, (2,)), Discrete(4)), network, CONFIG)
    assert any("apply(params, rnn_state [N, ...]" in note for note in caught.value.__notes__)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(4)(obs)


class Model(nnx.Module):
    """An actor and a critic of one layer each."""

    def __init__(self, rngs):
        self.actor, self.critic = nnx.Linear(2, 4, rngs=rngs), nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, obs):
        return self.actor(obs), self.critic(obs)[..., 0]


def an_env():
    return env_of(box(-1, 1, (2,)), Discrete(4))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Linen(), r"flax.linen module Linen: write from_module\(Linen"),
        (Linen, r"flax.linen module Linen: write from_module\(Linen"),
        (Model(nnx.Rngs(0)), "flax.nnx module Model: the docstring of Network"),
        (NetworkConfig(), r"make_network\(env, config\)"),
        ("gru", r'NetworkConfig\(kind="gru"\)'),
        (mlp, r"the function mlp: write mlp\(env\)"),
        (own()[:2], r"Network\(init, apply\)"),
        (None, r"write mlp\(env\)"),
    ],
)
def test_the_error_for_another_object_than_a_network_says_what_to_write(network, message):
    with pytest.raises(TypeError, match=message):
        make_ppo(an_env(), network, CONFIG)


def test_a_network_of_something_other_than_functions_is_refused():
    with pytest.raises(TypeError, match=r"Network\.apply must be a function, not a dict"):
        check_is_network(own()._replace(apply={}))


@pytest.mark.slow
def test_the_nnx_example_of_network_trains():
    """The three lines of the docstring around `Model`."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))

    def init(key):
        return nnx.state(Model(nnx.Rngs(key)), nnx.Param)

    def apply(params, rnn_state, obs, is_first):
        logits, value = nnx.merge(graph, params)(obs)
        return rnn_state, Categorical(logits), value

    algo = make_ppo(an_env(), Network(init, apply), CONFIG)
    run = quick_jit(lambda key: algo.update(algo.init(key, Hyperparams()), Hyperparams()))
    state, metrics = run(jax.random.key(0))
    assert metrics.first_ratio_error < 1e-5
    assert all(np.isfinite(x).all() and x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))


def test_a_policy_for_other_actions_is_refused():
    env = env_of(box(-1, 1, (2,)), box(-1, 1, (3,)))
    with pytest.raises(ValueError, match=r"its actions .* are int32 \[1, 2\], not float32 \[1, 2, 3\]"):
        make_ppo(env, own(), Config(num_envs=2, num_steps=4, num_minibatches=2))


def test_trpo_refuses_an_objective():
    env, trpo = env_of(box(-1, 1, (2,)), Discrete(4)), Config(num_envs=2, num_steps=4, policy_step="trpo")
    with pytest.raises(ValueError, match="does not accept `objective`"):
        make_ppo(env, own(), trpo, objective=lambda ratio, advantage, kl, h: ratio * advantage)
    with pytest.raises(ConfigError, match="objective"):
        make_ppo(env, own(), Config(num_envs=2, num_steps=4, policy_step="trpo", objective="kl"))
