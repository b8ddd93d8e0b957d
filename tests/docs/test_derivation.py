"""The derivation on exact small problems: each statement that holds, and each of the source's that does not.

Test names carry the number of the equation, of the erratum (E1-E7) or of the completion (C1-C9). What belongs to one
function only (C1, C2, C3, C5, C6, C7) is tested with that function, in tests/functional/.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from small_world import (
    GAMMA,
    GRAD_J,
    MDP,
    NEW_LOGITS,
    OLD_LOGITS,
    PI,
    RHO,
    THETA,
    VALUE_ERROR,
    A,
    J,
    Q,
    V,
    clip,
    cosine,
    cpi,
    exact_kl,
    expectation,
    gae_bias,
    policy_gradient,
    price,
    random_policies,
    rare_state,
    two_samples,
)

from purejaxppo.functional import advantages as adv
from purejaxppo.functional import objectives as obj
from purejaxppo.functional import trpo
from purejaxppo.functional.bindings import OBJECTIVES, TARGETS

DOC = (Path(__file__).parents[2] / "docs" / "derivation.md").read_text(encoding="utf-8")


def assert_close(actual, desired, tol=1e-7):
    np.testing.assert_allclose(actual, desired, rtol=tol, atol=tol)


def quoted(erratum, *figures):
    """The document quotes the figures under the heading of the erratum; test_equations.py checks the others."""
    block = " ".join(DOC.split(f"\n### {erratum} ")[1].split("\n#")[0].split())
    assert [x for x in figures if not re.search(rf"(?<![\d.]){re.escape(x)}(?!\d)", block)] == []


@pytest.fixture(scope="module")
def rollouts():
    """Return 1e5 rollouts, long enough that g^60 < 2e-6: states [61, n] and rewards [60, n]."""
    states, _, rewards = oracle.simulate(MDP, PI, 100_000, 60, np.random.default_rng(1))
    return states, rewards


# The objective and its gradient: (1), (2), (3), E2, E3 -------------------------------------------------------


def test_eq01_expected_return_is_the_mean_discounted_return_of_rollouts(rollouts):
    _, rewards = rollouts
    returns = (GAMMA ** np.arange(60)) @ rewards
    error = returns.std() / np.sqrt(returns.size)
    assert abs(returns.mean() - J(THETA)) < 4 * error
    assert error < 0.01 * returns.std()


def test_visitation_matches_100_000_rollouts(rollouts):
    states, _ = rollouts
    weights = (1 - GAMMA) * GAMMA ** np.arange(60)
    per_rollout = np.stack([weights @ (states[:60] == s) for s in range(len(RHO))])
    error = per_rollout.std(axis=1) / np.sqrt(states.shape[1])
    assert np.all(np.abs(per_rollout.mean(axis=1) - RHO) < 4 * error + 1e-5)
    assert_close(RHO.sum(), 1.0, 1e-12)
    # Neither the start distribution nor the undiscounted average would pass.
    undiscounted = np.stack([(states[:60] == s).mean() for s in range(len(RHO))])
    assert np.abs(MDP.rho0 - RHO).max() > 50 * error.max()
    assert np.abs(undiscounted - RHO).max() > 50 * error.max()


def test_eq02_policy_gradient_theorem():
    assert_close(policy_gradient(Q), GRAD_J)
    assert np.abs(GRAD_J).max() > 0.05
    # Neither the factor 1/(1 - g) nor the discounting of the states may be left out.
    assert np.abs((1 - GAMMA) * policy_gradient(Q) - GRAD_J).max() > 0.01
    assert np.abs(policy_gradient(Q, weight=MDP.rho0) - GRAD_J).max() > 0.01


def test_eq02_autodiff_of_the_exact_return_agrees():
    """JAX differentiates through the linear solve, in float32."""
    P, r, rho0 = (jnp.asarray(x, jnp.float32) for x in MDP[:3])

    def expected_return(theta):
        pi = jax.nn.softmax(theta)
        system = jnp.eye(len(rho0)) - GAMMA * jnp.einsum("sa,sax->sx", pi, P)
        return rho0 @ jnp.linalg.solve(system, jnp.sum(pi * r, axis=1))

    assert_close(jax.grad(expected_return)(jnp.asarray(THETA, jnp.float32)), policy_gradient(Q), 1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_eq03_any_baseline_of_the_state_leaves_the_gradient(seed):
    baseline = 10 * np.random.default_rng(seed).normal(size=(len(RHO), 1))
    assert_close(policy_gradient(Q - baseline), GRAD_J)


def test_eq03_advantage_form():
    assert_close(policy_gradient(A), GRAD_J)
    assert_close((PI * A).sum(axis=1), 0.0, 1e-12)


def test_eq03_a_baseline_of_the_action_is_wrong():
    """Negative control: with b(s, a) the term does not integrate to zero."""
    baseline = np.random.default_rng(0).normal(size=PI.shape)
    assert np.abs(policy_gradient(Q - baseline) - GRAD_J).max() > 0.05


def test_E2_return_is_the_visitation_average_of_rewards_without_the_next_value():
    assert_close(RHO @ oracle.reward_under(MDP, PI) / (1 - GAMMA), J(THETA), 1e-12)
    # The source adds g E[V(s')] to the reward and so counts the reward of step m not once but m + 1 times.
    source = RHO @ (PI * (MDP.r + GAMMA * MDP.P @ V)).sum(axis=1) / (1 - GAMMA)
    step, counted = MDP.rho0.copy(), 0.0
    for m in range(300):
        counted += (m + 1) * GAMMA**m * (step @ oracle.reward_under(MDP, PI))
        step = step @ oracle.transition_under(MDP, PI)
    assert_close(source, counted, 1e-10)
    assert abs(source - J(THETA)) > 0.5 * abs(J(THETA))


def test_E3_unrolled_gradient_of_v_and_no_cancellation_of_the_gradient_of_rho():
    """grad V = (I - g P)^-1 sum_a grad pi Q, averaged over rho0; the term with grad rho does not vanish."""
    grad_pi = PI[:, :, None, None] * oracle.score(PI)
    local = np.einsum("saxb,sa->sxb", grad_pi, Q)
    unrolled = np.linalg.solve(np.eye(len(RHO)) - GAMMA * oracle.transition_under(MDP, PI), local.reshape(len(RHO), -1))
    assert_close((MDP.rho0 @ unrolled).reshape(THETA.shape), GRAD_J)
    # J = (1 - g)^-1 rho . r_pi has two terms by the product rule, and the one of grad rho is not small.
    of_reward = oracle.score_expectation(RHO, PI, MDP.r) / (1 - GAMMA)
    of_rho = GRAD_J - of_reward
    assert np.abs(of_rho).max() > 0.2 * np.abs(GRAD_J).max()
    by_difference = oracle.central_difference(
        lambda t: oracle.visitation(MDP, oracle.softmax(t)) @ oracle.reward_under(MDP, PI) / (1 - GAMMA), THETA
    )
    assert_close(by_difference, of_rho)


# The surrogate: (5), E4, E5, C9 ------------------------------------------------------------------------------


def test_E4_gradient_of_cpi_is_one_minus_gamma_times_the_policy_gradient():
    gradient = oracle.central_difference(cpi, THETA)
    assert_close(gradient, (1 - GAMMA) * GRAD_J)
    assert np.abs(gradient - GRAD_J).max() > 0.05  # not equal, as the source has it


@pytest.mark.parametrize("name", ["cpi", "clip", "kl"])
def test_E4_eq05_eq07_eq08_at_the_old_policy_every_surrogate_has_that_gradient(name):
    """With the library: every (s, a) is a sample of weight rho pi, and the gradient is taken at w = 1."""
    weight, old, advantage = (jnp.asarray(x, jnp.float32) for x in (RHO[:, None] * PI, np.log(PI), A))
    h = SimpleNamespace(clip_eps=0.2, clip_asymmetry=1.0, dual_clip=jnp.inf, beta=1.0)

    def surrogate(theta):
        new = jax.nn.log_softmax(theta)
        kl = jnp.sum(jnp.exp(old) * (old - new), axis=1, keepdims=True)
        ratio = obj.importance_ratio(new, old)
        return jnp.sum(weight * OBJECTIVES[name](ratio, advantage, jnp.broadcast_to(kl, ratio.shape), h))

    assert_close(jax.grad(surrogate)(jnp.asarray(THETA, jnp.float32)), (1 - GAMMA) * GRAD_J, 1e-5)


def test_E4_undiscounted_samples_point_elsewhere():
    """With equal weights for all steps, as in a rollout, the gradient is not even parallel to that of J."""
    step, states = MDP.rho0, np.zeros_like(RHO)
    for _ in range(200):
        states, step = states + step / 200, step @ oracle.transition_under(MDP, PI)
    gradient = oracle.central_difference(lambda t: cpi(t, states), THETA)
    assert cosine(gradient, GRAD_J) < 0.985
    assert_close(cosine(oracle.central_difference(cpi, THETA), GRAD_J), 1.0, 1e-9)


def test_E5_performance_difference_lemma_is_exact_with_the_new_states():
    errors = []
    for old, new in random_policies():
        advantage = oracle.advantages(MDP, old)
        gain = oracle.expected_return(MDP, new) - oracle.expected_return(MDP, old)
        errors.append(abs(oracle.visitation(MDP, new) @ (new * advantage).sum(axis=1) / (1 - GAMMA) - gain))
    assert max(errors) < 1e-14  # 2.1e-15; the last digits are those of the machine's linear algebra
    quoted("E5", "about 2e-15")


def test_E5_cpi_has_a_bias_of_second_order_within_its_bound():
    """The states are those of the old policy: an error of at most 4 e g / (1 - g)^2 max TV^2, e = max |A|."""
    errors, bounds = [], []
    for old, new in random_policies():
        advantage = oracle.advantages(MDP, old)
        gain = oracle.expected_return(MDP, new) - oracle.expected_return(MDP, old)
        surrogate = oracle.visitation(MDP, old) @ (new * advantage).sum(axis=1) / (1 - GAMMA)
        errors.append(abs(gain - surrogate))
        distance = oracle.total_variation(old, new).max()
        bounds.append(4 * np.abs(advantage).max() * GAMMA / (1 - GAMMA) ** 2 * distance**2)
    assert np.all(np.array(errors) <= bounds)
    assert max(errors) > 0.3  # "unbiased" it is not


def test_E5_error_of_cpi_shrinks_with_the_square_of_the_step():
    direction = np.random.default_rng(2).normal(size=THETA.shape)
    errors = [abs(J(THETA + h * direction) - J(THETA) - cpi(THETA + h * direction) / (1 - GAMMA)) for h in (0.1, 0.01)]
    assert 50 < errors[0] / errors[1] < 200


def test_C9_improvement_bound_needs_the_maximum_kl():
    for old, new in random_policies():
        advantage = oracle.advantages(MDP, old)
        kl = (old * np.log(old / new)).sum(axis=1)
        surrogate = oracle.visitation(MDP, old) @ (new * advantage).sum(axis=1)
        gain = oracle.expected_return(MDP, new) - oracle.expected_return(MDP, old)
        assert trpo.improvement_bound(surrogate, kl.max(), np.abs(advantage).max(), GAMMA) <= gain


def test_C9_with_the_average_kl_of_eq06_the_bound_fails():
    """The old policy rarely visits a state; one change leads there, another makes it bad; the mean KL shows neither."""
    mdp, old, new = rare_state()
    advantage, rho = oracle.advantages(mdp, old), oracle.visitation(mdp, old)
    gain = oracle.expected_return(mdp, new) - oracle.expected_return(mdp, old)
    kl = (old * np.log(old / new)).sum(axis=1)
    surrogate, largest = rho @ (new * advantage).sum(axis=1), np.abs(advantage).max()
    assert trpo.improvement_bound(surrogate, kl.max(), largest, mdp.gamma) <= gain
    assert trpo.improvement_bound(surrogate, rho @ kl, largest, mdp.gamma) > gain


# The clipped surrogate: (7), E1, E6 --------------------------------------------------------------------------


def test_E1_the_minimum_is_not_the_clipped_term_below_the_interval():
    one, half = jnp.float32(1.0), jnp.float32(0.5)
    assert float(obj.clipped_surrogate(half, one, 0.2)) == 0.5
    assert np.clip(0.5, 0.8, 1.2) == 0.8  # the first line of the source gives this
    assert float(obj.clipped_surrogate(jnp.float32(1.5), -one, 0.2)) == -1.5
    # The conclusion, L^CLIP <= L^CPI pointwise, holds nevertheless.
    w = jnp.linspace(0.0, 3.0, 301)
    for sign in (-1.0, 1.0):
        a = jnp.full_like(w, sign)
        assert np.all(obj.clipped_surrogate(w, a, 0.2) <= obj.cpi_surrogate(w, a))


def price_gradient(theta):
    """Of the two samples' surrogate (8), in float64: mean_i f_i (p_i (1 - p_i) / p_i^old - beta (p_i - p_i^old))."""
    slope, old = np.array([10.0, 0.25]), np.array([0.05, 0.5])
    p = 1 / (1 + np.exp(-(np.log(old / (1 - old)) + slope * theta)))
    return float(np.mean(slope * (p * (1 - p) / old - 100.0 * (p - old)))), p / old


