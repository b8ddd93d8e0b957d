"""Improvement diagnostics compared with their formulas, an exact MDP, and a run."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from plain_net import plain
from probes import chain

import purejaxppo as pp
from purejaxppo import Config, Hyperparams
from purejaxppo.functional.diagnostics import explained_variance, improvement, mean_residual


def test_C9_prediction_and_bound_on_the_exact_mdp():
    """200,000 samples of ρ_old and exact A: the prediction is near the true improvement, the bound below it."""
    mdp = oracle.random_mdp(1)
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(5, 3))
    old, direction = oracle.softmax(theta), rng.normal(size=(5, 3))
    A = oracle.advantages(mdp, old)
    states = oracle.draw(np.tile(oracle.visitation(mdp, old), (200_000, 1)), rng)
    actions = oracle.draw(old[states], rng)
    for size in (0.03, 0.3, 1.0):
        new = oracle.softmax(theta + size * direction)
        ratio = (new / old)[states, actions]
        kl = (old * np.log(old / new)).sum(1)
        given = (jnp.asarray(x, jnp.float32) for x in (ratio, kl[states], A[states, actions]))
        d = improvement(*given, jnp.float32(0.75), jnp.float32(mdp.gamma))
        truth = oracle.expected_return(mdp, new) - oracle.expected_return(mdp, old)
        exact = (oracle.visitation(mdp, old) * (new * A).sum(1)).sum()
        np.testing.assert_allclose(d.predicted_improvement, exact, atol=0.01)
        assert d.lower_bound <= truth
        constant = 4.0 * np.abs(A[states, actions]).max() * mdp.gamma / (1 - mdp.gamma) ** 2
        np.testing.assert_allclose(d.bound_constant, constant, rtol=1e-5)
        predicted = ((ratio - 1) * A[states, actions]).mean()
        expected = predicted / (1 - mdp.gamma) - constant * kl[states].max()
        np.testing.assert_allclose(d.lower_bound, expected, rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(d.tv_mean, oracle.visitation(mdp, old) @ oracle.total_variation(old, new), atol=5e-3)
        assert oracle.total_variation(old, new).max() <= d.tv_max_bound
        np.testing.assert_allclose(d.realized_improvement, 0.75)
        if size == 0.03:  # first order holds for a small step
            np.testing.assert_allclose(exact / (1 - mdp.gamma), truth, rtol=0.1)


@pytest.mark.parametrize("advantage", [0.0, 1.0])
def test_without_discount_the_bound_is_infinite_and_not_nan(advantage):
    """No intermediate value is NaN either, so that jax_debug_nans passes."""
    with jax.debug_nans(True):
        a = jnp.full((1, 4), advantage)
        d = jax.jit(improvement)(jnp.ones((1, 4)), jnp.zeros((1, 4)), a, jnp.float32(0.0), jnp.float32(1.0))
    assert (d.lower_bound, d.bound_constant) == (-np.inf, np.inf)


# Explained variance --------------------------------------------------------------------------------------------------


def test_explained_variance_matches_float64():
    rng = np.random.default_rng(0)
    target, noise = np.float32(rng.normal(3.0, 2.0, size=(2, 50, 8)))
    for value in (0.0 * target, target, target + 5.0, target + 0.3 * noise, -target, noise):
        expected = 1.0 - (target - value).var(dtype=float) / target.var(dtype=float)
        np.testing.assert_allclose(explained_variance(*map(jnp.asarray, (value, target))), expected, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 100.7, 1e-30])
def test_explained_variance_of_a_constant_target_is_0(constant):
    """In float32 the variance of 1000 values 0.1 is not 0; relative to it a small error would count as huge."""
    target = jnp.full(1000, constant)
    with jax.debug_nans(True):
        for value in (target, target + 1.0, jnp.linspace(-1.0, 1.0, 1000)):
            assert float(jax.jit(explained_variance)(value, target)) == 0.0
        # The result is also 0 if the variance underflows.
        assert float(explained_variance(jnp.zeros(2), jnp.asarray([1e-30, 2e-30]))) == 0.0


def test_explained_variance_of_a_nan_is_nan():
    target = jnp.asarray([0.0, 1.0, jnp.nan])
    assert np.isnan(explained_variance(jnp.zeros(3), target))
    assert np.isnan(explained_variance(target, jnp.asarray([0.0, 1.0, 2.0])))


# The mean residual ---------------------------------------------------------------------------------------------------


def test_the_mean_residual_under_the_old_values_is_the_improvement():
    """(1-γ)(J(π) - J(π_old)) on the MDP: states and actions of the new policy, V of the old one."""
    mdp = oracle.random_mdp(2)
    rng = np.random.default_rng(3)
    theta, direction = rng.normal(size=(2, 5, 3))
    old, new = oracle.softmax(theta), oracle.softmax(theta + direction)
    states = oracle.draw(np.tile(oracle.visitation(mdp, new), (400_000, 1)), rng)
    actions = oracle.draw(new[states], rng)
    after = oracle.draw(mdp.P[states, actions], rng)
    V = oracle.state_values(mdp, old)
    rewards, *values = (jnp.asarray(x, jnp.float32)[None] for x in (mdp.r[states, actions], V[states], V[after]))
    gain = oracle.expected_return(mdp, new) - oracle.expected_return(mdp, old)
    rollout = SimpleNamespace(reward=rewards, terminated=jnp.zeros(rewards.shape, bool))
    found = mean_residual(rollout, *values, mdp.gamma)
    np.testing.assert_allclose(found, (1 - mdp.gamma) * gain, atol=0.01)
    assert abs((1 - mdp.gamma) * gain) > 0.03  # otherwise the test shows nothing


@pytest.mark.slow
def test_predicted_and_realized_improvement_agree_on_cartpole():
    """Every reward is 1, so that the mean reward carries no information; prediction and realized improvement agree."""
    env = pp.make("CartPole-v1")
    config = Config(num_envs=64, num_steps=64, total_timesteps=64 * 64 * 12, diagnostics=True)
    metrics = pp.train(pp.make_ppo(env, pp.mlp(env), config), jax.random.key(0), Hyperparams(1e-3))[1]
    predicted, realized = metrics.diagnostics.predicted_improvement[:-1], metrics.diagnostics.realized_improvement[1:]
    assert (predicted > 0).all()
    assert (realized > 0).sum() >= 9  # of 11
    assert 0.2 < float(realized.sum() / predicted.sum()) < 5.0
    assert metrics.episode_return_mean[-1] > 2 * metrics.episode_return_mean[0]


@pytest.mark.slow
def test_a_run_reports_diagnostics_only_on_request():
    env = chain(limit=6)
    config = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=32 * 3)
    on = pp.make_ppo(env, plain(env), dataclasses.replace(config, diagnostics=True))
    state, metrics = pp.train(on, jax.random.key(0), Hyperparams(1e-2))
    d = metrics.diagnostics
    assert (d.realized_improvement == 0).tolist() == [True, False, False]
    assert (d.predicted_improvement > 0).all()  # the update increases the surrogate that measures it
    np.testing.assert_allclose(d.surrogate_after - d.surrogate_before, d.predicted_improvement, atol=1e-6)
    assert (d.kl_max >= metrics.kl).all()
    off_state, off = pp.train(pp.make_ppo(env, plain(env), config), jax.random.key(0), Hyperparams(1e-2))
    assert off.diagnostics == ()
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(off_state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # the diagnostics do not change the run
