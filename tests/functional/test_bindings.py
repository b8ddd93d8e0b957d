"""Formulas by name, bound to the fields of a Hyperparams: every field reaches the argument that its name says."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from endings import GAMMA, LAM, NEXT_VALUES, NO_VALUES, REWARDS, ROWS, TERMINATED, TRUNCATED, VALUES

from purejaxppo.functional import advantages as adv
from purejaxppo.functional import bindings, kl_control
from purejaxppo.functional.bindings import OBJECTIVES, TARGETS

INF = jnp.inf


def assert_close(actual, desired, tol=1e-5):
    np.testing.assert_allclose(actual, desired, rtol=tol, atol=tol)


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


# Objectives ----------------------------------------------------------------------------------------------------------

RATIOS = np.array([0.0, 0.3, 0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 3.0, 20.0], np.float32)
ADVANTAGES = np.array([-5.0, -1.0, -0.01, 0.0, 0.01, 1.0, 5.0], np.float32)
R, A = (x.ravel() for x in np.meshgrid(RATIOS, ADVANTAGES))
CLIP = SimpleNamespace(clip_eps=0.2, clip_asymmetry=1.5, dual_clip=2.5, beta=0.7)


def test_objectives_by_name(run):
    kl = np.linspace(0.0, 1.0, len(R)).astype(np.float32)
    cpi = R.astype(np.float64) * A
    clipped = [oracle.clipped_piecewise(r, a, 0.8, 1.3, 2.5) for r, a in zip(*map(np.float64, (R, A)), strict=True)]
    expected = {"clip": clipped, "kl": cpi - 0.7 * kl, "cpi": cpi, "none": 0.0 * cpi}
    assert set(expected) == set(OBJECTIVES)
    for name, fn in OBJECTIVES.items():
        assert_close(run(lambda r, a, kl, fn=fn: fn(r, a, kl, CLIP), R, A, kl), expected[name], 1e-6)


def test_objective_none_has_no_gradient():
    gradient = jax.grad(lambda r, kl: OBJECTIVES["none"](r, jnp.float32(1.0), kl, CLIP), argnums=(0, 1))
    assert gradient(jnp.float32(1.5), jnp.float32(0.3)) == (0.0, 0.0)


# Targets -------------------------------------------------------------------------------------------------------------

RETURNS = SimpleNamespace(gamma=GAMMA, gae_lambda=LAM, value_lambda=0.5)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_targets_by_name(run, name):
    """Advantages are GAE(gae_lambda) under each name; the targets are those of the name, from raw advantages (E7)."""
    advantage = oracle.per_environment(oracle.gae_double_sum, *ROWS, gamma=GAMMA, lam=LAM)
    expected = {
        "gae": advantage + VALUES,
        "monte_carlo": oracle.per_environment(oracle.monte_carlo, *NO_VALUES, gamma=GAMMA),
        "n_step": oracle.per_environment(oracle.n_step, *NO_VALUES, gamma=GAMMA, n=3),
        "td_lambda": oracle.per_environment(oracle.gae_double_sum, *ROWS, gamma=GAMMA, lam=0.5) + VALUES,
    }
    assert_close(run(lambda *x: TARGETS[name](*x, RETURNS, 3)[0], *ROWS), advantage)
    assert_close(run(lambda *x: TARGETS[name](*x, RETURNS, 3)[1], *ROWS), expected[name])


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_C5_advantages_and_targets_are_constants(name):
    def total(numbers):
        rewards, values, next_values, gamma = numbers
        h = SimpleNamespace(gamma=gamma, gae_lambda=gamma, value_lambda=gamma)
        advantage, target = TARGETS[name](
            rewards, values, next_values, jnp.asarray(TERMINATED), jnp.asarray(TRUNCATED), h, 2
        )
        return jnp.sum(adv.normalize_advantages(advantage) ** 3 + advantage**2 + target**2)

    grads = jax.grad(total)((*map(jnp.asarray, ROWS[:3]), jnp.float32(0.9)))
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


def test_a_nan_value_after_a_termination_has_no_effect():
    poisoned = np.where(TERMINATED, np.nan, NEXT_VALUES)
    rows = (REWARDS, VALUES, poisoned, TERMINATED, TRUNCATED)
    for name, fn in TARGETS.items():
        compiled = jax.jit(lambda *rows, fn=fn: fn(*rows, RETURNS, 3))
        for a, b in zip(compiled(*rows), compiled(*ROWS), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_endless_reward_1_has_the_value_of_the_geometric_series():
    """Truncated rows of reward 1 with V = 1/(1-g) have advantage 0 and target V under every name."""
    ones, no = jnp.ones((6, 2)), jnp.zeros((6, 2), bool)
    value = ones / (1 - GAMMA)
    for name, fn in TARGETS.items():
        compiled = jax.jit(lambda *rows, fn=fn: fn(*rows, RETURNS, 3))
        advantage, target = compiled(ones, value, value, no, ~no)
        assert_close(advantage, 0.0 * ones)
        np.testing.assert_allclose(target, value, rtol=1e-6, err_msg=name)
        # If the truncations are treated as terminations, the value is the truncated sum.
        assert np.all(np.asarray(compiled(ones, value, value, ~no, no)[1]) < 2.0)


# KL-driven controls --------------------------------------------------------------------------------------------------


class H(NamedTuple):
    """Hyperparameters that the controls read."""

    learning_rate: Any = 3e-4
    clip_eps: Any = 0.2
    beta: Any = 1.0
    beta_target_kl: Any = INF
    lr_target_kl: Any = INF
    clip_target_kl: Any = INF


def test_an_infinite_target_changes_nothing(run):
    """For every KL and every value, also values out of range."""
    grid = np.meshgrid([0.0, 1e-3, 5.0, np.inf, np.nan], [0.0, 1e-30, 0.3, 1e9])
    kl, value = (np.float32(x.ravel()) for x in grid)
    control = kl_control.Control(value, 3 * value, 5 * value)
    out = run(lambda control, kl: bindings.update_control(control, kl, H()), control, kl)
    for x, y in zip(out, control, strict=True):
        np.testing.assert_array_equal(bits(x), bits(y))


def test_a_nan_kl_changes_nothing():
    control = kl_control.Control(jnp.float32(0.3), jnp.float32(0.7), jnp.float32(1.1))
    out = bindings.update_control(control, jnp.float32(np.nan), H(1, 1, 1, 0.01, 0.01, 0.01))
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
def test_each_control_depends_on_its_target_only(run, targets, expected):
    h = H(3e-4, 0.2, 1.0, *targets)
    control = bindings.init_control(h)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in control)
    out = run(lambda control, kl: bindings.update_control(control, kl, h), control, jnp.float32(0.1))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_apply_control_scales_learning_rate_and_clip_range(run):
    h = H(3e-4, 0.2, 5.0, beta_target_kl=0.01)
    control = kl_control.Control(jnp.float32(0.25), jnp.float32(0.5), jnp.float32(1.5))
    out = run(lambda c: bindings.apply_control(c, h), control)
    np.testing.assert_allclose((out.learning_rate, out.clip_eps, out.beta), (1.5e-4, 0.3, 0.25), rtol=1e-6)


def test_apply_control_is_the_identity_if_all_controls_are_off(run):
    h = H(jnp.float32(3e-4), jnp.float32(0.2), jnp.float32(5.0))
    out = run(lambda h: bindings.apply_control(bindings.init_control(h), h), h)
    np.testing.assert_array_equal(bits(out), bits(h))
    # A fixed β is that of the hyperparameters, also if they change during a run.
    later = bindings.apply_control(bindings.init_control(h), h._replace(beta=jnp.float32(7.0)))
    assert float(later.beta) == 7.0


def test_controls_under_vmap_are_independent():
    """Three seeds with three KLs and three targets, one of them infinite."""
    h = H(beta_target_kl=jnp.asarray([0.01, 0.01, INF]), lr_target_kl=jnp.asarray([INF, 0.01, 0.01]))
    axes = H(None, None, None, 0, 0, None)
    control = jax.vmap(bindings.init_control, in_axes=(axes,), axis_size=3)(h)
    out = jax.jit(jax.vmap(bindings.update_control, in_axes=(0, 0, axes)))(control, jnp.asarray([0.1, 0.001, 0.1]), h)
    np.testing.assert_allclose(out.beta, [2.0, 0.5, 1.0])
    np.testing.assert_allclose(out.lr_scale, [1.0, 1.5, 1 / 1.5])
    np.testing.assert_allclose(out.clip_scale, 1.0)
