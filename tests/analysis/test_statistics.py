"""Statistics of scores: values worked by hand, and SciPy."""

import numpy as np
import pytest
from scipy import integrate, stats

from purejaxppo.analysis import statistics as st


def test_interquartile_mean_by_hand():
    assert st.interquartile_mean([9, 1, 3, 2, 8, 4, 7, 100]) == pytest.approx((3 + 4 + 7 + 8) / 4)
    assert st.interquartile_mean([1, 2, 3, 4, 5]) == pytest.approx((0.75 * 2 + 3 + 0.75 * 4) / 2.5)
    assert st.interquartile_mean([1, 5, 9]) == pytest.approx((0.25 * 1 + 5 + 0.25 * 9) / 1.5)
    assert st.interquartile_mean([7.0]) == 7.0
    assert st.interquartile_mean([1, 2, 3, np.inf]) == 2.5
    assert np.isnan(st.interquartile_mean([1, 2, 3, np.nan]))


@pytest.mark.parametrize("n", [4, 8, 16, 40])
def test_interquartile_mean_is_the_trimmed_mean_of_scipy_if_4_divides_n(n):
    x = np.random.default_rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(st.interquartile_mean(x, axis=0), stats.trim_mean(x, 0.25, axis=0), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 9, 10, 11, 13])
def test_interquartile_mean_is_the_mean_of_the_quantile_function_between_the_quartiles(n):
    """2 ∫ F⁻¹(q) dq from 1/4 to 3/4, F the empirical distribution: the definition, for any n."""
    x = np.sort(np.random.default_rng(n).normal(size=n))
    inverse = lambda q: x[min(int(q * n), n - 1)]  # noqa: E731
    points = [q for q in np.arange(1, n) / n if 0.25 < q < 0.75] or None
    expected = 2 * integrate.quad(inverse, 0.25, 0.75, points=points)[0]
    assert st.interquartile_mean(x) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert st.interquartile_mean(np.repeat(x, 4)) == pytest.approx(st.interquartile_mean(x), rel=1e-12)


def test_interquartile_mean_over_an_axis_shuffled_shifted_and_scaled():
    x = np.random.default_rng(6).normal(size=(7, 4, 5))
    for axis in (0, 1, 2, -1):
        rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
        expected = [st.interquartile_mean(row) for row in rows]
        np.testing.assert_allclose(np.ravel(st.interquartile_mean(x, axis=axis)), expected, rtol=1e-12)
    whole = st.interquartile_mean(x)
    shuffled = np.random.default_rng(7).permutation(x.ravel())
    assert st.interquartile_mean(shuffled) == pytest.approx(whole, rel=1e-12)
    assert st.interquartile_mean(3.0 * x - 2.0) == pytest.approx(3.0 * whole - 2.0, rel=1e-12)


def test_failed_runs_count_as_the_worst():
    np.testing.assert_array_equal(st.failed_as_worst([3.0, np.nan, -2.0]), [3.0, -2.0, -2.0])
    np.testing.assert_array_equal(st.failed_as_worst([3.0, np.nan], among=[-9.0, np.nan, 4.0]), [3.0, -9.0])
    assert np.isnan(st.failed_as_worst([np.nan])).all()


