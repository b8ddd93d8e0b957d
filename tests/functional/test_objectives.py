"""Surrogates, losses and KL estimators compared with their definitions by cases, in float64, sample by sample."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from purejaxppo.functional import objectives as obj

EPS = 0.2
# Every ratio is combined with every advantage; 0.8 and 1.2 are the bounds 1 - ε and 1 + ε in float32.
RATIOS = np.array([0.0, 0.3, 0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 3.0, 20.0], np.float32)
ADVANTAGES = np.array([-5.0, -1.0, -0.01, 0.0, 0.01, 1.0, 5.0], np.float32)
R, A = (x.ravel() for x in np.meshgrid(RATIOS, ADVANTAGES))


def piecewise(ratios, advantages, low, high, dual=np.inf):
    pairs = zip(ratios.astype(np.float64), advantages.astype(np.float64), strict=True)
    return np.array([oracle.clipped_piecewise(r, a, low, high, dual) for r, a in pairs])


def assert_close(actual, desired, tol=1e-6):
    np.testing.assert_allclose(actual, desired, rtol=tol, atol=tol)


# (4) ---------------------------------------------------------------------------------------------------------


def test_eq04_ratio_is_the_quotient_of_probabilities(run):
    p, q = np.random.default_rng(0).uniform(0.05, 1.0, size=(2, 50))
    assert_close(run(obj.importance_ratio, np.log(p).astype(np.float32), np.log(q).astype(np.float32)), p / q, 1e-5)


def test_eq04_ratio_of_equal_log_probabilities_is_exactly_1():
    x = jnp.linspace(-50.0, 3.0, 101)
    np.testing.assert_array_equal(obj.importance_ratio(x, x), 1.0)


def test_eq04_log_ratio_is_clamped_to_20_and_has_no_gradient_beyond():
    apart = jnp.asarray([-1e4, -20.5, 20.5, 1e4])
    zero = jnp.zeros(4)
    np.testing.assert_allclose(obj.importance_ratio(apart, zero), np.exp([-20.0, -20.0, 20.0, 20.0]), rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(obj.importance_ratio(x, zero)))(apart)
    np.testing.assert_array_equal(gradient, 0.0)


def test_eq04_gradient_is_the_ratio_and_the_old_policy_is_a_constant_C5():
    log_prob, old = jnp.asarray([-1.0, -2.0]), jnp.asarray([-1.5, -1.5])
    total = lambda new, old: jnp.sum(obj.importance_ratio(new, old))  # noqa: E731
    assert_close(jax.grad(total)(log_prob, old), np.exp([0.5, -0.5]))
    np.testing.assert_array_equal(jax.grad(total, argnums=1)(log_prob, old), 0.0)


# (5), (7) ----------------------------------------------------------------------------------------------------


def test_eq05_cpi_is_ratio_times_advantage(run):
    assert_close(run(obj.cpi_surrogate, R, A), R.astype(np.float64) * A)


def test_eq07_clipped_surrogate_matches_the_piecewise_form(run):
    actual = run(lambda r, a: obj.clipped_surrogate(r, a, EPS), R, A)
    assert_close(actual, piecewise(R, A, 1 - EPS, 1 + EPS))


@pytest.mark.parametrize("seed", range(3))
def test_eq07_clipped_surrogate_matches_min_of_r_and_clip_r_on_random_numbers(run, seed):
    rng = np.random.default_rng(seed)
    r, a = np.exp(rng.normal(size=500)).astype(np.float32), rng.normal(size=500).astype(np.float32)
    eps = np.float32(rng.uniform(0.01, 0.9))
    expected = np.minimum(r.astype(np.float64) * a, np.clip(r.astype(np.float64), 1 - eps, 1 + eps) * a)
    assert_close(run(obj.clipped_surrogate, r, a, eps), expected)


def test_eq07_gradient_table(run):
    """Sign of A by position of r: six cells, and the row A = 0."""
    table = {
        (1.0, 0.5): 1.0,  # below, A > 0: gradient
        (1.0, 1.0): 1.0,
        (1.0, 1.5): 0.0,  # above, A > 0: none
        (-1.0, 0.5): 0.0,  # below, A < 0: none
        (-1.0, 1.0): -1.0,
        (-1.0, 1.5): -1.0,  # above, A < 0: gradient
        (0.0, 0.5): 0.0,
        (0.0, 1.0): 0.0,
        (0.0, 1.5): 0.0,
    }
    a, r = (np.array(x, np.float32) for x in zip(*table, strict=True))
    gradient = run(jax.grad(lambda r, a: jnp.sum(obj.clipped_surrogate(r, a, EPS))), r, a)
    np.testing.assert_array_equal(gradient, list(table.values()))


def test_eq07_gradient_matches_the_piecewise_form_off_the_kinks():
    off = ~np.isin(R, np.array([0.8, 1.2], np.float32))
    expected = [oracle.clipped_gradient(r, a, 1 - EPS, 1 + EPS) for r, a in zip(R[off], A[off], strict=True)]
    gradient = jax.grad(lambda r: jnp.sum(obj.clipped_surrogate(r, jnp.asarray(A[off]), EPS)))(jnp.asarray(R[off]))
    assert_close(gradient, expected)


def test_eq07_equals_cpi_inside_the_interval_and_on_its_bounds_gradient_too():
    low, high = 1.0 - jnp.float32(EPS), 1.0 + jnp.float32(EPS)
    r = jnp.stack([low, jnp.float32(1.0), high])
    for a in (-2.0, 3.0):
        value, gradient = jax.vmap(jax.value_and_grad(lambda r, a=a: obj.clipped_surrogate(r, jnp.float32(a), EPS)))(r)
        np.testing.assert_array_equal(value, r * a)
        np.testing.assert_array_equal(gradient, a)


def test_eq07_lower_bound_of_cpi_pointwise():
    clipped = obj.clipped_surrogate(jnp.asarray(R), jnp.asarray(A), EPS)
    assert np.all(clipped <= obj.cpi_surrogate(jnp.asarray(R), jnp.asarray(A)))
    assert np.any(clipped < obj.cpi_surrogate(jnp.asarray(R), jnp.asarray(A)))


def test_eq07_asymmetric_range(run):
    actual = run(lambda r, a: obj.clipped_surrogate(r, a, 0.2, 0.5), R, A)
    assert_close(actual, piecewise(R, A, 0.8, 1.5))
    # Each bound concerns one sign of A: a wider upper bound changes nothing for A < 0.
    symmetric = obj.clipped_surrogate(jnp.asarray(R), jnp.asarray(A), 0.2)
    np.testing.assert_array_equal(actual[A < 0], symmetric[A < 0])
    assert np.any(actual[A > 0] != symmetric[A > 0])


def test_eq07_dual_clip(run):
    actual = run(lambda r, a: obj.clipped_surrogate(r, a, 0.2, None, 2.5), R, A)
    assert_close(actual, piecewise(R, A, 0.8, 1.2, 2.5))
    # The usual form: max(min(r A, clip(r) A), c A) for A < 0.
    usual = np.minimum(R * A, np.clip(R, 0.8, 1.2) * A)
    assert_close(actual, np.where(A < 0, np.maximum(usual, 2.5 * A), usual))
    gradient = jax.grad(lambda r: obj.clipped_surrogate(r, jnp.float32(-1.0), 0.2, None, 2.5))
    assert (float(gradient(2.0)), float(gradient(3.0))) == (-1.0, 0.0)


@pytest.mark.parametrize("name", ["cpi", "clip", "clip_dual", "kl"])
def test_infinite_ratio_with_advantage_0_gives_0_in_value_and_gradient(name):
    zero = jnp.zeros(3)
    surrogate = {
        "cpi": obj.cpi_surrogate,
        "clip": lambda r, a: obj.clipped_surrogate(r, a, EPS),
        "clip_dual": lambda r, a: obj.clipped_surrogate(r, a, EPS, None, 3.0),
        "kl": lambda r, a: obj.kl_penalized_surrogate(r, a, jnp.zeros(3), 1.0),
    }[name]
    ratio = jnp.asarray([jnp.inf, 1.0, 0.0])
    value, gradient = jax.value_and_grad(lambda r: jnp.sum(surrogate(r, zero)))(ratio)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)
    assert np.isnan((ratio * zero)[0])  # the plain product gives NaN


def test_eq07_infinite_ratio_is_bounded_for_positive_advantages_and_a_nan_stays_a_nan():
    inf, nan = jnp.float32(jnp.inf), jnp.float32(jnp.nan)
    one = jnp.float32(1.0)
    assert float(obj.clipped_surrogate(inf, one, EPS)) == pytest.approx(1.2)
    assert float(obj.clipped_surrogate(inf, -one, EPS)) == -np.inf
    assert float(obj.clipped_surrogate(inf, -one, EPS, None, 3.0)) == -3.0
    for a in (one, -one):
        assert np.isnan(obj.clipped_surrogate(nan, a, EPS))


# The clip fraction of (7) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "dual"), [(None, np.inf), (0.5, np.inf), (1.0, 2.5), (0.05, 1.3)])
def test_eq07_is_clipped_if_the_surrogate_has_no_gradient(run, high, dual):
    """The zeros of the derivative of (7) by the ratio at A ≠ 0, at the bounds too."""
    surrogate = lambda r: jnp.sum(obj.clipped_surrogate(r, jnp.asarray(A), EPS, high, dual))  # noqa: E731
    gradient = np.asarray(jax.grad(surrogate)(jnp.asarray(R)))
    found = run(lambda r, a: obj.is_clipped(r, a, EPS, high, dual), R, A)
    np.testing.assert_array_equal(found, (gradient == 0.0) & (A != 0.0))
    assert 0.1 < np.mean(found) < 0.7


def test_eq07_is_clipped_uses_the_given_range():
    """A ratio of 1.5 is below the wide upper bound 2; a ratio of 5 with A < 0 passes (7), but not the dual clip."""
    one = jnp.float32(1.0)
    assert bool(obj.is_clipped(jnp.float32(1.5), one, 0.2))
    assert not bool(obj.is_clipped(jnp.float32(1.5), one, 0.2, 5 * 0.2))
    assert not bool(obj.is_clipped(jnp.float32(5.0), -one, 0.2))
    assert bool(obj.is_clipped(jnp.float32(5.0), -one, 0.2, None, 3.0))
    assert not bool(obj.is_clipped(jnp.float32(5.0), 0 * one, 0.2, None, 3.0))


# (8) ---------------------------------------------------------------------------------------------------------


def test_eq08_kl_penalty_is_subtracted_beta_times(run):
    kl = np.linspace(0.0, 2.0, len(R)).astype(np.float32)
    expected = R.astype(np.float64) * A - 0.7 * kl
    assert_close(run(obj.kl_penalized_surrogate, R, A, kl, np.float32(0.7)), expected)
    np.testing.assert_array_equal(
        obj.kl_penalized_surrogate(jnp.asarray(R), jnp.asarray(A), jnp.asarray(kl), 0.0),
        obj.cpi_surrogate(jnp.asarray(R), jnp.asarray(A)),
    )


def test_eq08_gradient_reaches_the_policy_through_ratio_and_kl():
    grads = jax.grad(lambda r, kl: obj.kl_penalized_surrogate(r, jnp.float32(2.0), kl, 0.7), argnums=(0, 1))
    assert_close(grads(jnp.float32(1.3), jnp.float32(0.1)), (2.0, -0.7))


# (11) --------------------------------------------------------------------------------------------------------

V, TARGET, OLD = (
    np.array(x, np.float32)
    for x in zip(*itertools.product([-2.0, 0.0, 0.05, 0.3, 2.0], [-1.0, 0.0, 1.0], [-0.1, 0.0, 0.4]), strict=True)
)


def test_eq11_value_loss_is_the_square_without_a_half_C6(run):
    assert_close(run(obj.value_loss, V, TARGET, OLD), (V.astype(np.float64) - TARGET) ** 2)
    assert float(obj.value_loss(jnp.float32(3.0), jnp.float32(1.0), jnp.float32(0.0))) == 4.0


@pytest.mark.parametrize("c", [0.1, 0.25, 1.0])
def test_eq11_clipped_value_loss_matches_the_cases(run, c):
    expected = [oracle.clipped_value_error(*x, c) for x in zip(V, TARGET, OLD, strict=True)]
    assert_close(run(lambda v, r, o: obj.value_loss(v, r, o, c), V, TARGET, OLD), expected, 1e-5)


def test_eq11_clip_is_centered_at_the_old_value_and_takes_the_larger_error():
    def loss(value):
        return obj.value_loss(value, jnp.float32(10.0), jnp.float32(1.0), 0.5)

    # V moves toward the target by more than .5: the clipped error (10 - 1.5)^2 counts and gives no gradient.
    value, gradient = jax.value_and_grad(loss)(jnp.float32(4.0))
    assert (float(value), float(gradient)) == (72.25, 0.0)
    # V moves away from it by more than .5: the unclipped error is larger and gives the gradient.
    value, gradient = jax.value_and_grad(loss)(jnp.float32(-1.0))
    assert (float(value), float(gradient)) == (121.0, -22.0)


def test_eq11_infinite_range_is_bitwise_no_clipping():
    rng = np.random.default_rng(1)
    v, target, old = jnp.asarray(rng.normal(size=(3, 300)) * 10, jnp.float32)
    plain = jax.value_and_grad(lambda v: jnp.sum(jnp.square(v - target)))(v)
    off = jax.value_and_grad(lambda v: jnp.sum(obj.value_loss(v, target, old, jnp.float32(jnp.inf))))(v)
    np.testing.assert_array_equal(plain[0], off[0])
    np.testing.assert_array_equal(plain[1], off[1])


# (12), (13) --------------------------------------------------------------------------------------------------


def test_eq12_entropy_bonus_is_the_mean(run):
    h = np.random.default_rng(0).uniform(0, 2, 40).astype(np.float32)
    assert_close(run(obj.entropy_bonus, h), h.astype(np.float64).mean())


def test_eq13_total_loss_signs_and_coefficients_C6(run):
    rng = np.random.default_rng(0)
    surrogate, error, entropy = rng.normal(size=(3, 30)).astype(np.float32)
    expected = -surrogate.mean(dtype=float) + 0.5 * error.mean(dtype=float) - 0.01 * entropy.mean(dtype=float)
    assert_close(run(lambda *x: obj.total_loss(*x, 0.5, 0.01), surrogate, error, entropy), expected)


def test_eq13_gradient_step_raises_the_surrogate_and_the_entropy_and_lowers_the_error():
    x = (jnp.ones(4), jnp.ones(4), jnp.ones(4))
    grads = jax.grad(lambda x: obj.total_loss(*x, 0.5, 0.01))(x)
    for gradient, expected in zip(grads, (-0.25, 0.125, -0.0025), strict=True):
        assert_close(gradient, np.full(4, expected))


def test_C5_advantages_targets_and_old_values_are_constants():
    def everything(data):
        advantage, target, old_value = data
        ratio, value = jnp.asarray([0.7, 1.1, 1.6]), jnp.asarray([0.1, 0.9, -2.0])
        kl = jnp.zeros(3)
        surrogates = [
            obj.cpi_surrogate(ratio, advantage),
            obj.clipped_surrogate(ratio, advantage, EPS, 0.3, 3.0),
            obj.kl_penalized_surrogate(ratio, advantage, kl, 1.0),
        ]
        errors = [obj.value_loss(value, target, old_value), obj.value_loss(value, target, old_value, 0.2)]
        return sum(map(jnp.sum, surrogates + errors))

    data = jnp.asarray([[-1.0, 0.5, 2.0], [1.0, 0.0, 3.0], [0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(jax.grad(everything)(data), 0.0)


# KL estimators -----------------------------------------------------------------------------------------------


def test_kl_estimators_per_sample(run):
    x = np.array([-3.0, -0.5, -1e-2, 0.0, 1e-2, 0.5, 3.0], np.float32)
    exact = x.astype(np.float64)
    assert_close(run(obj.kl_k1, x), -exact)
    assert_close(run(obj.kl_k2, x), exact**2 / 2)
    assert_close(run(obj.kl_k3, x), np.exp(exact) - 1 - exact)


def test_kl_k2_and_k3_are_never_negative_and_agree_to_second_order():
    x = jnp.linspace(-0.1, 0.1, 201)
    k2, k3 = obj.kl_k2(x), obj.kl_k3(x)
    assert np.all(k2 >= 0)
    assert np.all(k3 >= -1e-9)
    assert np.all(np.abs(k3 - k2) <= np.abs(x) ** 3 / 5 + 1e-8)
