"""KL-driven controls against their tables, and the TRPO step against the Fisher matrix of a tabular MDP in float64."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from purejaxppo._util import trees
from purejaxppo.functional import kl_control, trpo

INF = jnp.inf


class H(NamedTuple):
    """The hyperparameters that the controls read."""

    learning_rate: Any = 3e-4
    clip_eps: Any = 0.2
    beta: Any = 1.0
    beta_target_kl: Any = INF
    lr_target_kl: Any = INF
    clip_target_kl: Any = INF


@pytest.fixture(params=["plain", "jit", "vmap"])
def run(request):
    """Calls a function as it is, jitted, or as the last lane of a vmap; arrays only."""

    def call(fn, *args):
        args = jax.tree.map(jnp.asarray, args)
        if request.param == "plain":
            return fn(*args)
        if request.param == "jit":
            return jax.jit(fn)(*args)
        lanes = jax.tree.map(lambda x: jnp.stack([0 * x + 1, x]).astype(x.dtype), args)
        return jax.tree.map(lambda x: x[1], jax.vmap(fn)(*lanes))

    return call


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


# Controls ----------------------------------------------------------------------------------------------------

# KL over target, factor on β. At exactly 1.5 and 1/1.5 nothing happens.
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
    """The inverted factor would run away: here KL = 0.1/β, and the controller settles where KL is the target."""
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


def test_adaptive_beta_never_runs_out_to_zero_or_infinity():
    down = up = jnp.float32(1.0)
    for _ in range(200):
        down, up = kl_control.adaptive_beta(down, 0.0, 0.01), kl_control.adaptive_beta(up, 1.0, 0.01)
    assert (float(down), float(up)) == pytest.approx(kl_control.BETA_RANGE)


def test_infinite_target_leaves_every_number_bitwise_alone(run):
    """Every KL with every number, those out of range too."""
    grid = np.meshgrid([0.0, 1e-3, 5.0, np.inf, np.nan], [0.0, 1e-30, 0.3, 1e9])
    kl, value = (np.float32(x.ravel()) for x in grid)
    control = kl_control.Control(value, 3 * value, 5 * value)
    out = run(lambda control, kl: kl_control.update_control(control, kl, H()), control, kl)
    for x, y in zip(out, control, strict=True):
        np.testing.assert_array_equal(bits(x), bits(y))


def test_nan_kl_leaves_every_number_bitwise_alone():
    control = kl_control.Control(jnp.float32(0.3), jnp.float32(0.7), jnp.float32(1.1))
    out = kl_control.update_control(control, jnp.float32(np.nan), H(1, 1, 1, 0.01, 0.01, 0.01))
    np.testing.assert_array_equal(bits(out), bits(control))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ((0.01, INF, INF), (2.0, 1.0, 1.0)),
        ((INF, 0.01, INF), (1.0, 1 / 1.5, 1.0)),
        ((INF, INF, 0.01), (1.0, 1.0, 1 / 1.5)),
        ((0.01, 0.01, 0.01), (2.0, 1 / 1.5, 1 / 1.5)),
        ((10.0, 10.0, 10.0), (0.5, 1.5, 1.5)),
    ],
)
def test_each_control_obeys_its_own_target(run, targets, expected):
    h = H(3e-4, 0.2, 1.0, *targets)
    control = kl_control.init_control(h)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in control)
    out = run(lambda control, kl: kl_control.update_control(control, kl, h), control, jnp.float32(0.1))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_apply_control_scales_learning_rate_and_clip_range(run):
    h = H(3e-4, 0.2, 5.0, beta_target_kl=0.01)
    control = kl_control.Control(jnp.float32(0.25), jnp.float32(0.5), jnp.float32(1.5))
    out = run(lambda c: kl_control.apply_control(c, h), control)
    np.testing.assert_allclose((out.learning_rate, out.clip_eps, out.beta), (1.5e-4, 0.3, 0.25), rtol=1e-6)


def test_apply_control_is_bitwise_nothing_when_all_is_off(run):
    h = H(jnp.float32(3e-4), jnp.float32(0.2), jnp.float32(5.0))
    out = run(lambda h: kl_control.apply_control(kl_control.init_control(h), h), h)
    np.testing.assert_array_equal(bits(out), bits(h))
    # A fixed β is the one of the hyperparameters, also when they change during a run.
    later = kl_control.apply_control(kl_control.init_control(h), h._replace(beta=jnp.float32(7.0)))
    assert float(later.beta) == 7.0


def test_controls_under_vmap_go_their_own_ways():
    """Three seeds with three KLs and three targets, one of them off."""
    h = H(beta_target_kl=jnp.asarray([0.01, 0.01, INF]), lr_target_kl=jnp.asarray([INF, 0.01, 0.01]))
    axes = H(None, None, None, 0, 0, None)
    control = jax.vmap(kl_control.init_control, in_axes=(axes,), axis_size=3)(h)
    out = jax.jit(jax.vmap(kl_control.update_control, in_axes=(0, 0, axes)))(control, jnp.asarray([0.1, 0.001, 0.1]), h)
    np.testing.assert_allclose(out.beta, [2.0, 0.5, 1.0])
    np.testing.assert_allclose(out.lr_scale, [1.0, 1.5, 1 / 1.5])
    np.testing.assert_allclose(out.clip_scale, 1.0)


# Early stop --------------------------------------------------------------------------------------------------


def test_should_stop_is_strict_and_for_good(run):
    def history(kls, kappa):
        stop = lambda stopped, kl: (kl_control.should_stop(stopped, kl, kappa),) * 2  # noqa: E731
        return jax.lax.scan(stop, jnp.zeros((), bool), kls)[1]

    kls = jnp.asarray([0.0, 0.02, 0.021, 0.0, 0.5])
    np.testing.assert_array_equal(run(history, kls, jnp.float32(0.02)), [False, False, True, True, True])
    np.testing.assert_array_equal(run(history, kls.at[1].set(jnp.inf), jnp.float32(jnp.inf)), [False] * 5)


def test_select_leaves_trees_bitwise_unchanged():
    """Awkward bit patterns (-0, NaN, subnormal, inf), integers and bools come through; lanes of a vmap apart."""
    floats = np.array([0x80000000, 0x7FC00001, 0x00000001, 0x7F800000, 0x3F800000], np.uint32).view(np.float32)
    old = {"w": jnp.asarray(floats), "count": jnp.int32(7), "flag": jnp.asarray([True, False])}
    new = {"w": jnp.zeros(5), "count": jnp.int32(8), "flag": jnp.asarray([False, True])}

    def same(a, b):
        return all(
            np.asarray(x).tobytes() == np.asarray(y).tobytes()
            for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
        )

    assert same(trees.tree_where(jnp.bool_(False), new, old), old)
    assert same(trees.tree_where(jnp.bool_(True), new, old), new)
    lanes = jax.jit(jax.vmap(trees.tree_where, in_axes=(0, None, None)))(jnp.asarray([False, True]), new, old)
    assert same(jax.tree.map(lambda x: x[0], lanes), old)
    assert same(jax.tree.map(lambda x: x[1], lanes), new)


# TRPO --------------------------------------------------------------------------------------------------------

MDP = oracle.random_mdp(0)
THETA = np.random.default_rng(5).normal(size=MDP.r.shape)
DAMPING = 1e-3


def problem(theta=THETA, mdp=MDP):
    """Surrogate and mean KL of the softmax policy, exact: rho-weighted states, all actions, exact advantages."""
    pi = oracle.softmax(theta)
    rho, advantage = oracle.visitation(mdp, pi), oracle.advantages(mdp, pi)
    weight, old, adv = (jnp.asarray(x, jnp.float32) for x in (rho[:, None] * pi, np.log(pi), advantage))

    def surrogate(params):
        new = jax.nn.log_softmax(params["theta"])
        return jnp.sum(weight * jnp.exp(new - old) * adv)

    def kl(params):
        return jnp.sum(weight * (old - jax.nn.log_softmax(params["theta"])))

    return {"theta": jnp.asarray(theta, jnp.float32), "unused": jnp.ones(2)}, surrogate, kl


def exact_fisher_and_gradient():
    pi = oracle.softmax(THETA)
    rho = oracle.visitation(MDP, pi)
    return oracle.fisher(rho, pi), oracle.score_expectation(rho, pi, oracle.advantages(MDP, pi)).ravel()


@functools.cache
def compiled_step(backtracks):
    params, surrogate, kl = problem()
    step = jax.jit(lambda p, delta, damping: trpo.trpo_step(p, surrogate, kl, delta, damping, 20, backtracks))
    return params, step


def step(delta=0.01, damping=DAMPING, backtracks=10):
    """The TRPO step of the problem; the damping is small because so is the Fisher matrix."""
    params, compiled = compiled_step(backtracks)
    return params, *compiled(params, delta, damping)


def test_eq06_hessian_of_the_mean_kl_is_the_fisher_matrix(run):
    expected, _ = exact_fisher_and_gradient()
    params, _, kl = problem()
    shape = THETA.shape
    hessian = jax.hessian(lambda t: kl({"theta": t}))(params["theta"]).reshape(expected.shape)
    np.testing.assert_allclose(hessian, expected, atol=1e-6)

    def product(v):
        vector = {"theta": v, "unused": jnp.ones(2)}
        return trpo.fisher_vector_product(kl, params, vector)["theta"]

    columns = [np.asarray(run(product, e.reshape(shape))).ravel() for e in np.eye(expected.shape[0], dtype=np.float32)]
    np.testing.assert_allclose(np.stack(columns, axis=1), expected, atol=1e-6)


def test_eq06_step_is_the_natural_gradient_scaled_to_delta_C9():
    """√(2δ / gᵀF⁻¹g) F⁻¹g, with the pseudo-inverse: adding one number to all logits of a state is no change."""
    fisher, gradient = exact_fisher_and_gradient()
    direction = np.linalg.pinv(fisher, rcond=1e-10) @ gradient
    delta = 1e-4
    expected = np.sqrt(2 * delta / (gradient @ direction)) * direction
    params, new, info = step(delta=delta, damping=0.0)
    actual = np.asarray(new["theta"] - params["theta"]).ravel()
    np.testing.assert_allclose(actual, float(info.step_fraction) * expected, atol=2e-3 * np.abs(expected).max())
    assert float(info.step_fraction) >= 0.98
    # The plain gradient, scaled to the same length, is another direction.
    cosine = expected @ gradient / np.linalg.norm(expected) / np.linalg.norm(gradient)
    assert cosine < 0.9


@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("delta", [1e-3, 1e-2, 5e-2])
def test_eq06_step_attains_delta_within_5_percent_and_never_exceeds_it(delta, damping):
    params, new, info = step(delta=delta, damping=damping)
    rho = oracle.visitation(MDP, oracle.softmax(THETA))
    old_pi, new_pi = (oracle.softmax(np.asarray(p["theta"], np.float64)) for p in (params, new))
    kl = oracle.mean_kl(rho, old_pi, new_pi)
    assert 0.95 * delta <= kl <= delta * (1 + 1e-3)
    np.testing.assert_allclose(info.kl, kl, rtol=1e-3)
    gain = rho @ (new_pi * oracle.advantages(MDP, oracle.softmax(THETA))).sum(axis=1)
    np.testing.assert_allclose(info.improvement, gain, rtol=1e-3)
    assert float(info.cg_residual) < 1e-3
    np.testing.assert_array_equal(new["unused"], params["unused"])


def test_eq06_without_backtracks_a_step_that_exceeds_delta_is_refused():
    """The line search is what makes KL <= δ true: here the full step oversteps."""
    _, _, searched = step(delta=0.05, damping=0.0)
    assert 0 < float(searched.step_fraction) < 1
    params, new, info = step(delta=0.05, damping=0.0, backtracks=0)
    assert (float(info.step_fraction), float(info.kl), float(info.improvement)) == (0.0, 0.0, 0.0)
    np.testing.assert_array_equal(bits(new["theta"]), bits(params["theta"]))


@pytest.mark.parametrize("spoiled", ["zero", "nan", "no_gain", "infinite_kl", "no_minimum"])
def test_eq06_no_acceptable_step_leaves_parameters_bitwise_unchanged(spoiled):
    """In either lane of a vmap over two values of δ."""
    params, surrogate, kl = problem()
    moved = lambda p: jnp.any(p["theta"] != params["theta"])  # noqa: E731
    surrogates = {
        "zero": lambda p: jnp.sum(0.0 * p["theta"]),
        "nan": lambda p: surrogate(p) * jnp.nan,
        # A slope at the start, and nothing but loss wherever one goes.
        "no_gain": lambda p: jnp.where(moved(p), -1.0, surrogate(p)),
    }
    kls = {
        "infinite_kl": lambda p: kl(p) + jnp.where(moved(p), jnp.inf, 0.0),
        # Curved the wrong way (a `params` that is not the old policy): there is no scale for the step.
        "no_minimum": lambda p: -kl(p),
    }
    surrogate_fn, kl_fn = surrogates.get(spoiled, surrogate), kls.get(spoiled, kl)
    step = lambda delta: trpo.trpo_step(params, surrogate_fn, kl_fn, delta, 1.0)  # noqa: E731
    new, info = jax.jit(jax.vmap(step))(jnp.asarray([0.1, 0.01]))
    for name, x in new.items():
        np.testing.assert_array_equal(bits(x), bits(jnp.stack([params[name]] * 2)))
    for field in (info.step_fraction, info.kl, info.improvement):
        np.testing.assert_array_equal(field, 0.0)
    assert spoiled == "nan" or np.all(np.isfinite(info.cg_residual))


def test_eq06_line_search_halves_where_the_surrogate_does_not_gain():
    """A surrogate that falls beyond a third of the full step's gain is followed to a quarter of the step."""
    params, surrogate, kl = problem()
    _, _, full = step(damping=0.1)
    assert float(full.step_fraction) == 1.0
    near = float(full.improvement) * 0.35
    capped = lambda p: jnp.where(surrogate(p) > near, -1.0, surrogate(p))  # noqa: E731
    _, info = jax.jit(lambda p: trpo.trpo_step(p, capped, kl, 0.01, 0.1, 20))(params)
    assert float(info.step_fraction) == 0.25
    assert 0 < float(info.improvement) <= near


