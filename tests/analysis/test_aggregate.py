"""Interquartile means and bootstrap intervals compared with SciPy and with their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from purejaxppo.analysis.aggregate import bootstrap_interval, iqm


def array(values):
    return jnp.asarray(values, jnp.float32)


def f64(values):
    return np.asarray(values, np.float64)


@pytest.mark.parametrize("n", [4, 8, 16, 100])
def test_iqm_is_the_trimmed_mean_if_four_divides_n(n):
    x = np.random.default_rng(n).standard_cauchy(size=n)
    np.testing.assert_allclose(iqm(array(x)), stats.trim_mean(x, 0.25), rtol=1e-5)


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
def test_bootstrap_interval_has_nearly_its_nominal_coverage(statistic, truth, lowest):
    """400 intervals at 95 % from 40 values of a skewed distribution; the percentile bootstrap covers a little less."""
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
