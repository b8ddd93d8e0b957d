"""Reward scaling within updates: discount, resets at the ends of episodes, and unscaled returns in the metrics."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from plain_net import plain
from probes import endless

import purejaxppo as pp
from purejaxppo import Config, Hyperparams
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.tracking.csv_file import rows_of

N, T, LIMIT, GAMMA = 3, 10, 4, 0.7
ENV = endless(limit=LIMIT)  # reward 1 at every step, truncated after 4


def mean_reward(state, rollout, batch, h):
    """Return the mean of the rewards from which the targets were computed."""
    return {"scaled": rollout.reward.mean()}


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return():
    """Three updates, compared with a step-by-step loop in float64."""
    config = Config(N, T, num_epochs=1, num_minibatches=2, total_timesteps=N * T * 3, scale_rewards=True)
    algo = pp.make_ppo(ENV, plain(ENV), config, metrics_fn=mean_reward)
    h = Hyperparams(1e-3, gamma=GAMMA)
    seen, running, age = [], 0.0, 0
    for state, metrics in pp.iterate(algo, pp.init_state(algo, 0, h), h, chunk=1):
        for _ in range(T):
            running = GAMMA * running + 1.0
            seen.append(running)
            age += 1
            if age == LIMIT:
                running, age = 0.0, 0
        np.testing.assert_allclose(metrics.extra["scaled"], 1.0 / np.std(seen), rtol=1e-5)
        np.testing.assert_allclose(state.reward_scaler.returns, running, rtol=1e-6)
        assert (metrics.episode_return_mean, metrics.episode_return_max) == (LIMIT, LIMIT)
    moments = jax.device_get(state.reward_scaler.moments)
    np.testing.assert_allclose((moments.mean, moments.var), (np.mean(seen), np.var(seen)), rtol=1e-5)
    assert moments.count == 3 * N * T


def test_without_scaling_rewards_are_as_the_environment_gave_them():
    algo = pp.make_ppo(ENV, plain(ENV), Config(N, T, num_minibatches=2), metrics_fn=mean_reward)
    state, metrics = pp.train(algo, 0, num_updates=1)
    assert metrics.extra["scaled"] == 1.0
    assert state.reward_scaler.moments.count == jnp.float32(0)


def test_what_an_environment_reports_is_averaged_over_finished_episodes():
    """Episodes of 4 steps that report their time, in updates of 3 steps: none finishes in the first one."""

    def step(key, time, action):
        time = time + jnp.int32(1)
        obs = time.astype(jnp.float32)[None]
        end = time == LIMIT
        return time, TimeStep(obs, jnp.float32(1), jnp.bool_(False), end, obs, {"time": time.astype(jnp.float32)})

    env = Env(lambda key: (jnp.int32(0), jnp.zeros(1)), step, box(0, 9, (1,)), Discrete(2))
    config = Config(N, 3, num_epochs=1, num_minibatches=1, total_timesteps=N * 3 * 2)
    algo = pp.make_ppo(env, plain(env), config)
    _, metrics = pp.train(algo, jax.random.key(0))
    np.testing.assert_array_equal(metrics.extra["episode_info_time"], [0.0, LIMIT])
    first, second = (row["episode_info_time"] for row in rows_of(metrics, 0, N * 3, 0.0, 1.0))
    assert math.isnan(first)
    assert second == LIMIT
