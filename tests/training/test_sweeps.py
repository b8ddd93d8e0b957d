"""A sweep equals its runs: on one device and on two, with failing runs, and with a replaced update."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiles import count_compiles
from plain_net import plain
from probes import chain

import purejaxppo as pp
from purejaxppo import Config, Hyperparams
from purejaxppo.training.arguments import as_traced
from purejaxppo.training.sweeps import check_axes

ENV = chain(limit=5)
ALGO = pp.make_ppo(ENV, plain(ENV), Config(4, 8, num_epochs=2, num_minibatches=2, total_timesteps=32 * 8))
SEEDS = [3, 4, 5, 6]
H = Hyperparams(
    jnp.array([1e-3, 1e-2, 3e-2]),
    gamma=0.95,
    gae_lambda=jnp.array([0.9, 1.0, 0.0]),
    clip_eps=jnp.array([0.2, 0.1, 0.3]),
    target_kl=jnp.array([jnp.inf, 1e-5, 0.1]),
)

pytestmark = pytest.mark.usefixtures("keys_move")


@cache
def swept(num_devices=2):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_device_count", lambda: num_devices)
        return pp.sweep(ALGO, SEEDS, H, num_updates=3)


def healthy(states, metrics, setting):
    """Return the leaves of the runs of one setting."""
    return [np.asarray(x[setting]) for x in jax.tree.leaves((states._replace(key=()), metrics))]


def test_a_sweep_on_two_devices_equals_the_sweep_on_one():
    (states, metrics), (_, others) = swept(2), swept(1)
    assert metrics.kl.shape == (3, 4, 3)
    assert [len(x.kl.sharding.device_set) for x in (metrics, others)] == [2, 1]
    np.testing.assert_allclose(metrics.kl, others.kl, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(metrics.value_loss, others.value_loss, rtol=1e-4)
    assert len(np.unique(np.asarray(metrics.value_loss[0, :, 0]))) == 4
    assert jax.tree.leaves(states.params)[0].shape[:2] == (3, 4)


def test_each_run_equals_that_of_train():
    """The arrays of hyperparameters vary together; each setting uses all seeds."""
    _, metrics = swept()
    h = Hyperparams(1e-2, gamma=0.95, gae_lambda=1.0, clip_eps=0.1, target_kl=1e-5)
    _, single = pp.train(ALGO, SEEDS[1], h, 3)
    np.testing.assert_allclose(metrics.value_loss[1, 1], single.value_loss, rtol=1e-5)
    np.testing.assert_array_equal(metrics.minibatch_steps[1, 1], single.minibatch_steps)
    assert metrics.minibatch_steps[1, 1, 0] < metrics.minibatch_steps[0, 1, 0]


def test_other_values_are_the_same_program_and_raw_keys_the_same_seeds():
    expected = swept()[1]
    raw = jnp.stack([jax.random.PRNGKey(seed) for seed in SEEDS])
    with count_compiles() as compiles:
        _, metrics = pp.sweep(ALGO, raw, H._replace(gamma=0.9, clip_eps=jnp.array([0.2, 0.4, 0.3])), num_updates=3)
    assert compiles["_train_runs"] == 0
    np.testing.assert_array_equal(metrics.kl_k3[0, :, 0] > 0, expected.kl_k3[0, :, 0] > 0)
    np.testing.assert_array_equal(metrics.episode_return_mean[0, :, 0], expected.episode_return_mean[0, :, 0])


def test_a_diverging_setting_is_marked_and_does_not_affect_the_other_runs():
    """They are bitwise those with a healthy value in its place, and those of a sweep without it."""
    rates = jnp.array([1e-3, 1e25, 3e-2])
    with pytest.warns(
        pp.RunWarning, match=r"4 runs of 12 failed; (.|\n)*run \[1, 0\]: update \d: the loss of every minibatch"
    ):
        states, metrics = pp.sweep(ALGO, SEEDS, H._replace(learning_rate=rates), num_updates=3)
    np.testing.assert_array_equal(pp.failed_runs(metrics), [[False] * 4, [True] * 4, [False] * 4])
    for setting in (0, 2):
        for x, y in zip(healthy(states, metrics, setting), healthy(*swept(), setting), strict=True):
            np.testing.assert_array_equal(x, y)
    assert not pp.failed_runs(swept()[1]).any()


def test_a_replaced_update_is_used():
    """Also on two devices, where each trains whole runs."""

    def mine(state, h):
        state, metrics = ALGO.update(state, h)
        return state, metrics._replace(entropy=jnp.float32(42.0))

    _, metrics = pp.sweep(ALGO._replace(update=mine), SEEDS[:2], num_updates=1)
    assert len(metrics.entropy.sharding.device_set) == 2
    np.testing.assert_array_equal(metrics.entropy, np.full((1, 2, 1), 42.0))


@pytest.mark.slow
def test_states_of_a_sweep_can_be_continued_and_evaluated():
    """Two more updates with the settings of each run; the policies are evaluated run by run."""
    states, _ = swept()
    ((more, later),) = pp.iterate(ALGO, states, H, num_updates=2, chunk=2)
    assert later.kl.shape == (3, 4, 2)
    np.testing.assert_allclose(later.learning_rate[:, 0, 0], np.array([1e-3, 1e-2, 3e-2]) * (1 - 3 / 8), rtol=1e-5)
    one = jax.tree.map(lambda x: x[1, 2], states)
    h = Hyperparams(1e-2, gamma=0.95, gae_lambda=1.0, clip_eps=0.1, target_kl=1e-5)
    ((single, expected),) = pp.iterate(ALGO, one, h, num_updates=2, chunk=2)
    np.testing.assert_allclose(later.value_loss[1, 2], expected.value_loss, rtol=1e-4)
    assert more.num_updates.shape == (3, 4)
    result = pp.evaluate(ALGO, more, 0, num_episodes=5)
    assert result.returns.shape == (3, 4, 5)
    assert result.num_unfinished.shape == (3, 4)
    assert single.num_updates == 5


def test_arrays_of_different_lengths_are_refused():
    for more in ({"gamma": jnp.ones(2)}, {"gamma": jnp.ones((3, 1))}):
        with pytest.raises(ValueError, match=r"one length H, not .*gamma"):
            pp.sweep(ALGO, SEEDS, H._replace(**more))


def algorithm(config=None, **functions):
    return pp.make_ppo(ENV, plain(ENV), Config(**(vars(ALGO.config) | (config or {}))), **functions)


@pytest.mark.parametrize(
    ("config", "name", "needs"),
    [
        ({}, "beta", 'needs objective = "kl"'),
        ({}, "value_lambda", 'needs targets = "td_lambda"'),
        ({}, "trpo_delta", 'needs policy_step = "trpo"'),
        ({"objective": "kl"}, "clip_eps", 'needs objective = "clip"'),
    ],
)
def test_an_axis_that_cannot_matter_is_refused(config, name, needs):
    h = Hyperparams(jnp.array([1e-3, 1e-2]), **{name: jnp.array([0.1, 0.2])})
    with pytest.raises(pp.ConfigError) as caught:
        pp.sweep(algorithm(config), [0], h)
    (problem,) = caught.value.problems
    assert (problem.key, problem.kind) == (f"hyperparams.{name}", "conflict")
    assert needs in problem.text


def test_an_axis_that_may_matter_is_accepted():
    """With an objective or other functions of the user, which may read anything, or with a single value."""
    axis = as_traced(Hyperparams(beta=jnp.array([0.1, 0.2])))
    check_axes(algorithm({"objective": "kl"}), axis)
    check_axes(ALGO, as_traced(Hyperparams(beta=jnp.array([0.1]))))
    check_axes(algorithm(objective=lambda ratio, advantage, kl, h: ratio * advantage - h.beta * kl), axis)
    check_axes(algorithm(optimizer=lambda h: optax.adamw(h.learning_rate, weight_decay=h.beta)), axis)
    check_axes(algorithm(metrics_fn=lambda state, rollout, batch, h: {"beta": h.beta}), axis)
    check_axes(ALGO._replace(update=lambda state, h: ALGO.update(state, h)), axis)
    with pytest.raises(pp.ConfigError, match="value_lambda"):
        check_axes(algorithm(objective=lambda *x: x[0]), as_traced(Hyperparams(value_lambda=jnp.array([0.1, 0.2]))))
