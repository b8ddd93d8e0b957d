"""Advantages and targets against double sums in float64, over every pattern of endings."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from purejaxppo.functional import advantages as adv

GAMMA, LAM = 0.9, 0.8


def every_pattern(T=4):
    """All (neither, terminated, truncated, both)^T patterns side by side: flags [T, 4^T] and random numbers."""
    kinds = np.array(list(itertools.product(range(4), repeat=T))).T
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, *kinds.shape)).astype(np.float32)
    return rewards, values, next_values, kinds % 2 == 1, kinds >= 2


ROWS = every_pattern()
REWARDS, VALUES, NEXT_VALUES, TERMINATED, TRUNCATED = ROWS
NO_VALUES = (REWARDS, NEXT_VALUES, TERMINATED, TRUNCATED)
# Within an episode V(s'_t) and V(s_{t+1}) are one number; the identities between targets rest on that.
SAME_STATE = np.where((TERMINATED | TRUNCATED)[:-1], VALUES[1:], NEXT_VALUES[:-1])
CONSISTENT = (REWARDS, np.concatenate([VALUES[:1], SAME_STATE]), NEXT_VALUES, TERMINATED, TRUNCATED)


@pytest.fixture(params=["plain", "jit", "vmap"])
def run(request):
    """Calls a function as it is, jitted, or as the second lane of a vmap whose first sees other numbers."""

    def call(fn, *args):
        args = [jnp.asarray(x) for x in args]
        if request.param == "plain":
            return np.asarray(fn(*args))
        if request.param == "jit":
            return np.asarray(jax.jit(fn)(*args))
        return np.asarray(jax.vmap(fn)(*(jnp.stack([x[::-1] if x.ndim else x, x]) for x in args))[1])

    return call


def assert_close(actual, desired, tol=1e-5):
    np.testing.assert_allclose(actual, desired, rtol=tol, atol=tol)


def test_eq09_td_residual_masks_only_terminations_C1(run):
    expected = np.zeros_like(REWARDS, dtype=np.float64)
    for i in np.ndindex(*REWARDS.shape):
        bootstrap = 0.0 if TERMINATED[i] else GAMMA * NEXT_VALUES[i]
        expected[i] = REWARDS[i] + bootstrap - VALUES[i]
    actual = run(lambda *x: adv.td_residuals(*x, GAMMA), REWARDS, VALUES, NEXT_VALUES, TERMINATED)
    assert_close(actual, expected)
    # As the source has it, without the mask, it is another number wherever an episode terminated.
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


def test_C2_a_cut_trace_ignores_all_that_follows_it():
    """What stands after an ending changes nothing before it; without the ending it does."""
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
    """Two derivations of one thing: A + V by (10), and (1 - lam) sum lam^{n-1} R^(n)."""
    expected = oracle.per_environment(oracle.lambda_return, *NO_VALUES, gamma=GAMMA, lam=lam)
    assert_close(run(lambda *x: adv.td_lambda_targets(*x, GAMMA, lam), *CONSISTENT), expected)


H = SimpleNamespace(gamma=GAMMA, gae_lambda=LAM, value_lambda=0.5)


@pytest.mark.parametrize("name", sorted(adv.TARGETS))
def test_targets_by_name(run, name):
    """Advantages are GAE(gae_lambda) under each name; the targets are what the name says, from raw advantages (E7)."""
    advantage = oracle.per_environment(oracle.gae_double_sum, *ROWS, gamma=GAMMA, lam=LAM)
    expected = {
        "gae": advantage + VALUES,
        "monte_carlo": oracle.per_environment(oracle.monte_carlo, *NO_VALUES, gamma=GAMMA),
        "n_step": oracle.per_environment(oracle.n_step, *NO_VALUES, gamma=GAMMA, n=3),
        "td_lambda": oracle.per_environment(oracle.gae_double_sum, *ROWS, gamma=GAMMA, lam=0.5) + VALUES,
    }
    assert_close(run(lambda *x: adv.TARGETS[name](*x, H, 3)[0], *ROWS), advantage)
    assert_close(run(lambda *x: adv.TARGETS[name](*x, H, 3)[1], *ROWS), expected[name])


@pytest.mark.parametrize("name", sorted(adv.TARGETS))
def test_C5_nothing_flows_back_into_what_advantages_and_targets_were_made_of(name):
    def total(numbers):
        rewards, values, next_values, gamma = numbers
        h = SimpleNamespace(gamma=gamma, gae_lambda=gamma, value_lambda=gamma)
        advantage, target = adv.TARGETS[name](
            rewards, values, next_values, jnp.asarray(TERMINATED), jnp.asarray(TRUNCATED), h, 2
        )
        return jnp.sum(adv.normalize_advantages(advantage) ** 3 + advantage**2 + target**2)

    grads = jax.grad(total)((*map(jnp.asarray, ROWS[:3]), jnp.float32(0.9)))
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


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


def test_no_nan_leaks_out_of_a_value_behind_a_termination():
    poisoned = np.where(TERMINATED, np.nan, NEXT_VALUES)
    rows = (REWARDS, VALUES, poisoned, TERMINATED, TRUNCATED)
    for name, fn in adv.TARGETS.items():
        clean = fn(*map(jnp.asarray, ROWS), H, 3)
        for a, b in zip(fn(*map(jnp.asarray, rows), H, 3), clean, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_never_ending_reward_1_is_worth_the_geometric_series():
    """All-truncated rows of reward 1 with V = 1/(1-g) have zero advantage and target V under every name."""
    ones, no = jnp.ones((6, 2)), jnp.zeros((6, 2), bool)
    value = ones / (1 - GAMMA)
    for name, fn in adv.TARGETS.items():
        advantage, target = fn(ones, value, value, no, ~no, H, 3)
        assert_close(advantage, 0.0 * ones)
        np.testing.assert_allclose(target, value, rtol=1e-6, err_msg=name)
        # Taken for a termination, the same data say that the world is worth its truncated sum.
        assert np.all(np.asarray(fn(ones, value, value, ~no, no, H, 3)[1]) < 2.0)


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
def test_normalize_advantages_of_equal_numbers_are_zero(value):
    """Their mean rounds; what it leaves, divided by its own size, would be advantages of order 1."""
    assert np.abs(adv.normalize_advantages(jnp.full(1000, value))).max() < 1e-2