def test_eq06_delta_and_damping_under_vmap_match_single_calls():
    params, surrogate, kl = problem()
    deltas = jnp.asarray([1e-3, 1e-2, 5e-2])
    dampings = jnp.asarray([1e-3, 1e-1, 0.0])
    one = jax.jit(lambda delta, damping: trpo.trpo_step(params, surrogate, kl, delta, damping))
    many_params, many = jax.vmap(one)(deltas, dampings)
    for i in range(3):
        single_params, single = one(deltas[i], dampings[i])
        np.testing.assert_allclose(many_params["theta"][i], single_params["theta"], atol=1e-4)
        np.testing.assert_allclose(many.kl[i], single.kl, rtol=1e-3)


def test_eq06_improvement_is_monotone_on_the_tabular_mdp_and_reaches_the_optimum():
    mdp = oracle.random_mdp(1, num_states=5, num_actions=3, gamma=0.9)
    optimum = oracle.optimal_return(mdp)
    theta, returns = np.zeros(mdp.r.shape), []

    @jax.jit
    def move(theta, weight, old, adv):
        def surrogate(p):
            return jnp.sum(weight * jnp.exp(jax.nn.log_softmax(p) - old) * adv)

        def kl(p):
            return jnp.sum(weight * (old - jax.nn.log_softmax(p)))

        return trpo.trpo_step(theta, surrogate, kl, 0.02, 1e-4, 20)

    while (not returns or returns[-1] < 0.99 * optimum) and len(returns) < 100:
        pi = oracle.softmax(theta)
        returns.append(oracle.expected_return(mdp, pi))
        weight = oracle.visitation(mdp, pi)[:, None] * pi
        exact = (theta, weight, np.log(pi), oracle.advantages(mdp, pi))
        new, info = move(*(jnp.asarray(x, jnp.float32) for x in exact))
        assert float(info.step_fraction) > 0
        theta = np.asarray(new, np.float64)
    assert np.all(np.diff(returns) > 0)
    assert returns[0] < 0.5 * optimum
    assert returns[-1] > 0.99 * optimum
    assert len(returns) > 5
