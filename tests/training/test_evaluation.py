"""Evaluation: first episodes only, of fresh environments, with a key of its own."""

import jax
import jax.numpy as jnp
import numpy as np
from plain_net import plain
from probes import endless, reward_by_action, scripted

import purejaxppo as pp
from purejaxppo import Config
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box

CONFIG = Config(num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1, total_timesteps=8)


def ready(env, **config):
    algo = pp.make_ppo(env, plain(env), Config(**(vars(CONFIG) | config)))
    return algo, pp.init_state(algo, jax.random.key(0))


def always(state, action):
    """A policy that takes one action: its logit is far above the others."""
    params = dict(state.params)
    params["actor_w1"] = jnp.zeros_like(params["actor_w1"])
    params["actor_b1"] = jnp.zeros_like(params["actor_b1"]).at[action].set(50.0)
    return state._replace(params=params)


def test_only_the_first_episode_counts_and_nothing_after_it():
    """Rewards are 100 t + action and the episode ends at t = 3: 100 + 200 + 300 + 3 a, whatever comes after."""
    algo, state = ready(scripted(terminate_at=(3,), truncate_at=()))
    result = pp.evaluate(algo, always(state, 2), jax.random.key(1), num_episodes=5, max_steps=20)
    np.testing.assert_array_equal(result.returns, 606.0)
    np.testing.assert_array_equal(result.lengths, 3)
    assert result.finished.all()


def test_truncation_ends_an_episode_and_max_steps_leaves_it_unfinished():
    algo, state = ready(endless(limit=6))
    done = pp.evaluate(algo, state, jax.random.key(1), num_episodes=3, max_steps=20)
    cut = pp.evaluate(algo, state, jax.random.key(1), num_episodes=3, max_steps=4)
    np.testing.assert_array_equal(done.returns, 6.0)
    assert done.finished.all()
    np.testing.assert_array_equal(cut.lengths, 4)
    assert not cut.finished.any()


def test_greedy_takes_the_mode_and_sampling_the_whole_policy():
    algo, state = ready(reward_by_action())
    params = dict(state.params)
    params["actor_w1"] = jnp.zeros_like(params["actor_w1"])
    params["actor_b1"] = jnp.log(jnp.array([0.25, 0.75]))  # action 1 pays 1, action 0 pays -1
    state = state._replace(params=params)
    greedy = pp.evaluate(algo, state, jax.random.key(1), num_episodes=4000)
    sampled = pp.evaluate(algo, state, jax.random.key(2), num_episodes=4000, greedy=False)
    np.testing.assert_array_equal(greedy.returns, 1.0)
    assert abs(sampled.returns.mean() - 0.5) < 0.06


def test_observation_statistics_are_those_of_the_state():
    """With statistics that map every observation to 0 the network's biases decide, else its weights."""
    algo, state = ready(reward_by_action(), normalize_observations=True)
    moments = state.obs_moments._replace(mean=jnp.ones(1), var=jnp.ones(1), count=jnp.float32(10))
    params = dict(state.params)
    params |= {"actor_w0": jnp.full((1, 4), 10.0), "actor_b0": jnp.zeros(4)}
    params |= {"actor_w1": jnp.tile(jnp.array([[5.0, -5.0]]), (4, 1)), "actor_b1": jnp.array([0.0, 1.0])}
    seen = state._replace(params=params, obs_moments=moments)
    assert pp.evaluate(algo, seen, jax.random.key(1), num_episodes=4).returns.tolist() == [1.0] * 4  # obs 1 -> 0
    raw, _ = ready(reward_by_action())
    assert pp.evaluate(raw, seen, jax.random.key(1), num_episodes=4).returns.tolist() == [-1.0] * 4


def test_a_recording_is_one_episode_step_by_step():
    algo, state = ready(scripted(terminate_at=(3,), truncate_at=()))
    tape = pp.record(algo, always(state, 1), jax.random.key(1), num_steps=3)
    np.testing.assert_array_equal(tape.reward, [101.0, 201.0, 301.0])
    np.testing.assert_array_equal(tape.done, [False, False, True])
    np.testing.assert_array_equal(tape.obs[:, 1], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(tape.env_state.time, [0, 1, 2])


def test_an_episode_that_ended_waits_for_the_others_without_counting():
    """Episodes of 1 to 6 steps; a step after the end pays -100, as nothing is reset."""

    def reset(key):
        return (jax.random.randint(key, (), 1, 7), jnp.int32(0)), jnp.zeros(1)

    def step(key, state, action):
        length, time = state
        reward = jnp.where(time < length, jnp.float32(1), jnp.float32(-100))
        return (length, time + 1), TimeStep(jnp.zeros(1), reward, time + 1 == length, jnp.bool_(False), jnp.zeros(1))

    algo, state = ready(Env(reset, step, box(-1, 1, (1,)), Discrete(2)))
    result = pp.evaluate(algo, state, jax.random.key(1), num_episodes=40, max_steps=20)
    assert set(result.lengths.tolist()) == {1, 2, 3, 4, 5, 6}
    np.testing.assert_array_equal(result.returns, result.lengths.astype(jnp.float32))
    assert result.finished.all()
