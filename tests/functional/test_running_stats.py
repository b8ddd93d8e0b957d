"""Running moments, reward scaling, episode statistics and robust averages against NumPy loops and SciPy."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from purejaxppo.analysis.aggregate import bootstrap_interval, iqm
from purejaxppo.functional.episode_stats import init_episode_stats, summarize_episodes
from purejaxppo.functional.running_stats import (
    init_moments,
    init_reward_scaler,
    merge_moments,
    normalize,
    scale_rewards,
    update_moments,
)

MODES = ("plain", "jit", "vmap")


@functools.cache
def compiled(mode, function):
    return {"plain": function, "jit": jax.jit(function), "vmap": jax.jit(jax.vmap(function))}[mode]


def call(mode, function, *arguments):
    """The function op by op, compiled, or mapped over a new axis of two equal copies (the second is returned)."""
    if mode == "vmap":
        arguments = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), arguments)
        return jax.tree.map(lambda leaf: leaf[1], compiled(mode, function)(*arguments))
    return compiled(mode, function)(*arguments)


def array(values):
    return jnp.asarray(values, jnp.float32)


def f64(values):
    return np.asarray(values, np.float64)


# Running moments.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_parallel_merge_matches_numpy_over_the_concatenation(mode, offset):
    rng = np.random.default_rng(0)
    batches = [np.float32(offset + rng.normal(size=(steps, 8, 3))) for steps in (1, 500, 2, 300)]
    moments = init_moments((3,))
    for batch in batches:
        moments = call(mode, update_moments, moments, array(batch))
    everything = np.concatenate([f64(batch).reshape(-1, 3) for batch in batches])
    # One float32 step at 1e4 is 1e-3.
    np.testing.assert_allclose(moments.mean, everything.mean(axis=0), atol=1e-6 + 2e-7 * abs(offset))
    np.testing.assert_allclose(moments.var, everything.var(axis=0), rtol=1e-4)
    assert float(moments.count) == len(everything)


def test_moments_of_many_samples_at_a_large_offset_do_not_drift():
    """A plain float32 sum of 10⁶ values near 10⁴ is wrong in the third digit of the standard deviation."""
    rng = np.random.default_rng(1)
    moments = init_moments(())
    batches = [np.float32(1e4 + rng.normal(size=(1000, 100))) for _ in range(10)]
    update = jax.jit(update_moments)
    for batch in batches:
        moments = update(moments, array(batch))
    everything = np.concatenate([f64(batch).ravel() for batch in batches])
    np.testing.assert_allclose(moments.mean, everything.mean(), atol=2e-3)
    np.testing.assert_allclose(moments.var, everything.var(), rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_merge_with_an_empty_side_changes_nothing(mode):
    some = update_moments(init_moments((2,)), array([[1.0, 2e4], [3.0, -1e4], [0.5, 7.0]]))
    empty = init_moments((2,))
    for merged in (call(mode, merge_moments, some, empty), call(mode, merge_moments, empty, some)):
        for left, right in zip(merged, some, strict=True):
            np.testing.assert_array_equal(left, right)
    both = call(mode, merge_moments, empty, empty)
    assert all(np.isfinite(leaf).all() for leaf in both)
    assert float(both.count) == 0
    for left, right in zip(update_moments(some, jnp.zeros((0, 2))), some, strict=True):
        np.testing.assert_array_equal(left, right)


def test_merge_is_symmetric_and_order_does_not_matter():
    rng = np.random.default_rng(2)
    a, b, c = (update_moments(init_moments(()), array(rng.normal(size=n) + n)) for n in (3, 40, 17))
    one = merge_moments(merge_moments(a, b), c)
    two = merge_moments(c, merge_moments(b, a))
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)


def test_constant_samples_have_variance_exactly_zero():
    moments = update_moments(init_moments(()), jnp.full((1000, 7), 12345.678))
    moments = update_moments(moments, jnp.full((13,), 12345.678))
    assert float(moments.var) == 0.0
    assert float(moments.mean) == np.float32(12345.678)
    assert float(normalize(moments, jnp.float32(12345.678))) == 0.0


class Observation(NamedTuple):
    position: jax.Array
    seen: dict[str, jax.Array]


@pytest.mark.parametrize("mode", MODES)
def test_moments_of_a_pytree_with_integers_and_booleans(mode):
    rng = np.random.default_rng(3)
    image = jnp.asarray(rng.integers(0, 255, (6, 4, 2, 2)), jnp.uint8)
    flag = jnp.asarray(rng.integers(0, 2, (6, 4)), bool)
    batch = Observation(array(rng.normal(5.0, 2.0, size=(6, 4, 3))), {"image": image, "flag": flag})
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), batch)
    moments = call(mode, update_moments, init_moments(shapes), batch)
    result = call(mode, normalize, moments, batch)
    assert float(moments.count) == 24
    for leaf, mean, var, out in zip(*map(jax.tree.leaves, (batch, moments.mean, moments.var, result)), strict=True):
        expected_mean, expected_var = f64(leaf).mean(axis=(0, 1)), f64(leaf).var(axis=(0, 1))
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-5)
        np.testing.assert_allclose(var, expected_var, rtol=1e-4)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(
            out, (f64(leaf) - expected_mean) / np.sqrt(expected_var + 1e-8), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("mode", MODES)
def test_normalize_clips_and_is_the_identity_before_the_first_sample(mode):
    moments = update_moments(init_moments((1,)), array([[0.0], [2.0]]))  # mean 1, variance 1
    x = array([[3.0], [1e3], [-1e3], [1.5]])
    np.testing.assert_allclose(call(mode, normalize, moments, x)[:, 0], [2.0, 10.0, -10.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(normalize(moments, x, clip=1.0)[:, 0], [1.0, 1.0, -1.0, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(call(mode, normalize, init_moments((1,)), x), x)
    identity = normalize(init_moments((1,)), jnp.array([[7], [100]], jnp.int32))
    assert identity.dtype == jnp.float32
    np.testing.assert_array_equal(identity, [[7.0], [100.0]])


def test_a_batch_that_does_not_fit_is_refused():
    moments = init_moments({"a": jnp.zeros(2), "b": jnp.zeros(())})
    for shape in ((5, 3), (2, 5), ()):
        with pytest.raises(ValueError, match=r"does not end in the moments' shape \(2,\)"):
            update_moments(moments, {"a": jnp.zeros(shape), "b": jnp.zeros(5)})
    with pytest.raises(ValueError, match=r"unequal numbers of samples: \[5, 6\]"):
        update_moments(moments, {"a": jnp.zeros((5, 2)), "b": jnp.zeros(6)})


# Reward scaling.


class SlowScaler:
    """One environment and one step at a time, keeping every return ever seen."""

    def __init__(self, num_envs):
        self.returns, self.seen = np.zeros(num_envs), []

    def __call__(self, rewards, done, gamma):
        for t in range(rewards.shape[0]):
            for n in range(rewards.shape[1]):
                self.returns[n] = gamma * self.returns[n] + rewards[t, n]
                self.seen.append(self.returns[n])
                if done[t, n]:
                    self.returns[n] = 0.0
        return rewards / np.sqrt(np.var(self.seen) + 1e-8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", [0.0, 0.1, 1.0])
def test_reward_scaler_matches_a_loop_over_several_blocks(mode, end):
    rng = np.random.default_rng(4)
    slow, fast = SlowScaler(5), init_reward_scaler(5)
    for _ in range(3):
        rewards = np.float32(rng.normal(1.0, 3.0, size=(40, 5)))
        done = rng.uniform(size=(40, 5)) < end
        fast, scaled = call(mode, scale_rewards, fast, array(rewards), jnp.asarray(done), jnp.float32(0.97))
        np.testing.assert_allclose(scaled, slow(f64(rewards), done, 0.97), rtol=2e-4)
        np.testing.assert_allclose(fast.returns, slow.returns, rtol=1e-4, atol=1e-4)


def test_reward_scaler_uses_the_return_before_it_is_zeroed():
    """Episodes of one step: the returns are the rewards, so the scale is their standard deviation and not 0."""
    rewards = array([[1.0, -1.0], [3.0, 5.0]])
    _, scaled = scale_rewards(init_reward_scaler(2), rewards, jnp.ones((2, 2), bool), 0.99)
    np.testing.assert_allclose(scaled, f64(rewards) / np.std([1.0, -1.0, 3.0, 5.0]), rtol=1e-6)


def test_reward_scaler_keeps_signs_zeros_and_integers():
    scaler, scaled = scale_rewards(init_reward_scaler(2), jnp.zeros((3, 2)), jnp.zeros((3, 2), bool), 0.9)
    np.testing.assert_array_equal(scaled, 0.0)
    _, scaled = scale_rewards(scaler, jnp.array([[1, -2]], jnp.int32), jnp.zeros((1, 2), bool), 0.9)
    assert scaled.dtype == jnp.float32
    np.testing.assert_array_equal(np.sign(scaled), [[1, -1]])


# Episode statistics.


def slow_episodes(blocks, num_envs):
    """For each block the (return, length) of every episode that ended in it, in plain Python."""
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", [0.0, 0.02, 0.3, 1.0])
def test_episode_summary_matches_a_python_loop(mode, end):
    rng = np.random.default_rng(5)
    blocks = [(np.float32(rng.normal(-0.5, 2.0, size=(16, 3))), rng.uniform(size=(16, 3)) < end) for _ in range(4)]
    state = init_episode_stats(3)
    for (rewards, done), (finished, running) in zip(blocks, slow_episodes(blocks, 3), strict=True):
        state, summary = call(mode, summarize_episodes, state, array(rewards), jnp.asarray(done))
        assert float(summary.num_episodes) == len(finished)
        expected = [np.nan] * 6
        if finished:
            values = np.array(finished)
            expected = [f(values[:, i]) for i in (0, 1) for f in (np.mean, np.min, np.max)]
        np.testing.assert_allclose(np.array(summary[1:]), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.returns, [r for r, _ in running], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(state.lengths, [length for _, length in running])
        assert all(value.dtype == jnp.float32 and value.shape == () for value in summary)


def test_episode_summary_counts_an_episode_over_two_blocks_whole_and_ignores_the_unfinished():
    state = init_episode_stats(2)
    state, summary = summarize_episodes(state, jnp.ones((5, 2)), jnp.zeros((5, 2), bool))
    assert float(summary.num_episodes) == 0
    assert np.isnan(np.array(summary[1:])).all()
    done = jnp.zeros((3, 2), bool).at[1, 0].set(True)
    _, summary = summarize_episodes(state, jnp.ones((3, 2)), done)
    assert np.array(summary).tolist() == [1.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0]


# Interquartile mean and bootstrap.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [4, 8, 16, 100])
def test_iqm_is_the_trimmed_mean_where_four_divides_n(mode, n):
    x = np.random.default_rng(n).standard_cauchy(size=n)
    np.testing.assert_allclose(call(mode, iqm, array(x)), stats.trim_mean(x, 0.25), rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 9, 10, 11, 13])
def test_iqm_is_the_mean_of_the_quantile_function_between_the_quartiles(n):
    """2 ∫ F⁻¹(q) dq from 1/4 to 3/4, F the empirical distribution: the definition, for any n."""
    x = np.sort(np.random.default_rng(n).normal(size=n))
    steps = np.arange(1, n) / n
    inverse = lambda q: x[min(int(q * n), n - 1)]  # noqa: E731
    points = [q for q in steps if 0.25 < q < 0.75] or None
    expected = 2 * integrate.quad(inverse, 0.25, 0.75, points=points)[0]
    np.testing.assert_allclose(iqm(array(x)), expected, rtol=1e-5, atol=1e-6)


def test_iqm_over_an_axis_shuffling_shift_and_scale():
    x = np.random.default_rng(6).normal(size=(7, 4, 5))
    for axis in (0, 1, 2, -1):
        rows = np.moveaxis(x, axis, -1)
        expected = jax.jit(jax.vmap(iqm))(array(rows.reshape(-1, rows.shape[-1])))
        np.testing.assert_allclose(np.ravel(iqm(array(x), axis=axis)), expected, rtol=1e-5, atol=1e-6)
    flat = x.ravel()
    shuffled = np.random.default_rng(7).permutation(flat)
    np.testing.assert_allclose(iqm(array(shuffled)), iqm(array(x)), rtol=1e-6)
    np.testing.assert_allclose(iqm(array(3.0 * flat - 2.0)), 3.0 * float(iqm(array(flat))) - 2.0, rtol=1e-5)


def test_iqm_ignores_outliers_but_not_nan():
    middle = [1.0, 2.0, 3.0, 4.0]
    assert float(iqm([-np.inf, -1e30, *middle, 1e30, np.inf])) == 2.5
    for position in range(4):
        values = [*middle[:position], np.nan, *middle[position:]]
        assert np.isnan(iqm(values))
    assert float(iqm(jnp.array([1, 2, 3, 10], jnp.int32))) == 2.5


@pytest.mark.parametrize(("statistic", "truth", "lowest"), [(jnp.mean, 1.0, 0.90), (iqm, None, 0.88)])
def test_bootstrap_interval_covers_the_truth_as_often_as_it_says(statistic, truth, lowest):
    """400 intervals at 95 %, 40 values of a skewed distribution each (percentile bootstrap falls a little short)."""
    trials, n = 400, 40
    x = array(np.random.default_rng(8).exponential(size=(trials, n)))
    if truth is None:  # the interquartile mean of the exponential distribution: 2 ∫ -log(1 - q) dq
        truth = 2 * integrate.quad(lambda q: -np.log1p(-q), 0.25, 0.75)[0]
    interval = jax.jit(jax.vmap(lambda key, row: bootstrap_interval(key, row, statistic, num_resamples=400)))
    low, high = interval(jax.random.split(jax.random.key(0), trials), x)
    assert (low < high).all()
    assert lowest < np.mean((f64(low) < truth) & (truth < f64(high))) < 0.985


def test_bootstrap_interval_of_the_mean_matches_the_normal_theory():
    x = np.random.default_rng(9).normal(3.0, 2.0, size=400)
    for level, z in ((0.95, 1.96), (0.5, 0.6745)):
        low, high = bootstrap_interval(jax.random.key(1), array(x), jnp.mean, num_resamples=8000, level=level)
        half = z * x.std() / np.sqrt(400)
        np.testing.assert_allclose([low, high], [x.mean() - half, x.mean() + half], atol=0.1 * half)


def test_bootstrap_interval_of_curves_is_element_wise_and_resamples_whole_seeds():
    curves = array(np.random.default_rng(10).normal(size=(12, 3)))
    low, high = bootstrap_interval(jax.random.key(2), curves, lambda x: iqm(x, axis=0), num_resamples=500)
    assert low.shape == high.shape == (3,)
    one = lambda column: bootstrap_interval(jax.random.key(2), column, num_resamples=500)  # noqa: E731
    alone = jax.jit(jax.vmap(one, in_axes=1))(curves)
    np.testing.assert_allclose([low, high], alone, rtol=1e-5)
    rows = array([[2.5, 2.5, 2.5], [1.0, np.nan, 2.0]])
    low, high = jax.jit(jax.vmap(lambda row: bootstrap_interval(jax.random.key(3), row, num_resamples=20)))(rows)
    np.testing.assert_array_equal([low, high], [[2.5, np.nan], [2.5, np.nan]])