def resting_point():
    """Return the theta at which that gradient is 0, by bisection."""
    low, high = 0.0, 0.1
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if price_gradient(middle)[0] > 0 else (low, middle)
    return low


def test_E6_clipping_does_not_keep_a_ratio_near_1():
    """The sample inside the interval moves the shared parameter, and the other ratio grows to 20."""
    ratios = two_samples(clip)
    np.testing.assert_allclose(ratios[-1], [20.0, 1.13], atol=0.02)
    outside = ratios[:, 0] > 1.2
    assert outside.argmax() == 1  # from the first step on its own gradient is zero
    assert np.all(outside[1:])
    assert np.all(np.diff(ratios[:, 0]) >= 0)
    assert ratios[-1, 1] < 1.2


def test_E6_the_distance_beyond_the_clip_is_steps_times_learning_rate():
    """A small rate and few steps keep the ratio near 1, not the clip: at an equal product it is equally far away."""
    for steps, learning_rate in ((8250, 0.002), (1650, 0.01)):
        np.testing.assert_allclose(two_samples(clip, steps, learning_rate)[-1], [20.0, 1.13], atol=0.02)
    few = two_samples(clip, 400, 0.002)[-1, 0]
    assert 1.2 < few < 2.0
    quoted("E6", f"{few:.2f}")