def test_the_interval_of_one_task_is_that_of_scipy():
    x = np.random.default_rng(1).normal(size=24)
    ours = st.stratified_interval(x, num_resamples=20_000)
    theirs = stats.bootstrap(
        (x,), st.interquartile_mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == st.interquartile_mean(x)
    np.testing.assert_allclose(ours[1:], theirs, atol=0.02)


def test_tasks_are_resampled_by_themselves():
    """Tasks of constant scores have no spread within: the interval is a point however far they are apart."""
    scores = np.tile([0.0, 100.0], (12, 1))
    value, low, high = st.stratified_interval(scores, lambda x, axis: x.mean(axis))
    assert (value, low, high) == (50.0, 50.0, 50.0)


@pytest.mark.parametrize(("seeds", "low", "high"), [(5, 0.78, 0.93), (16, 0.91, 0.965)])
def test_coverage_of_the_interval_is_what_the_note_says(seeds, low, high):
    rng = np.random.default_rng(3)
    hits = 0
    for i in range(400):
        interval = st.stratified_interval(rng.normal(size=seeds), num_resamples=500, seed=i)
        hits += interval.low <= 0.0 <= interval.high
    assert low < hits / 400 < high


def test_a_curve_has_the_interval_of_each_of_its_points():
    curves = np.random.default_rng(4).normal(size=(16, 3)) + np.array([0.0, 5.0, 9.0])
    result = st.curve_interval(curves, num_resamples=20_000)
    for p in range(3):
        point = st.stratified_interval(curves[:, p], num_resamples=20_000)
        np.testing.assert_allclose([x[p] for x in result], point, atol=0.03)


def test_the_interval_of_the_mean_of_a_curve_is_that_of_the_normal_theory():
    curves = np.random.default_rng(9).normal(3.0, 2.0, size=(400, 2))
    for level, z in ((0.95, 1.96), (0.5, 0.6745)):
        found = st.curve_interval(curves, np.mean, level=level, num_resamples=8000)
        half = z * curves.std(0) / np.sqrt(400)
        np.testing.assert_allclose(found.value, curves.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.low, curves.mean(0) - half, atol=0.1 * half.max())
        np.testing.assert_allclose(found.high, curves.mean(0) + half, atol=0.1 * half.max())


def test_performance_profile_by_hand():
    scores = [0.0, 1.0, 1.0, 3.0]
    np.testing.assert_allclose(st.performance_profile(scores, [-1, 0, 0.5, 1, 2, 3]), [1, 0.75, 0.75, 0.25, 0.25, 0])
    ecdf = stats.ecdf(scores)
    np.testing.assert_allclose(st.performance_profile(scores, [0.5, 1, 2]), ecdf.sf.evaluate([0.5, 1, 2]))
    profile = st.profile_interval(scores, [0.5, 2])
    np.testing.assert_allclose(profile.value, [0.75, 0.25])
    assert (profile.low <= profile.value).all()
    assert (profile.high >= profile.value).all()


def test_probability_of_improvement_by_hand_and_by_mann_whitney():
    assert st.probability_of_improvement([2, 3], [1, 3]).value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert st.probability_of_improvement([5, 6, 7], [1, 2]) == (1.0, 1.0, 1.0)
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 9, 12), rng.integers(1, 9, 15)
    expected = stats.mannwhitneyu(x, y).statistic / (12 * 15)
    value, low, high = st.probability_of_improvement(x, y, num_resamples=20_000)
    assert value == pytest.approx(expected)
    ours = (
        stats.bootstrap(
            (x, y),
            lambda x, y: stats.mannwhitneyu(x, y).statistic / (12 * 15),
            n_resamples=400,
            method="percentile",
            vectorized=False,
            rng=rng,
        )
    ).confidence_interval
    np.testing.assert_allclose((low, high), ours, atol=0.06)
    assert st.probability_of_improvement(y, x).value == pytest.approx(1 - value)


def test_area_under_a_curve_is_its_mean_height():
    assert st.area_under_curve([10, 20, 30], [5.0, 5.0, 5.0]) == 5.0
    # 1 up to step 10, a slope to 3 at step 20: (10 + 20) / 20
    assert st.area_under_curve([10, 20], [1.0, 3.0]) == pytest.approx(1.5)
    curves = np.random.default_rng(6).normal(size=(4, 9))
    steps = np.arange(1, 10) * 7.0
    padded = np.concatenate([curves[:, :1], curves], axis=1)
    np.testing.assert_allclose(
        st.area_under_curve(steps, curves), np.trapezoid(padded, np.append(0, steps), axis=1) / steps[-1]
    )


def test_spread_by_hand():
    assert st.spread(np.arange(101.0)) == (0, 10, 50, 90, 100)


def test_optimism_is_the_luck_of_the_selection():
    """Of 64 equal settings with 4 scores N(0, 1) each, the best looks better than it is by E[max of their IQM]."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(300):
        scores = rng.normal(size=(64, 4))
        best = np.argmax(st.interquartile_mean(scores, axis=1))
        found.append(st.optimism(scores[best], rng.normal(size=16)))
    spread_of_iqm = st.interquartile_mean(rng.normal(size=(20_000, 4)), axis=1).std()
    expected = np.sort(rng.normal(size=(5_000, 64)), axis=1)[:, -1].mean() * spread_of_iqm
    assert np.mean(found) == pytest.approx(expected, rel=0.1)


def test_few_seeds_are_noted():
    assert st.too_few([16, 9])
    assert not st.too_few([10, 16])
