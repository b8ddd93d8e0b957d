"""An algorithm is built from settings; all problems of settings, environment and network are reported at once."""

import jax
import pytest

from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Config, NetworkConfig, Run
from purejaxppo.training.runs import build, settings_without_effect


def problems_of(run, problems=()):
    with pytest.raises(ConfigError) as caught:
        build(run, problems, "here")
    assert str(caught.value).startswith("here: ")
    return {(problem.key, problem.kind) for problem in caught.value.problems}


def test_an_algorithm_has_the_settings_of_its_run():
    run = Run("CartPole-v1", {"max_steps_in_episode": 9}, config=Config(num_envs=8))
    algo = build(run)
    assert (algo.config, algo.env.name) == (run.config, "CartPole-v1")


def test_every_problem_is_reported_at_once():
    run = Run("CartPole-v1", config=Config(num_minibatches=3, num_devices=64), network=NetworkConfig(kind="cnn"))
    known = Problem("hyperparams.gamma", " = 2", "range")
    assert problems_of(run, [known]) == {
        ("hyperparams.gamma", "range"),
        ("config.num_devices", "range"),
        ("config.num_minibatches", "conflict"),
        ("network", "network"),
    }


@pytest.mark.parametrize(
    ("env", "params"),
    [("CartPoll-v1", {}), ("CartPole-v1", {"gravitas": 1}), ("CartPole-v1", {"gravity": "much"}), ("a\0b", {})],
)
def test_an_environment_that_cannot_be_made_is_a_problem(env, params):
    assert problems_of(Run(env, params)) == {("env", "environment")}


def test_a_network_is_not_tried_if_its_settings_are_invalid():
    run = Run(network=NetworkConfig(kind="cnn"))
    known = Problem("network.hidden_sizes", " = 0", "range")
    assert problems_of(run, [known]) == {("network.hidden_sizes", "range")}


def test_more_devices_than_jax_sees_are_refused():
    count = jax.local_device_count()
    assert problems_of(Run(config=Config(num_devices=2 * count))) == {("config.num_devices", "range")}


@pytest.mark.parametrize(("env", "ignored"), [("CartPole-v1", ["network.log_std_init"]), ("Pendulum-v1", [])])
def test_settings_without_effect_depend_on_the_actions(env, ignored):
    run = Run(env, network=NetworkConfig(log_std_init=-1.0))
    assert [line.split(" ")[0] for line in settings_without_effect(run, build(run))] == ignored


def test_settings_without_effect_depend_on_the_observations():
    """CartPole has no symbols, and a network without hidden layers has no activation."""
    run = Run("CartPole-v1", network=NetworkConfig(hidden_sizes=(), activation="relu", symbols="scalar"))
    keys = {line.split(" ")[0] for line in settings_without_effect(run, build(run))}
    assert keys == {"network.activation", "network.symbols"}
