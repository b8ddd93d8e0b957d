"""Statistics of finished episodes compared with a loop in Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.functional.episode_stats import init_episode_stats, mean_info, summarize_episodes


def slow_episodes(blocks, num_envs):
    """Return for each block the (return, length) of every episode that ended in it."""
    running = [[0.0, 0] for _ in range(num_envs)]
    for rewards, done in blocks:
        finished = []
        for t in range(len(rewards)):
            for n in range(num_envs):
                running[n] = [running[n][0] + float(rewards[t, n]), running[n][1] + 1]
                if done[t, n]:
                    finished.append(tuple(running[n]))
                    running[n] = [0.0, 0]
        yield finished, running


@pytest.mark.parametrize("end", [0.0, 0.02, 0.3, 1.0])
def test_episode_summary_matches_a_python_loop(run, end):
    rng = np.random.default_rng(5)
    blocks = [(np.float32(rng.normal(-0.5, 2.0, size=(16, 3))), rng.uniform(size=(16, 3)) < end) for _ in range(4)]
    state = init_episode_stats(3)
    for (rewards, done), (finished, running) in zip(blocks, slow_episodes(blocks, 3), strict=True):
        state, summary = run(summarize_episodes, state, jnp.asarray(rewards), jnp.asarray(done))
        assert float(summary.num_episodes) == len(finished)
        expected = [0.0] * 6  # no episode finished
        if finished:
            values = np.array(finished)
            expected = [f(values[:, i]) for i in (0, 1) for f in (np.mean, np.min, np.max)]
        np.testing.assert_allclose(np.array(summary[1:]), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.returns, [r for r, _ in running], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(state.lengths, [length for _, length in running])
        assert all(value.dtype == jnp.float32 and value.shape == () for value in summary)


def test_episode_summary_counts_finished_episodes_over_two_blocks_only():
    state = init_episode_stats(2)
    state, summary = summarize_episodes(state, jnp.ones((5, 2)), jnp.zeros((5, 2), bool))
    assert float(summary.num_episodes) == 0
    assert np.array(summary).tolist() == [0.0] * 7  # not NaN, so that jax_debug_nans passes
    done = jnp.zeros((3, 2), bool).at[1, 0].set(True)
    _, summary = summarize_episodes(state, jnp.ones((3, 2)), done)
    assert np.array(summary).tolist() == [1.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0]


SPECIAL = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e-8, 1e-30]


@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("place", [(0, 0), (3, 1), (7, 2)], ids=str)
def test_a_bad_reward_changes_only_its_own_episode(run, value, place):
    """In float64: an episode whose return is no finite float32 does not count, and all others do as before."""
    rng = np.random.default_rng(1)
    rewards = np.float32(rng.normal(size=(24, 3)))
    rewards[place] = value
    done = np.arange(24)[:, None] % np.array([4, 6, 8]) == 3
    finished, _ = next(slow_episodes([(rewards.astype(np.float64), done)], 3))
    values = np.array([(r, n) for r, n in finished if abs(r) <= np.finfo(np.float32).max])
    state, count = init_episode_stats(3), 0.0
    for part in (slice(0, 5), slice(5, 24)):  # the running episodes are continued
        state, summary = run(summarize_episodes, state, jnp.asarray(rewards[part]), jnp.asarray(done[part]))
        assert np.isfinite(np.array(summary)).all()
        count += float(summary.num_episodes)
    assert count == len(values)
    end, whole = run(summarize_episodes, init_episode_stats(3), jnp.asarray(rewards), jnp.asarray(done))
    assert float(whole.num_episodes) == len(values) == len(finished) - (not np.isfinite(value))
    expected = [f(values[:, i]) for i in (0, 1) for f in (np.mean, np.min, np.max)]
    np.testing.assert_allclose(np.array(whole[1:]), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.returns, end.returns, rtol=1e-5, atol=1e-6)
    assert np.isfinite(np.asarray(state.returns)).all()


@pytest.mark.parametrize("value", [1e-8, 1.0, 3e38, -3e38, float(np.finfo(np.float32).max)])
def test_the_mean_of_many_returns_neither_overflows_nor_underflows(run, value):
    done = jnp.ones((50, 3), bool)
    _, summary = run(summarize_episodes, init_episode_stats(3), jnp.full((50, 3), value, jnp.float32), done)
    np.testing.assert_allclose(np.array(summary[:4]), [150, *[np.float32(value)] * 3], rtol=1e-6)


def test_an_episode_whose_return_overflows_does_not_count(run):
    """3e38 + 3e38 is infinite, and so is the sum with -3e38 after it."""
    rewards = jnp.asarray([[3e38], [3e38], [-3e38], [2.0]], jnp.float32)
    done = jnp.asarray([[False], [False], [True], [True]])
    state, summary = run(summarize_episodes, init_episode_stats(1), rewards, done)
    assert np.array(summary).tolist() == [1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    assert state.returns.tolist() == [0.0]


def test_info_that_is_not_finite_does_not_count():
    done = jnp.ones((3, 1), bool)
    for bad in (jnp.nan, jnp.inf):
        info = {"x": jnp.asarray([[1.0], [bad], [2.0]]), "y": jnp.asarray([[1.0], [4.0], [4.0]])}
        assert mean_info(info, done) == {"episode_info_x": 1.5, "episode_info_y": 3.0}
    huge = {"x": jnp.full((3, 1), 3e38, jnp.float32), "never": jnp.full((3, 1), jnp.nan)}
    means = mean_info(huge, done)
    np.testing.assert_allclose(means["episode_info_x"], 3e38, rtol=1e-6)
    assert means["episode_info_never"] == 0.0


@pytest.mark.parametrize("value", [1e-32, -1e-32, 2.0**-24, -3.0, 65504.0])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_means_of_info_neither_overflow_nor_underflow_in_any_dtype(dtype, value):
    x = jnp.full((40, 3), value, dtype)
    found = mean_info({"x": x}, jnp.ones((40, 3), bool))["episode_info_x"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.float32(x[0, 0]), rtol=1e-6)


def test_info_is_averaged_over_the_last_steps_of_counted_episodes():
    info = {"won": jnp.arange(8.0).reshape(4, 2), "nan_before_the_end": jnp.full((4, 2), jnp.nan).at[3].set(2.0)}
    done = jnp.zeros((4, 2), bool).at[3].set(True)
    assert mean_info({"won": info["won"]}, done.at[0, 1].set(True)) == {"episode_info_won": (1 + 6 + 7) / 3}
    assert mean_info(info, done) == {"episode_info_won": 6.5, "episode_info_nan_before_the_end": 2.0}
    assert mean_info(info, done, jnp.zeros((4, 2), bool).at[3, 0].set(True))["episode_info_won"] == 7.0


def test_info_without_entries_or_finished_episodes():
    never = jnp.zeros((4, 2), bool)
    assert mean_info((), never) == {}
    assert mean_info({"won": jnp.ones((4, 2))}, never) == {"episode_info_won": 0.0}
