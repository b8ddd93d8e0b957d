"""Running moments and reward scaling compared with NumPy loops in float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow import slow_except

from purejaxppo.functional import running_stats
from purejaxppo.functional.running_stats import RunningMoments, init_moments, init_reward_scaler

merge_moments, update_moments, normalize, scale_rewards = map(
    jax.jit,
    (running_stats.merge_moments, running_stats.update_moments, running_stats.normalize, running_stats.scale_rewards),
)


def array(values):
    return jnp.asarray(values, jnp.float32)


def f64(values):
    return np.asarray(values, np.float64)


# Running moments -----------------------------------------------------------------------------------------------------


def exact(moments):
    """Mean, variance and count with their low parts, in float64."""
    low = moments.low or (0.0, 0.0, 0.0)
    return [f64(high) + f64(rest) for high, rest in zip(moments[:3], low, strict=True)]


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_parallel_merge_matches_numpy_over_the_concatenation(run, offset):
    rng = np.random.default_rng(0)
    batches = [np.float32(offset + rng.normal(size=(steps, 8, 3))) for steps in (1, 500, 2, 300)]
    moments = init_moments((3,))
    for batch in batches:
        moments = run(running_stats.update_moments, moments, array(batch))
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
    for batch in batches:
        moments = update_moments(moments, array(batch))
    everything = np.concatenate([f64(batch).ravel() for batch in batches])
    np.testing.assert_allclose(moments.mean, everything.mean(), atol=2e-3)
    np.testing.assert_allclose(moments.var, everything.var(), rtol=1e-4)


def test_merging_an_empty_sample_changes_nothing(run):
    some = update_moments(init_moments((2,)), array([[1.0, 2e4], [3.0, -1e4], [0.5, 7.0]]))
    empty = init_moments((2,))
    for merged in (run(running_stats.merge_moments, some, empty), run(running_stats.merge_moments, empty, some)):
        for left, right in zip(*map(jax.tree.leaves, (merged, some)), strict=True):
            np.testing.assert_array_equal(left, right)
    both = run(running_stats.merge_moments, empty, empty)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(both))
    assert float(both.count) == 0
    for left, right in zip(*map(jax.tree.leaves, (update_moments(some, jnp.zeros((0, 2))), some)), strict=True):
        np.testing.assert_array_equal(left, right)


def test_merge_is_symmetric_and_order_does_not_matter():
    rng = np.random.default_rng(2)
    a, b, c = (update_moments(init_moments(()), array(rng.normal(size=n) + n)) for n in (3, 40, 17))
    one = merge_moments(merge_moments(a, b), c)
    two = merge_moments(c, merge_moments(b, a))
    for left, right in zip(exact(one), exact(two), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)


def test_constant_samples_have_variance_exactly_zero():
    moments = update_moments(init_moments(()), jnp.full((1000, 7), 12345.678))
    moments = update_moments(moments, jnp.full((13,), 12345.678))
    assert float(moments.var) == 0.0
    assert float(moments.mean) == np.float32(12345.678)
    assert float(normalize(moments, jnp.float32(12345.678))) == 0.0


@pytest.mark.parametrize(
    ("mean", "count", "size", "to"),
    slow_except(
        [(1000.0, 1e7, 256, 1001.0), (100.0, 1e8, 128, 101.0), (-3e4, 1e9, 64, -3e4 + 2), (0.5, 1e11, 512, 0.75)],
        (1000.0, 1e7, 256, 1001.0),
        (-3e4, 1e9, 64, -3e4 + 2),
    ),
)
def test_small_updates_are_not_lost_however_large_the_count(mean, count, size, to):
    """40,000 batches, each far below the resolution of float32, compared with the same recursion in float64."""
    batches = np.float32(to + np.random.default_rng(0).normal(size=(50, size)))
    start = merge_moments(init_moments(()), RunningMoments(*map(jnp.float32, (mean, 1.0, count))))
    step = lambda moments, i: (running_stats.update_moments(moments, jnp.asarray(batches)[i % 50]), None)  # noqa: E731
    moments = jax.jit(lambda m: jax.lax.scan(step, m, jnp.arange(40_000))[0])(start)
    true_mean, true_var, true_count = exact(start)
    means, variances = f64(batches).mean(axis=1).tolist(), f64(batches).var(axis=1).tolist()
    for i in range(40_000):
        weight, gap = size / (true_count + size), means[i % 50] - true_mean
        true_mean += weight * gap
        true_var += weight * (variances[i % 50] - true_var + (1 - weight) * gap**2)
        true_count += size
    found = exact(moments)
    assert found[2] == true_count
    np.testing.assert_allclose(found[0] - exact(start)[0], true_mean - exact(start)[0], rtol=1e-4)
    np.testing.assert_allclose(found[1] - 1.0, true_var - 1.0, rtol=1e-4, atol=1e-12)
    # The float32 numbers without their low parts are exact to float32.
    np.testing.assert_allclose(moments[:3], (true_mean, true_var, true_count), rtol=6e-8)


def test_the_same_updates_in_plain_float32_are_lost():
    """Negative control: in plain float32, mean + w δ does not change, so the test above would fail."""
    mean, weight = jnp.float32(1000.0), jnp.float32(256 / 1e7)
    assert mean + weight * (jnp.float32(1001.0) - mean) == 1000.0


def test_moments_without_low_parts_count_as_exact():
    """Moments from another library or from a file can be continued."""
    bare = RunningMoments(jnp.float32(2.0), jnp.float32(3.0), jnp.float32(10.0))
    merged = merge_moments(bare, bare)
    np.testing.assert_allclose(merged[:3], (2.0, 3.0, 20.0))
    assert jax.tree.structure(merged) == jax.tree.structure(init_moments(()))
    assert float(normalize(bare, jnp.float32(2.0))) == 0.0


def test_a_first_batch_is_exact_even_if_the_squared_distance_overflows():
    far = RunningMoments(jnp.float32(1e30), jnp.float32(0.0), jnp.float32(4.0))
    moments = merge_moments(init_moments(()), far)
    assert (float(moments.mean), float(moments.var), float(moments.count)) == (float(np.float32(1e30)), 0.0, 4.0)


class Observation(NamedTuple):
    position: jax.Array
    seen: dict[str, jax.Array]


def test_moments_of_a_pytree_with_integers_and_booleans(run):
    rng = np.random.default_rng(3)
    image = jnp.asarray(rng.integers(0, 255, (6, 4, 2, 2)), jnp.uint8)
    flag = jnp.asarray(rng.integers(0, 2, (6, 4)), bool)
    batch = Observation(array(rng.normal(5.0, 2.0, size=(6, 4, 3))), {"image": image, "flag": flag})
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), batch)
    moments = run(running_stats.update_moments, init_moments(shapes), batch)
    result = run(running_stats.normalize, moments, batch)
    assert float(moments.count) == 24
    for leaf, mean, var, out in zip(*map(jax.tree.leaves, (batch, moments.mean, moments.var, result)), strict=True):
        expected_mean, expected_var = f64(leaf).mean(axis=(0, 1)), f64(leaf).var(axis=(0, 1))
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-5)
        np.testing.assert_allclose(var, expected_var, rtol=1e-4)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(
            out, (f64(leaf) - expected_mean) / np.sqrt(expected_var + 1e-8), rtol=1e-3, atol=1e-4
        )


def test_normalize_clips_and_is_the_identity_before_the_first_sample(run):
    moments = update_moments(init_moments((1,)), array([[0.0], [2.0]]))  # mean 1, variance 1
    x = array([[3.0], [1e3], [-1e3], [1.5]])
    np.testing.assert_allclose(run(running_stats.normalize, moments, x)[:, 0], [2.0, 10.0, -10.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(normalize(moments, x, clip=1.0)[:, 0], [1.0, 1.0, -1.0, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(run(running_stats.normalize, init_moments((1,)), x), x)
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


# Reward scaling ------------------------------------------------------------------------------------------------------


class SlowScaler:
    """Scale rewards for one environment and one step at a time, and keep every return."""

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


@pytest.mark.parametrize("end", [0.0, 0.1, 1.0])
def test_reward_scaler_matches_a_loop_over_several_blocks(run, end):
    rng = np.random.default_rng(4)
    slow, fast = SlowScaler(5), init_reward_scaler(5)
    for _ in range(3):
        rewards = np.float32(rng.normal(1.0, 3.0, size=(40, 5)))
        done = rng.uniform(size=(40, 5)) < end
        fast, scaled = run(running_stats.scale_rewards, fast, array(rewards), jnp.asarray(done), jnp.float32(0.97))
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


@pytest.mark.parametrize("unit", [1e-10, 1e-6, 1e-5, 1.0, 1e6])
def test_reward_scaler_does_not_depend_on_the_unit_of_reward(run, unit):
    """However small or large the unit, returns are scaled to a deviation of 1."""
    rewards = np.random.default_rng(6).normal(size=(400, 3))
    done = jnp.ones((400, 3), bool)
    _, scaled = run(running_stats.scale_rewards, init_reward_scaler(3), array(unit * rewards), done, jnp.float32(0.9))
    np.testing.assert_allclose(np.std(scaled), 1.0, rtol=1e-4)
    np.testing.assert_allclose(scaled, rewards / rewards.std(), rtol=1e-4)


def test_the_first_reward_after_many_zeros_is_bounded(run):
    """A reward of 1 after 204,800 zeros is 453 standard deviations; `reward_clip` bounds it."""
    zeros, no = jnp.zeros((1600, 128)), jnp.zeros((1600, 128), bool)
    scaler, _ = scale_rewards(init_reward_scaler(128), zeros, no, 0.99)
    first = jnp.zeros((4, 128)).at[3, 5].set(1.0)
    for bound, expected in ((10.0, 10.0), (3.0, 3.0), (np.inf, np.sqrt(205_312.0))):
        _, scaled = run(running_stats.scale_rewards, scaler, first, no[:4], jnp.float32(0.99), jnp.float32(bound))
        np.testing.assert_allclose(scaled[3, 5], expected, rtol=1e-4)
        _, negative = run(running_stats.scale_rewards, scaler, -first, no[:4], jnp.float32(0.99), jnp.float32(bound))
        np.testing.assert_array_equal(negative, -scaled)


def test_nearly_constant_rewards_are_bounded():
    """Episodes of one step with reward 1 or 1.001 lie 2000 standard deviations from 0."""
    rewards = jnp.where(jnp.arange(64).reshape(8, 8) % 2 == 0, 1.0, 1.001)
    _, scaled = scale_rewards(init_reward_scaler(8), rewards, jnp.ones((8, 8), bool), 0.99, 10.0)
    np.testing.assert_array_equal(scaled, 10.0)


def test_rewards_whose_return_has_not_varied_are_not_scaled():
    for value in (0.0, 2.0, -1e-9):
        rewards = jnp.full((5, 3), value)
        _, scaled = scale_rewards(init_reward_scaler(3), rewards, jnp.ones((5, 3), bool), 0.99, 10.0)
        np.testing.assert_array_equal(scaled, rewards)
