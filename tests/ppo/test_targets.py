"""Rollout and targets: bootstrap values, truncation, and the data of the epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import reward_by_distance, scripted
from updates import CHAIN, ENDLESS, TINY, algorithm, values_of

from purejaxppo import Config, Hyperparams, ppo
from purejaxppo.training.loop import as_traced


def test_eq09_next_values_are_those_of_the_state_before_the_reset():
    """V(s'_t) compared with the network applied to every final_obs, also if one environment is truncated many times."""
    algo = algorithm(scripted(terminate_at=(7,), truncate_at=(2, 5)))
    state, _, rollout, _, next_values = values_of(algo)
    assert rollout.truncated.sum(0).max() >= 3
    _, _, expected = algo.network.apply(state.params, (), rollout.final_obs, rollout.is_first)
    np.testing.assert_allclose(jnp.where(rollout.terminated, 0, next_values - expected), 0.0, atol=1e-6)
    _, _, wrong = algo.network.apply(state.params, (), jnp.roll(rollout.obs, -1, 0), rollout.is_first)
    assert (
        jnp.abs(jnp.where(rollout.truncated, wrong - expected, 0.0)).max() > 1e-2
    )  # the first state of the next episode differs


@pytest.mark.parametrize("mode", ["bootstrap", "terminal", "mask"])
def test_truncation_modes_by_hand(mode):
    """At a truncated step δ is r + γ V(s') - V, r - V, or 0, and no trace crosses it."""
    algo = algorithm(ENDLESS, Config(**(vars(TINY) | {"truncation": mode})))
    _, after, rollout, values, next_values = values_of(algo)
    h = as_traced(Hyperparams(gamma=0.9, gae_lambda=0.7))
    batch = ppo.compute_targets(algo.components, after.params, after, rollout, h)
    v, v_next, cut = (np.asarray(x) for x in (values, next_values, rollout.truncated))
    delta = {"bootstrap": 1 + 0.9 * v_next - v, "terminal": 1 - v, "mask": 0 * v}[mode]
    delta = np.where(cut, delta, 1 + 0.9 * v_next - v)
    expected, trace = np.zeros_like(delta), 0
    for t in reversed(range(8)):
        trace = delta[t] + 0.9 * 0.7 * np.where(cut[t], 0, trace)
        expected[t] = trace
    assert cut.sum() == 6
    np.testing.assert_allclose(batch.advantage.reshape(8, 3), expected, atol=1e-5)
    np.testing.assert_allclose(batch.target.reshape(8, 3), expected + v, atol=1e-5)


def test_E7_targets_are_bitwise_the_same_with_normalization_on_and_off():
    batches = []
    for on in (True, False):
        algo = algorithm(CHAIN, Config(**(vars(TINY) | {"normalize_advantages": on})))
        state, after, rollout, _, _ = values_of(algo)
        batches.append(ppo.compute_targets(algo.components, state.params, after, rollout, as_traced(None)))
    np.testing.assert_array_equal(batches[0].target, batches[1].target)
    assert abs(float(batches[0].advantage.mean())) > 1e-3  # the advantages in the batch are not normalized


def test_C5_no_gradient_through_targets_and_advantages():
    """The gradient is the same whether or not the batch depends on the parameters."""
    algo = algorithm(CHAIN)
    components, h = algo.components, as_traced(Hyperparams(ent_coef=0.01))
    state, after, rollout, _, _ = values_of(algo)

    def through(params):
        batch = ppo.compute_targets(components, params, after, rollout, h)
        return batch.advantage.sum() + batch.target.sum()

    assert all((g == 0).all() for g in jax.tree.leaves(jax.grad(through)(state.params)))


def test_actions_are_stored_unclipped_and_clipped_for_the_environment():
    """With σ = e^(-0.3) and bounds ±0.5 many actions are outside; the reward is that of the clipped action."""
    algo = algorithm(reward_by_distance(target=0.25, action_dim=2, bound=0.5))
    state, after, rollout, _, _ = values_of(algo)
    assert (jnp.abs(rollout.action) > 0.5).mean() > 0.2
    clipped = np.clip(np.asarray(rollout.action), -0.5, 0.5)
    np.testing.assert_allclose(rollout.reward, -((clipped - 0.25) ** 2).sum(-1), rtol=1e-5, atol=1e-6)
    batch = ppo.compute_targets(algo.components, state.params, after, rollout, as_traced(None))
    mean, log_std = (np.asarray(x, np.float64) for x in (rollout.distribution.mean, rollout.distribution.log_std))
    normal = -0.5 * ((rollout.action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(batch.log_prob.reshape(8, 3), normal.sum(-1), rtol=1e-4)


def test_a_masked_truncation_has_no_effect_on_the_policy():
    """In the mode "mask" the normalized advantage of a truncated step is 0; the other advantages have mean 0."""
    algo = algorithm(ENDLESS, Config(**(vars(TINY) | {"truncation": "mask"})))
    _, after, rollout, _, _ = values_of(algo)
    batch = ppo.compute_targets(algo.components, after.params, after, rollout, as_traced(None))
    cut = np.asarray(rollout.truncated).reshape(1, -1)
    np.testing.assert_array_equal(batch.excluded, cut)
    advantage = np.asarray(ppo.surrogate_advantage(algo.components, batch.advantage, batch.excluded))
    assert cut.sum() == 6
    np.testing.assert_array_equal(advantage[cut], 0.0)
    np.testing.assert_allclose([advantage[~cut].mean(), advantage[~cut].std()], [0.0, 1.0], atol=1e-5)