def test_E6_a_kl_penalty_pulls_ratios_back_and_clipping_does_not():
    ratios = two_samples(price)
    assert np.all(ratios[-1] < 1.25)
    assert np.abs(ratios[10:] - ratios[-1]).max() < 1e-3  # it has converged after ten steps


def test_E6_the_penalty_converges_to_one_point_at_every_stable_learning_rate():
    rest = resting_point()
    for learning_rate in (0.001, 0.002, 0.005, 0.008):
        assert_close(two_samples(price, learning_rate=learning_rate)[-1], price_gradient(rest)[1], 1e-4)
    # At a rate above 2 / curvature a step overshoots the point and ends further away.
    curvature = (price_gradient(rest - 1e-6)[0] - price_gradient(rest + 1e-6)[0]) / 2e-6
    quoted("E6", f"{2 / curvature:.4f}")
    for learning_rate in (0.009, 0.035):
        assert np.ptp(two_samples(price, learning_rate=learning_rate)[-50:, 0]) > 0.5


# Advantages and targets: (10), E7, C4 ------------------------------------------------------------------------


def test_E7_targets_come_from_raw_advantages():
    """A deterministic chain, V = 0, lam = 1: the target must be the discounted return itself."""
    rewards = jnp.asarray([1.0, 2.0, 0.0, -1.0, 5.0])[:, None]
    zero, no = jnp.zeros((5, 1)), jnp.zeros((5, 1), bool)
    h = SimpleNamespace(gamma=0.9, gae_lambda=1.0, value_lambda=1.0)
    returns = [[sum(0.9**k * float(rewards[t + k, 0]) for k in range(5 - t))] for t in range(5)]
    for fn in TARGETS.values():
        advantage, targets = fn(rewards, zero, zero, no, no, h, 5)
        assert_close(targets, returns, 1e-6)
    # In the source's order, A normalized before R = A + V, the value function is fitted to something else.
    source = adv.normalize_advantages(advantage) + zero
    assert np.abs(source - np.array(returns)).max() > 1.0
    assert abs(float(source.mean())) < 1e-6  # centered: the level of the return is lost


