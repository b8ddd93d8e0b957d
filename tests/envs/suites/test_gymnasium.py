"""Gymnasium: batches on the host are stepped in program order, with the suite's flags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import assert_same, first_end, needs

from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.registry import make
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete
from purejaxppo.envs.suites import gymnasium as adapter

gym = needs("gymnasium")


def roll(vec, actions: np.ndarray, seed: int = 0):
    """Step a batch with actions [T, N, ...]; return first observations [N, ...] and TimeSteps [T, N, ...]."""
    num_steps, num_envs = actions.shape[:2]

    @jax.jit
    def run(key, actions):
        state, first = vec.reset(key, num_envs)
        noise = vec.noise(key, num_steps, num_envs)
        return first, jax.lax.scan(lambda state, xs: vec.step(xs[0], state, xs[1]), state, (noise, actions))[1]

    return jax.tree.map(np.asarray, run(jax.random.key(seed), jnp.asarray(actions)))


def test_the_recorded_ids_are_registered() -> None:
    assert set(recorded_ids("gymnasium")) <= set(gym.registry)


def test_it_steps_as_the_suite_does() -> None:
    actions = np.random.default_rng(0).integers(0, 2, (40, 3), dtype=np.int32)
    first, ts = roll(make("gymnasium/CartPole-v1"), actions)
    seed = int(jax.random.bits(jax.random.key(0)) >> 1)
    for n in range(3):
        env = gym.make("CartPole-v1")
        np.testing.assert_array_equal(env.reset(seed=seed + n)[0], first[n])
        for t in range(int(first_end(ts.terminated)[n])):
            obs, reward, terminated, truncated, _ = env.step(int(actions[t, n]))
            np.testing.assert_array_equal(obs, ts.final_obs[t, n])
            assert (reward, terminated, truncated) == (ts.reward[t, n], ts.terminated[t, n], ts.truncated[t, n])
        assert terminated


def test_the_clock_truncates_and_both_at_once_terminate() -> None:
    """The pole falls at step t: with a clock of t steps the episode is terminated, with t - 1 truncated."""
    actions = np.zeros((20, 1), np.int32)
    end = int(first_end(roll(make("gymnasium/CartPole-v1"), actions)[1].terminated)[0])
    both = roll(make("gymnasium/CartPole-v1", max_episode_steps=end), actions)[1]
    assert both.terminated[end - 1, 0]
    assert not both.truncated[end - 1, 0]
    cut = roll(make("gymnasium/CartPole-v1", max_episode_steps=end - 1), actions)[1]
    assert cut.truncated[end - 2, 0]
    assert not cut.terminated[end - 2, 0]
    np.testing.assert_array_equal(cut.final_obs[end - 2], both.final_obs[end - 2])
    assert not np.array_equal(cut.obs[end - 2], cut.final_obs[end - 2])


def test_two_batches_of_one_environment_are_independent() -> None:
    vec, actions = make("gymnasium/CartPole-v1"), np.ones((5, 2), np.int32)
    alone = roll(vec, actions, seed=1)

    @jax.jit
    def both(key, other):
        (a, first), (b, _) = vec.reset(key, 2), vec.reset(other, 2)

        def step(carry, action):
            a, b = carry
            b, _ = vec.step(None, b, 1 - action)
            a, ts = vec.step(None, a, action)
            return (a, b), ts

        return first, jax.lax.scan(step, (a, b), jnp.asarray(actions))[1]

    assert_same(alone, jax.tree.map(np.asarray, both(jax.random.key(1), jax.random.key(2))))


def test_continuous_actions_are_clipped() -> None:
    vec = make("gymnasium/Pendulum-v1")
    large, bound = (roll(vec, np.full((3, 2, 1), x, np.float32))[1] for x in (50.0, 2.0))
    np.testing.assert_array_equal(large.obs, bound.obs)


def test_spaces_have_counterparts() -> None:
    spaces = gym.spaces
    found = adapter._space(
        "x",
        spaces.Dict(
            a=spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiBinary(2))),
            b=spaces.Box(0, 255, (8, 8, 3), np.uint8),
            c=spaces.Box(-1, 1, (2,), np.float64),
        ),
    )
    assert found["a"] == (Discrete(3), MultiDiscrete((2, 2)))
    assert found["b"].pixels
    assert isinstance(found["c"], Box)
    assert found["c"].dtype == np.float32
    with pytest.raises(ValueError, match="Text"):
        adapter._space("x", spaces.Text(5))


def test_choices_that_do_not_count_from_0_are_shifted() -> None:
    space = gym.spaces.Discrete(3, start=5)
    ours = adapter._space("x", space)
    np.testing.assert_array_equal(adapter._to_actions(ours, space, np.array([0, 2])), [5, 7])
    np.testing.assert_array_equal(adapter._to_arrays(ours, space, np.array([5, 7])), [0, 2])


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="max_episode_steps"):
        make("gymnasium/CartPole-v1", max_episode_step=3)
    with pytest.raises(ValueError, match="vectorization_mode"):
        make("gymnasium/CartPole-v1", vectorization_mode="serial")


def test_it_cannot_be_mapped_over_seeds() -> None:
    vec = make("gymnasium/CartPole-v1")
    with pytest.raises(ValueError, match="vmap"):
        jax.vmap(lambda key: vec.reset(key, 2))(jax.random.split(jax.random.key(0), 3))
