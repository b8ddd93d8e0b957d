"""Improvement diagnostics against their formulas, the exact MDP, and a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from plain_net import plain
from probes import chain

import purejaxppo as pp
from purejaxppo import Config, Hyperparams
from purejaxppo.diagnostics import improvement


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
        d = improvement(*given, jnp.ones(4), jnp.float32(0.25), jnp.float32(mdp.gamma))
        truth = oracle.expected_return(mdp, new) - oracle.expected_return(mdp, old)
        exact = (oracle.visitation(mdp, old) * (new * A).sum(1)).sum()
        np.testing.assert_allclose(d.predicted_improvement, exact, atol=0.01)
        assert d.lower_bound <= truth
        np.testing.assert_allclose(d.tv_mean, oracle.visitation(mdp, old) @ oracle.total_variation(old, new), atol=5e-3)
        assert oracle.total_variation(old, new).max() <= d.tv_max_bound
        np.testing.assert_allclose(d.realised_improvement, 0.75)
        if size == 0.03:  # first order holds for a small step
            np.testing.assert_allclose(exact / (1 - mdp.gamma), truth, rtol=0.1)


def test_a_run_reports_them_only_where_asked():
    env = chain(limit=6)
    config = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=32 * 3)
    on = pp.make_ppo(env, plain(env), dataclasses.replace(config, diagnostics=True))
    state, metrics = pp.train(on, jax.random.key(0), Hyperparams(1e-2))
    d = metrics.diagnostics
    assert jnp.isnan(d.realised_improvement).tolist() == [True, False, False]
    assert (d.predicted_improvement > 0).all()  # the update climbs the surrogate that it is measured by
    np.testing.assert_allclose(d.surrogate_after - d.surrogate_before, d.predicted_improvement, atol=1e-6)
    assert (d.kl_max >= metrics.kl).all()
    off_state, off = pp.train(pp.make_ppo(env, plain(env), config), jax.random.key(0), Hyperparams(1e-2))
    assert off.diagnostics == ()
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(off_state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # looking changes nothing