def expected_gae(pi, values, lam, terms=400):
    """E[sum_l (g lam)^l delta_{t+l} | s, a] term by term, [S, A]."""
    transition = oracle.transition_under(MDP, pi)
    total = MDP.r + GAMMA * MDP.P @ values - values[:, None]
    later = oracle.reward_under(MDP, pi) + GAMMA * transition @ values - values
    reach = MDP.P.copy()  # the distribution over states after l more steps
    for l in range(1, terms):
        total = total + (GAMMA * lam) ** l * reach @ later
        reach = reach @ transition
    return total


def gae_variance(pi, values, lam):
    """Var[A_hat | s, a], [S, A], by the recursion of the first two moments.

    A_hat(s, a) = d(s, a, s') + g lam A_hat(s', a') with d = r(s, a) + g V(s') - V(s), so that
    M1 = E[d + g lam M1'] and M2 = E[d^2 + 2 g lam d M1' + (g lam)^2 M2'], the primes at (s', a').
    """
    trace, (num_states, num_actions) = GAMMA * lam, pi.shape
    delta = MDP.r[:, :, None] + GAMMA * values - values[:, None, None]
    walk = np.einsum("sax,xb->saxb", MDP.P, pi).reshape(pi.size, pi.size)
    mean = np.linalg.solve(np.eye(pi.size) - trace * walk, (MDP.P * delta).sum(axis=2).ravel())
    later = (pi * mean.reshape(pi.shape)).sum(axis=1)
    square = (MDP.P * (delta**2 + 2 * trace * delta * later)).sum(axis=2).ravel()
    second = np.linalg.solve(np.eye(pi.size) - trace**2 * walk, square)
    return (second - mean**2).reshape(num_states, num_actions)


