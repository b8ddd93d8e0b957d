"""KL-driven controls and the early stop compared with tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.functional import kl_control

INF = jnp.inf


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


# Controls ----------------------------------------------------------------------------------------------------

# KL over target, factor on β. At exactly 1.5 and 1/1.5 it is 1.
BETA_TABLE = [(0.0, 0.5), (0.1, 0.5), (0.66, 0.5), (0.67, 1), (1.0, 1), (1.49, 1), (1.51, 2), (9.0, 2), (np.inf, 2)]
# KL over target, factor on the learning rate or the clip range.
SCALE_TABLE = [(0.0, 1.5), (0.49, 1.5), (0.51, 1), (1.0, 1), (1.99, 1), (2.01, 1 / 1.5), (9.0, 1 / 1.5)]


@pytest.mark.parametrize("beta", [0.03, 1.0, 40.0])
@pytest.mark.parametrize(("kl", "factor"), BETA_TABLE)
def test_C7_eq08_adaptive_beta_doubles_halves_or_stays(kl, factor, beta):
    target = 0.016
    out = kl_control.adaptive_beta(jnp.float32(beta), jnp.float32(kl * target), target)
    np.testing.assert_array_equal(bits(out), bits(np.float32(beta) * factor))


def test_C7_beta_moves_against_the_kl():
    """With KL = 0.1/β the control settles where KL is the target; with the inverse factor it would diverge."""
    beta = jnp.float32(100.0)
    for _ in range(30):
        beta = kl_control.adaptive_beta(beta, 0.1 / beta, 0.01)
    assert 10 / 1.5 <= float(beta) <= 10 * 1.5


@pytest.mark.parametrize(("kl", "factor"), SCALE_TABLE)
def test_adaptive_scale_shrinks_when_the_kl_is_high_and_grows_when_it_is_low(kl, factor):
    out = kl_control.adaptive_scale(jnp.float32(0.7), jnp.float32(kl * 0.01), 0.01, 0.01, 10.0)
    np.testing.assert_allclose(out, 0.7 * factor, rtol=1e-6)
    if factor == 1:
        np.testing.assert_array_equal(bits(out), bits(0.7))


def test_adaptive_scale_stays_in_its_range():
    high, low = jnp.float32(1.9), jnp.float32(0.11)
    np.testing.assert_allclose(kl_control.adaptive_scale(high, 0.0, 0.01, 0.1, 2.0), 2.0)
    np.testing.assert_allclose(kl_control.adaptive_scale(low, 1.0, 0.01, 0.1, 2.0), 0.1)


def test_adaptive_beta_never_reaches_zero_or_infinity():
    down = up = jnp.float32(1.0)
    for _ in range(200):
        down, up = kl_control.adaptive_beta(down, 0.0, 0.01), kl_control.adaptive_beta(up, 1.0, 0.01)
    assert (float(down), float(up)) == pytest.approx(kl_control.BETA_RANGE)


# Early stop --------------------------------------------------------------------------------------------------


def test_should_stop_is_strict_and_permanent(run):
    def history(kls, kappa):
        stop = lambda stopped, kl: (kl_control.should_stop(stopped, kl, kappa),) * 2  # noqa: E731
        return jax.lax.scan(stop, jnp.zeros((), bool), kls)[1]

    kls = jnp.asarray([0.0, 0.02, 0.021, 0.0, 0.5])
    np.testing.assert_array_equal(run(history, kls, jnp.float32(0.02)), [False, False, True, True, True])
    np.testing.assert_array_equal(run(history, kls.at[1].set(jnp.inf), jnp.float32(jnp.inf)), [False] * 5)
