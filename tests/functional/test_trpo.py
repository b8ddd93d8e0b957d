"""The TRPO step compared with the Fisher matrix of a tabular MDP in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from purejaxppo.functional import trpo


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


MDP = oracle.random_mdp(0)
THETA = np.random.default_rng(5).normal(size=MDP.r.shape)
DAMPING = 1e-3


def problem(theta=THETA, mdp=MDP):
    """Return surrogate and mean KL of the softmax policy, exactly: states weighted by rho, exact advantages."""
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
    """Return the TRPO step of the problem. The damping is small because the Fisher matrix is."""
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
    """√(2δ / gᵀF⁻¹g) F⁻¹g with the pseudo-inverse, since a constant added to the logits of a state changes nothing."""
    fisher, gradient = exact_fisher_and_gradient()
    direction = np.linalg.pinv(fisher, rcond=1e-10) @ gradient
    delta = 1e-4
    expected = np.sqrt(2 * delta / (gradient @ direction)) * direction
    params, new, info = step(delta=delta, damping=0.0)
    actual = np.asarray(new["theta"] - params["theta"]).ravel()
    np.testing.assert_allclose(actual, float(info.step_fraction) * expected, atol=2e-3 * np.abs(expected).max())
    assert float(info.step_fraction) >= 0.98
    # The plain gradient has another direction.
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
    """Only the line search ensures KL <= δ: here the full step exceeds it."""
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
        # The surrogate has a slope at the start and decreases everywhere else.
        "no_gain": lambda p: jnp.where(moved(p), -1.0, surrogate(p)),
    }
    kls = {
        "infinite_kl": lambda p: kl(p) + jnp.where(moved(p), jnp.inf, 0.0),
        # Negative curvature (`params` is not the old policy): the step has no scale.
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


def test_eq06_line_search_halves_while_the_surrogate_does_not_grow():
    """The surrogate decreases beyond a third of the full step, so a quarter of the step is accepted."""
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


@pytest.mark.parametrize("still", [False, True])
def test_eq06_no_branch_of_a_step_makes_a_nan(still):
    """Neither a KL of 0 or below nor a gradient of 0 gives a NaN, so that jax_debug_nans passes."""
    params, surrogate, kl = problem()
    flat = lambda p: 0.0 * surrogate(p)  # noqa: E731
    with jax.debug_nans(True):
        step = jax.jit(lambda p: trpo.trpo_step(p, flat if still else surrogate, lambda p: -kl(p), 0.01, 1.0))
        new, info = step(params)
    np.testing.assert_array_equal(new["theta"], params["theta"])
    assert float(info.step_fraction) == 0.0
