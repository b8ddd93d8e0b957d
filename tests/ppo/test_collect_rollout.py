"""Random inputs of a rollout differ between steps, between environments, and between rollouts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_net import plain

import purejaxppo as pp
from purejaxppo import Config
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import box

T, N, A = 16, 6, 2


def noisy():
    """Make an environment whose observations and rewards are random; a step ends the episode with probability 1/2."""

    def reset(key):
        return jnp.int32(0), jax.random.uniform(key, (1,), minval=2.0, maxval=3.0)

    def step(key, state, action):
        obs_key, reward_key, end_key = jax.random.split(key, 3)
        obs = jax.random.uniform(obs_key, (1,))
        reward = jax.random.normal(reward_key)
        end = jax.random.bernoulli(end_key)
        return state, TimeStep(obs, reward, end, jnp.bool_(False), obs)

    return Env(reset, step, box(0, 3, (1,)), box(-np.inf, np.inf, (A,)))


def rollouts(resets):
    """Return two consecutive rollouts."""
    env = noisy()
    algo = pp.make_ppo(env, plain(env), Config(N, T, resets=resets, num_minibatches=2))
    state = pp.init_state(algo, 0)
    state, first = pp.rollout(algo, state, 1)
    return state, first, pp.rollout(algo, state, 2)[1]


def all_differ(x):
    return len(np.unique(np.asarray(x))) == np.size(x)


@pytest.mark.parametrize("resets", ["fresh", "every_step", "pool"])
def test_noise_differs_between_steps_environments_and_rollouts(resets):
    """Checked for steps, for actions (standard normal per component), and for first states of episodes."""
    _, *both = rollouts(resets)
    steps, rewards, actions, starts = ([] for _ in range(4))
    for r in both:
        steps.append(r.final_obs[..., 0])
        rewards.append(r.reward)
        actions.append((r.action - r.distribution.mode()) / jnp.exp(r.distribution.log_std))
        starts.append(np.asarray(r.obs[1:, :, 0])[np.asarray(r.is_first[1:])])
    for values in (steps, rewards, actions):
        assert all_differ(np.stack(values))
    noise = np.stack(actions).ravel()
    assert abs(noise.mean()) < 0.2
    assert 0.85 < noise.std() < 1.15
    first = np.concatenate(starts)
    assert (first >= 2.0).all()
    assert all_differ(first) or resets == "pool"
    assert len(np.unique(first)) > 0.6 * len(first)


def test_a_rollout_changes_only_the_environments():
    state, first, second = rollouts("fresh")
    assert first.reward.shape == (T, N)
    np.testing.assert_array_equal(state.obs, second.obs[0])
    np.testing.assert_array_equal(state.is_first, second.is_first[0])
    assert state.num_updates == 0
    assert state.obs_moments.count == 0


@pytest.mark.parametrize("refresh", [0, 1, 3, 4])
def test_each_step_replaces_the_oldest_states_of_the_pool(refresh):
    """`pool_refresh` of `pool_size` observations change in a step, in the order of their places; the others stay."""
    env = noisy()
    config = Config(N, 1, num_minibatches=1, resets="state_pool", pool_size=4, pool_refresh=refresh)
    algo = pp.make_ppo(env, plain(env), config)
    state = pp.init_state(algo, 0)
    pools = []
    for seed in range(3):
        (_, obs), _ = state.env_state.pool
        pools.append(np.asarray(obs[:, 0]))
        state, _ = pp.rollout(algo, state, seed + 1)
    for step, (before, after) in enumerate(itertools.pairwise(pools)):
        places = np.arange(step * refresh, (step + 1) * refresh) % 4
        np.testing.assert_array_equal(np.flatnonzero(before != after), np.sort(places))
