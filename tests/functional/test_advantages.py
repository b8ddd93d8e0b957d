"""Advantages and targets compared with double sums in float64, over every pattern of episode ends."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from endings import (
    CONSISTENT,
    GAMMA,
    LAM,
    NEXT_VALUES,
    NO_VALUES,
    REWARDS,
    ROWS,
    TERMINATED,
    TRUNCATED,
    VALUES,
)

from purejaxppo.functional import advantages as adv


def assert_close(actual, desired, tol=1e-5):
    np.testing.assert_allclose(actual, desired, rtol=tol, atol=tol)


def test_eq09_td_residual_masks_only_terminations_C1(run):
    expected = np.zeros_like(REWARDS, dtype=np.float64)
    for i in np.ndindex(*REWARDS.shape):
        bootstrap = 0.0 if TERMINATED[i] else GAMMA * NEXT_VALUES[i]
        expected[i] = REWARDS[i] + bootstrap - VALUES[i]
    actual = run(lambda *x: adv.td_residuals(*x, GAMMA), REWARDS, VALUES, NEXT_VALUES, TERMINATED)
    assert_close(actual, expected)
    # Without the mask, as in the source, the residual differs at every termination.
    source = REWARDS + GAMMA * NEXT_VALUES - VALUES
    assert np.all((np.abs(source - expected) > 1e-6) == TERMINATED)


def test_eq10_gae_matches_double_sum_C2(run):
    expected = oracle.per_environment(oracle.gae_double_sum, *ROWS, gamma=GAMMA, lam=LAM)
    assert_close(run(lambda *x: adv.gae(*x, GAMMA, LAM), *ROWS), expected)


def test_eq10_gae_takes_traced_gamma_and_lambda(run):
    expected = oracle.per_environment(oracle.gae_double_sum, *ROWS, gamma=0.7, lam=0.3)
    assert_close(run(adv.gae, *ROWS, np.float32(0.7), np.float32(0.3)), expected)


def test_eq10_gae_without_environment_axis():
    one = [x[:, 37] for x in ROWS]
    assert_close(adv.gae(*map(jnp.asarray, one), GAMMA, LAM), oracle.gae_double_sum(*one, GAMMA, LAM))


def test_C2_the_end_of_an_episode_stops_the_trace():
    """Changes after the end of an episode have no effect before it; without the end they have one."""
    rows = [np.array(x[:, :2]) for x in ROWS]
    rows[3][:], rows[4][:] = False, False
    rows[3][1, 0], rows[4][1, 1] = True, True
    before = adv.gae(*map(jnp.asarray, rows), GAMMA, LAM)
    for x in rows[:3]:
        x[2:] += 100.0
    after = adv.gae(*map(jnp.asarray, rows), GAMMA, LAM)
    np.testing.assert_array_equal(before[:2], after[:2])
    rows[3][:], rows[4][:] = False, False
    assert np.all(np.abs(adv.gae(*map(jnp.asarray, rows), GAMMA, LAM)[:2] - before[:2]) > 1.0)


def test_lambda_0_is_the_td_residual_bitwise():
    rows = [jnp.asarray(x) for x in ROWS]
    one_step = adv.td_residuals(*rows[:4], GAMMA)
    np.testing.assert_array_equal(adv.gae(*rows, GAMMA, 0.0), one_step)


def test_C3_lambda_1_is_monte_carlo_up_to_a_termination_and_bootstrapped_at_a_cut():
    advantage = np.asarray(adv.gae(*map(jnp.asarray, CONSISTENT), GAMMA, 1.0))
    values = CONSISTENT[1]
    assert_close(advantage, oracle.per_environment(oracle.monte_carlo, *NO_VALUES, gamma=GAMMA) - values)
    # The source's G_t - V(s_t), rewards alone, holds exactly for the steps whose episode terminates.
    no_bootstrap = (REWARDS, np.zeros_like(NEXT_VALUES), TERMINATED, TRUNCATED)
    rewards_alone = oracle.per_environment(oracle.monte_carlo, *no_bootstrap, gamma=GAMMA) - values
    columns = list(zip(TERMINATED.T, TRUNCATED.T, strict=True))
    ends = np.array([[oracle.segment_end(t, *flags) for flags in columns] for t in range(4)])
    terminates = np.take_along_axis(TERMINATED, ends, axis=0)
    assert 0 < terminates.mean() < 1
    np.testing.assert_array_equal(np.abs(rewards_alone - advantage) < 1e-5, terminates)


def test_targets_monte_carlo_match_the_loop(run):
    expected = oracle.per_environment(oracle.monte_carlo, *NO_VALUES, gamma=GAMMA)
    assert_close(run(lambda *x: adv.monte_carlo_targets(*x, GAMMA), *NO_VALUES), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_targets_n_step_match_the_loop(run, n):
    expected = oracle.per_environment(oracle.n_step, *NO_VALUES, gamma=GAMMA, n=n)
    assert_close(run(lambda *x: adv.n_step_targets(*x, GAMMA, n), *NO_VALUES), expected)


def test_targets_n_step_at_their_limits():
    """One step is the TD target, n >= T is Monte Carlo, n < 1 is an error."""
    rows = [jnp.asarray(x) for x in NO_VALUES]
    one = adv.td_residuals(rows[0], jnp.zeros_like(rows[0]), *rows[1:3], GAMMA)
    np.testing.assert_array_equal(adv.n_step_targets(*rows, GAMMA, 1), one)
    assert_close(adv.n_step_targets(*rows, GAMMA, 4), adv.monte_carlo_targets(*rows, GAMMA), 1e-6)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        adv.n_step_targets(*rows, GAMMA, 0)


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_targets_td_lambda_match_the_mixture_of_n_step_returns(run, lam):
    """Two derivations of the same targets: A + V by (10), and (1 - lam) sum lam^{n-1} R^(n)."""
    expected = oracle.per_environment(oracle.lambda_return, *NO_VALUES, gamma=GAMMA, lam=lam)
    assert_close(run(lambda *x: adv.td_lambda_targets(*x, GAMMA, lam), *CONSISTENT), expected)


def test_C5_each_function_alone_is_a_constant():
    rows = [jnp.asarray(x) for x in ROWS]
    flags = rows[3:]
    alone = (
        lambda r: adv.td_residuals(r, *rows[1:4], GAMMA),
        lambda r: adv.gae(r, *rows[1:], GAMMA, LAM),
        lambda r: adv.monte_carlo_targets(r, rows[2], *flags, GAMMA),
        lambda r: adv.n_step_targets(r, rows[2], *flags, GAMMA, 2),
        lambda r: adv.td_lambda_targets(r, *rows[1:], GAMMA, LAM),
        adv.normalize_advantages,
    )
    for fn in alone:
        assert not np.any(jax.grad(lambda r, fn=fn: jnp.sum(fn(r) ** 2))(rows[0]))


# Normalization -------------------------------------------------------------------------------------------------------


def test_normalize_advantages_matches_float64(run):
    x = 3.0 + 5.0 * REWARDS
    expected = (x - x.mean(dtype=np.float64)) / (x.std(dtype=np.float64) + 1e-8)
    assert_close(run(adv.normalize_advantages, x), expected)


def test_normalize_advantages_is_population_std_and_affine_invariant():
    x = jnp.asarray([[1.0, 2.0], [3.0, 6.0]])
    y = np.asarray(adv.normalize_advantages(x))
    assert abs(y.mean()) < 1e-7
    assert abs(y.std() - 1.0) < 1e-6  # with the sample deviation it would be .87
    assert_close(adv.normalize_advantages(7.0 * x - 3.0), y, 1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 100.7])
def test_normalized_advantages_of_equal_values_are_zero(value):
    """The rounding error of their mean, divided by its own size, would give advantages of order 1."""
    assert np.abs(adv.normalize_advantages(jnp.full(1000, value))).max() < 1e-2


def masked_float64(x, mask):
    kept = x[mask].astype(np.float64)
    return np.where(mask, (x - kept.mean()) / (kept.std() + 1e-8), 0.0)


def test_normalized_advantages_exclude_masked_samples(run):
    x, mask = 3.0 + 5.0 * REWARDS, ~TRUNCATED
    normalized = run(adv.normalize_advantages, x, mask)
    assert_close(normalized, masked_float64(x, mask))
    assert np.all(np.asarray(normalized)[~mask] == 0.0)
    # A masked sample does not affect the others, even if it is NaN.
    np.testing.assert_array_equal(run(adv.normalize_advantages, np.where(mask, x, np.nan), mask), normalized)


def test_normalize_advantages_of_masks_that_keep_all_one_or_none():
    x = jnp.asarray(REWARDS)
    assert_close(adv.normalize_advantages(x, jnp.ones_like(x, bool)), adv.normalize_advantages(x), 1e-6)
    one = jnp.zeros_like(x, bool).at[1, 2].set(True)
    for mask in (one, ~one & one):
        np.testing.assert_array_equal(adv.normalize_advantages(x, mask), 0.0)


def test_C5_masked_normalization_has_no_gradient():
    mask = jnp.asarray(~TRUNCATED)
    assert not np.any(jax.grad(lambda x: jnp.sum(adv.normalize_advantages(x, mask) ** 2))(jnp.asarray(REWARDS)))


# V(s'_t) of the rollout ----------------------------------------------------------------------------------------------


def test_eq09_next_state_values_are_shifted_values_except_at_truncations(run):
    """Against a loop, with 0 to 4 truncations per environment; the final value of (t, n) is 100 t + n."""
    last = np.linspace(5.0, 6.0, TRUNCATED.shape[1], dtype=np.float32)[None]
    columns = jnp.arange(TRUNCATED.shape[1], dtype=jnp.float32)
    final_value = lambda t: 100.0 * t.astype(jnp.float32) + columns  # noqa: E731
    expected = np.concatenate([VALUES[1:], last])
    for t, n in np.argwhere(TRUNCATED):
        expected[t, n] = 100.0 * t + n
    found = run(lambda v, x, c: adv.next_state_values(v, x, c, final_value), VALUES, last, TRUNCATED)
    np.testing.assert_array_equal(found, expected)


def test_next_state_values_call_the_network_once_per_truncation():
    asked = []
    final_value = lambda t: jax.debug.callback(lambda: asked.append(1)) or jnp.zeros(t.shape)  # noqa: E731
    for worst in (0, 1, 3):
        truncated = jnp.zeros((6, 4), bool).at[:worst, 2].set(True).at[:1, 0].set(worst > 0)
        asked.clear()
        jax.block_until_ready(adv.next_state_values(jnp.zeros((6, 4)), jnp.zeros((1, 4)), truncated, final_value))
        jax.effects_barrier()
        assert len(asked) == worst
