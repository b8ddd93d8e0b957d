"""One whole update: its inputs, its random numbers, annealing and metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import endless, masked, reward_by_distance
from slow import slow_except
from updates import CHAIN, ENDLESS, PUSH, TINY, again, algorithm, one_update

import purejaxppo as pp
from purejaxppo import Config, Hyperparams, ppo
from purejaxppo.training.loop import as_traced

PATHS = {
    "as is": {},
    "normalised observations, sorted shuffle": {"normalize_observations": True, "shuffle": "permutation"},
    "scaled rewards, whole batch": {"scale_rewards": True, "num_minibatches": 1},
    "advantages as they are": {"normalize_advantages": False, "targets": "monte_carlo"},
    "KL penalty": {"objective": "kl", "targets": "n_step", "n_step": 3},
    "CPI, resets in the step": {"objective": "cpi", "resets": "every_step"},
    "TRPO": {"policy_step": "trpo", "normalize_observations": True},
    "targets anew each epoch": {"recompute_advantages": True, "targets": "td_lambda"},
    "cuts as ends, pooled resets": {"truncation": "terminal", "resets": "pool"},
    "cuts masked": {"truncation": "mask"},
}


@pytest.mark.parametrize(
    ("kind", "path"),
    slow_except(
        [
            *(("discrete", path) for path in PATHS),
            ("continuous", "normalised observations, sorted shuffle"),
            ("continuous", "TRPO"),
        ],
        ("discrete", "normalised observations, sorted shuffle"),
        ("discrete", "cuts masked"),
        ("continuous", "TRPO"),
    ),
)
def test_ratio_is_one_at_the_first_minibatch(kind, path):
    """For every variant, in the third update too. test_recurrent.py has other networks and action spaces."""
    env = CHAIN if kind == "discrete" else PUSH
    algo = algorithm(env, Config(**(vars(TINY) | PATHS[path])))
    _, state, metrics = one_update(algo, Hyperparams(0.1), updates=3)
    assert metrics.first_ratio_error < 1e-5
    assert metrics.kl > 1e-5  # later ratios differ from 1
    if algo.config.normalize_observations:
        assert state.obs_moments.count == 3 * 24


def test_an_update_respects_masks_and_does_not_normalize_them():
    """A forbidden action ends the episode and costs 10: none is taken, and the first ratio is 1."""
    env = masked()
    network = pp.make_network(env, pp.NetworkConfig())
    config = Config(**(vars(TINY) | {"normalize_observations": True}))
    _, _, metrics = one_update(pp.make_ppo(env, network, config), Hyperparams(0.1), updates=3)
    assert metrics.first_ratio_error < 1e-5
    assert metrics.episode_return_min >= 0.0


def test_C7_controls_change_once_per_update_by_the_kl_of_the_whole_batch():
    """β, learning rate and clip range of every update follow from the KL of the previous one by the written rules."""
    config = Config(**(vars(TINY) | {"objective": "kl", "total_timesteps": 24 * 12}))
    h = Hyperparams(0.1, beta=0.5, beta_target_kl=0.03, lr_target_kl=0.02, clip_target_kl=0.05, lr_anneal=0.5)
    _, m = pp.train(algorithm(CHAIN, config), jax.random.key(0), h)
    kl = np.asarray(m.kl, np.float64)
    beta, rate, clip = 0.5, 1.0, 1.0
    seen = set()
    for i in range(12):
        np.testing.assert_allclose(m.beta[i], beta, rtol=1e-5)
        np.testing.assert_allclose(m.learning_rate[i], 0.1 * rate * (1 - 0.5 * i / 12), rtol=1e-5)
        np.testing.assert_allclose(m.clip_eps[i], 0.2 * clip, rtol=1e-5)
        factor = 2.0 if kl[i] > 1.5 * 0.03 else 0.5 if kl[i] < 0.03 / 1.5 else 1.0
        seen.add(factor)
        beta *= factor
        rate = np.clip(rate * (1 / 1.5 if kl[i] > 2 * 0.02 else 1.5 if kl[i] < 0.02 / 2 else 1.0), 0.01, 10)
        clip = np.clip(clip * (1 / 1.5 if kl[i] > 2 * 0.05 else 1.5 if kl[i] < 0.05 / 2 else 1.0), 0.1, 2)
    assert {2.0, 0.5} <= seen


def test_learning_rate_anneals_once_per_update():
    _, state, metrics = one_update(algorithm(CHAIN), Hyperparams(1e-2), updates=3)
    np.testing.assert_allclose(metrics.learning_rate, 1e-2 * (1 - 2 / 4), rtol=1e-6)
    assert state.num_updates == 3
    _, _, metrics = one_update(algorithm(CHAIN), Hyperparams(1e-2, lr_anneal=0.0), updates=3)
    np.testing.assert_allclose(metrics.learning_rate, 1e-2, rtol=1e-6)


def test_the_mean_return_excludes_unfinished_episodes():
    _, _, metrics = one_update(algorithm(endless(limit=100)))
    assert metrics.num_episodes == 0
    assert metrics.episode_return_mean == 0
    _, _, metrics = one_update(algorithm(ENDLESS))
    assert (metrics.num_episodes, metrics.episode_return_mean, metrics.episode_length_max) == (6, 4, 4)


def test_observation_statistics_change_only_after_the_update():
    config = Config(**(vars(TINY) | {"normalize_observations": True}))
    algo = algorithm(CHAIN, config)
    before, after, _ = one_update(algo, updates=2)
    assert before.obs_moments.count == 24
    _, rollout = ppo.collect_rollout(algo.components, before, jax.random.split(again(before.key), 3)[1])
    np.testing.assert_allclose(after.obs_moments.count, 48)
    old = before.obs_moments
    merged = (old.mean * 24 + np.asarray(rollout.obs).reshape(24, -1).sum(0)) / 48
    np.testing.assert_allclose(after.obs_moments.mean, merged, atol=1e-6)


def test_every_iteration_draws_new_actions():
    """At learning rate 0 in a deterministic environment, two iterations differ only by their actions."""
    algo = algorithm(reward_by_distance())
    h = as_traced(Hyperparams(0.0))
    state = jax.jit(algo.init)(jax.random.key(0), h)
    after, metrics = jax.jit(algo.update)(state, h)
    _, later = jax.jit(algo.update)(again(after), h)
    assert metrics.episode_return_mean != later.episode_return_mean


def test_an_infinite_reward_is_a_fault_although_scaled_rewards_are_bounded():
    """The fault is counted before the reward is scaled and clipped to a finite value."""

    def step(key, state, action):
        after, ts = ENDLESS.step(key, state, action)
        return after, ts._replace(reward=jnp.where(ts.truncated, jnp.inf, ts.reward))

    config = Config(**(vars(TINY) | {"scale_rewards": True}))
    _, _, metrics = one_update(algorithm(ENDLESS._replace(step=step), config))
    assert metrics.nonfinite_rewards == 6  # two episodes of 4 steps in each of 3 environments
    assert metrics.nonfinite_observations == 0
    assert metrics.first_fault_step == 3