def deviations_of_gae(values, lams):
    """Return the root of the variance, averaged over s ~ rho and a ~ pi, for each lambda."""
    return np.array([np.sqrt((RHO[:, None] * PI * gae_variance(PI, values, lam)).sum()) for lam in lams])


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.9, 1.0])
def test_C4_eq10_bias_of_gae_has_a_closed_form(lam):
    assert_close(expected_gae(PI, V + VALUE_ERROR, lam) - A, gae_bias(PI, VALUE_ERROR, lam), 1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.9])
def test_C4_eq10_mean_of_the_library_over_rollouts_has_that_bias(lam):
    state, action = 2, 1
    first = first_advantages(V + VALUE_ERROR, lam, (state, action))
    error = first.std() / np.sqrt(first.size)
    expected = A[state, action] + gae_bias(PI, VALUE_ERROR, lam)[state, action]
    assert abs(first.mean() - expected) < 4 * error
    assert abs(A[state, action] - expected) > 8 * error  # the bias is large enough to be measured


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_C4_eq10_variance_of_the_library_over_rollouts_is_that_of_the_recursion(size, lam):
    for pair in ((0, 0), (2, 1)):
        first = first_advantages(V + size * VALUE_ERROR, lam, pair)
        squares = (first - first.mean()) ** 2
        error = squares.std() / np.sqrt(first.size)
        assert abs(squares.mean() - gae_variance(PI, V + size * VALUE_ERROR, lam)[pair]) < 4 * error


def first_advantages(values, lam, pair, num=20_000, horizon=60):
    """The library's advantage of the first step of `num` rollouts from the pair (s, a)."""
    states, _, rewards = oracle.simulate(MDP, PI, num, horizon, np.random.default_rng(3), first=pair)
    no = jnp.zeros((horizon, num), bool)
    numbers = (jnp.asarray(x, jnp.float32) for x in (rewards, values[states[:-1]], values[states[1:]]))
    return np.asarray(adv.gae(*numbers, no, no, GAMMA, lam)[0], np.float64)


def test_C4_bias_depends_on_the_action_unless_lambda_is_1_or_the_error_constant():
    def spread(error, lam):
        return np.ptp(gae_bias(PI, error, lam), axis=1).max()

    for lam in (0.0, 0.5, 0.9):
        assert spread(VALUE_ERROR, lam) > 0.01
        assert spread(np.full(len(V), 3.0), lam) < 1e-12
    assert spread(VALUE_ERROR, 1.0) == 0.0
    # And only what depends on the action reaches the policy gradient (3).
    assert_close(policy_gradient(A + gae_bias(PI, VALUE_ERROR, 1.0)), GRAD_J)
    assert np.abs(policy_gradient(A + gae_bias(PI, VALUE_ERROR, 0.5)) - GRAD_J).max() > 0.01


def test_C4_lambda_trades_bias_for_variance_if_v_is_nearly_right():
    """The bias falls with lam. The variance grows with it for V = V^pi, but not for every V, as the source claims."""
    horizon, num, lams = 60, 5000, (0.0, 0.9, 1.0)
    states, _, rewards = oracle.simulate(MDP, PI, num, horizon, np.random.default_rng(3), first=(0, 0))
    no = jnp.zeros((horizon, num), bool)

    def deviations(values):
        numbers = [jnp.asarray(x, jnp.float32) for x in (rewards, values[states[:-1]], values[states[1:]])]
        return [float(adv.gae(*numbers, no, no, GAMMA, lam)[0].std()) for lam in lams]

    assert np.all(np.diff(deviations(V)) > 0)
    assert not np.all(np.diff(deviations(V + VALUE_ERROR)) > 0)
    assert np.all(np.diff([np.ptp(gae_bias(PI, VALUE_ERROR, lam), axis=1).max() for lam in lams]) < 0)


def test_C4_with_a_bad_critic_the_variance_falls_first_and_then_grows():
    """Averaged over states and actions, exactly; at lambda = 1 the critic has no effect."""
    lams = np.linspace(0, 1, 101)
    right, off = deviations_of_gae(V, lams), deviations_of_gae(V + VALUE_ERROR, lams)
    lowest = off.argmin()
    assert np.all(np.diff(right) > 0)
    assert 0 < lowest < 100
    assert np.all(np.diff(off[: lowest + 1]) < 0)
    assert np.all(np.diff(off[lowest:]) > 0)
    assert_close(off[-1], right[-1], 1e-10)
    for curve in (right, off):
        quoted("C4", ", ".join(f"{curve[i]:.3f}" for i in (0, 50, 90, 100)))
    quoted("C4", f"least at λ = {lams[lowest]:.2f}")


def test_C4_the_variance_falls_first_for_most_random_errors_but_not_for_all():
    falls = grows = 0
    for seed in range(200):
        error = np.random.default_rng(seed).normal(size=len(V))
        curve = deviations_of_gae(V + error, np.linspace(0, 1, 21))
        lowest = curve.argmin()
        assert np.all(np.diff(curve[: lowest + 1]) < 0)
        assert np.all(np.diff(curve[lowest:]) > 0)
        falls, grows = falls + (lowest > 0), grows + (lowest == 0)
        assert lowest < 20  # near lambda = 1 it grows for all of them
    quoted("C4", f"{falls} of 200", f"other {grows}")


# KL estimators: C8 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [obj.kl_k1, obj.kl_k3])
def test_C8_k1_and_k3_are_unbiased_in_value_and_gradient(estimator):
    value, gradient = jax.value_and_grad(expectation(estimator))(NEW_LOGITS)
    expected, expected_gradient = jax.value_and_grad(exact_kl)(NEW_LOGITS)
    assert_close(value, expected, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


def test_C8_k2_is_unbiased_in_neither():
    value, gradient = jax.value_and_grad(expectation(obj.kl_k2))(NEW_LOGITS)
    expected, expected_gradient = jax.value_and_grad(exact_kl)(NEW_LOGITS)
    assert abs(float(value / expected) - 1) > 0.02
    assert np.abs(gradient - expected_gradient).max() > 0.005


def test_C8_k3_varies_less_than_k1():
    old = jax.nn.log_softmax(OLD_LOGITS)
    log_ratio, p = jax.nn.log_softmax(NEW_LOGITS) - old, jnp.exp(old)

    def variance(k):
        return float(jnp.sum(p * k**2) - jnp.sum(p * k) ** 2)

    assert variance(obj.kl_k3(log_ratio)) < 0.2 * variance(obj.kl_k1(log_ratio))


def test_C8_direction_matters():
    """KL(old || new) and KL(new || old) differ, and samples of the old policy estimate the first."""
    old, new = jax.nn.log_softmax(OLD_LOGITS), jax.nn.log_softmax(NEW_LOGITS)
    forward, backward = exact_kl(NEW_LOGITS), jnp.sum(jnp.exp(new) * (new - old))
    assert abs(float(forward - backward)) > 0.003
    assert_close(expectation(obj.kl_k3)(NEW_LOGITS), forward, 1e-6)
