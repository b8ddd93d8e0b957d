"""Trust-region policy optimization: the natural-gradient step with a line search (6), and its bound (C9)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from purejaxppo._util.trees import Tree, tree_where

# Improvement bound ---------------------------------------------------------------------------------------------------


def bound_constant(max_abs_advantage: Array | float, gamma: Array | float) -> Array:
    """Return C = 4 max|A| γ / (1 − γ)², the weight of the largest KL in the improvement bound (C9).

    Schulman et al. (2015), arXiv:1502.05477, theorem 1.

    Args:
        max_abs_advantage: max|A|, [].
        gamma: discount γ, [].

    Returns:
        C, []; infinite at γ = 1.
    """
    discounted = jnp.less(gamma, 1.0)
    remaining = jnp.where(discounted, 1.0 - gamma, 1.0)  # no division by 0, not even in the branch that is not taken
    return jnp.where(discounted, 4.0 * max_abs_advantage * gamma / remaining**2, jnp.inf)


def improvement_bound(
    surrogate: Array | float, max_kl: Array | float, max_abs_advantage: Array | float, gamma: Array | float
) -> Array:
    """Return a lower bound of J(π) − J(π_old): (1 − γ)⁻¹ L − C max_s KL(π_old ‖ π), with C = 4 max|A| γ / (1 − γ)².

    The bound needs the maximum over states. With the mean KL of (6) it fails (C9). Schulman et al. (2015),
    arXiv:1502.05477, theorem 1; Kakade & Langford (2002), "Approximately optimal approximate reinforcement learning".

    Args:
        surrogate: L, the surrogate (5) with exact advantages over the discounted visitation of π_old, [].
        max_kl: max_s KL(π_old ‖ π) in nats, [].
        max_abs_advantage: max|A|, [].
        gamma: discount γ, [].

    Returns:
        The bound, []; −inf at γ = 1.
    """
    discounted = jnp.less(gamma, 1.0)
    remaining = jnp.where(discounted, 1.0 - gamma, 1.0)
    constant = jnp.where(discounted, bound_constant(max_abs_advantage, gamma), 0.0)  # inf · 0 would be NaN
    return jnp.where(discounted, surrogate / remaining - constant * max_kl, -jnp.inf)


# Natural-gradient step -----------------------------------------------------------------------------------------------


class TrpoInfo(NamedTuple):
    """Outcome of a TRPO step; float32 scalars."""

    kl: Array  # [] mean KL(π_old ‖ π) of the accepted step, 0 if no step was accepted
    improvement: Array  # [] gain of the surrogate, 0 if no step was accepted
    step_fraction: Array  # [] accepted fraction of the full step, 0 if no step was accepted
    cg_residual: Array  # [] |(F + damping) x − g| / |g| after conjugate gradients


def fisher_vector_product(kl_fn: Callable[[Tree], Array], params: Tree, vector: Tree) -> Tree:
    """Return F v, the product of the Fisher matrix with a vector: the derivative of the KL's gradient along v.

    F is the Hessian of the mean KL at its minimum. Kakade (2001), "A natural policy gradient"; Pearlmutter (1994),
    "Fast exact multiplication by the Hessian".

    Args:
        kl_fn: maps parameters to the mean KL, []; its minimum 0 is at `params`.
        params: parameters of π_old.
        vector: v, like `params`.

    Returns:
        F v, like `params`.
    """
    return jax.jvp(jax.grad(kl_fn), (params,), (vector,))[1]


class _Trial(NamedTuple):
    """One point of the line search; scalars."""

    accepted: Array
    fraction: Array
    kl: Array
    improvement: Array


def _line_search(try_fraction: Callable[[Array], _Trial], delta: Array | float, backtracks: int) -> _Trial:
    """Return the first accepted trial, from the full step down; after 1 + `backtracks` trials the last one."""

    def shorter(trial: _Trial) -> Array:
        # If the KL exceeds δ, go to where a parabola through it equals δ, but not below half the step: the accepted
        # step then uses δ to a few percent, where halving could leave a quarter of it. If there is no gain, halve.
        too_far = trial.kl > delta
        to_boundary = jnp.clip(jnp.sqrt(delta / jnp.where(too_far, trial.kl, 1.0)), 0.5, 0.99)
        return trial.fraction * jnp.where(too_far, to_boundary, 0.5)

    def unfinished(state: tuple[Array, _Trial]) -> Array:
        return ~state[1].accepted & (state[0] < backtracks)

    def backtrack(state: tuple[Array, _Trial]) -> tuple[Array, _Trial]:
        return state[0] + 1, try_fraction(shorter(state[1]))

    start = (jnp.zeros((), jnp.int32), try_fraction(jnp.ones((), jnp.float32)))
    return lax.while_loop(unfinished, backtrack, start)[1]


def trpo_step(
    params: Tree,
    surrogate_fn: Callable[[Tree], Array],
    kl_fn: Callable[[Tree], Array],
    delta: Array | float,
    damping: Array | float,
    cg_iterations: int = 10,
    backtracks: int = 10,
) -> tuple[Tree, TrpoInfo]:
    """Take a trust-region step (6): maximize the surrogate subject to mean KL(π_old ‖ π) ≤ δ.

    The direction x = (F + damping)⁻¹ g comes from conjugate gradients. The full step is √(2δ / xᵀFx)·x, for which the
    quadratic model of the KL gives δ. A line search shortens it until the surrogate has grown and KL ≤ δ. If no trial
    is accepted, or if the gradient is 0 or NaN, the parameters stay bitwise unchanged. Schulman et al. (2015),
    arXiv:1502.05477, appendix C.

    Args:
        params: parameters of π_old, to which both functions refer.
        surrogate_fn: maps parameters to the surrogate, [].
        kl_fn: maps parameters to the mean KL in nats, [].
        delta: δ in nats, [].
        damping: added to the diagonal of F, [].
        cg_iterations: iterations of conjugate gradients.
        backtracks: how often the line search may shorten the step.

    Returns:
        The new parameters and the outcome.
    """
    flat, unravel = ravel_pytree(params)

    def fisher(v: Array) -> Array:
        return ravel_pytree(fisher_vector_product(kl_fn, params, unravel(v)))[0]

    def damped(v: Array) -> Array:
        return fisher(v) + damping * v

    before, gradient_tree = jax.value_and_grad(surrogate_fn)(params)
    gradient = ravel_pytree(gradient_tree)[0]
    x, _ = cg(damped, gradient, maxiter=cg_iterations)
    curvature = x @ fisher(x)
    curved = curvature > 0  # false if the gradient is 0: then there is no scale and no step
    # F, not F + damping: with damping the KL would fall short of δ.
    full_step = jnp.sqrt(2.0 * delta / jnp.where(curved, curvature, jnp.ones_like(curvature))) * x

    def try_fraction(fraction: Array) -> _Trial:
        candidate = unravel(flat + fraction * full_step)
        kl, improvement = kl_fn(candidate), surrogate_fn(candidate) - before
        return _Trial(curved & (improvement > 0) & (kl <= delta), fraction, kl, improvement)

    accepted, *trial = _line_search(try_fraction, delta, backtracks)
    fraction, kl, improvement = (jnp.where(accepted, x, jnp.zeros_like(x)) for x in trial)
    new_params = tree_where(accepted, unravel(flat + fraction * full_step), params)
    length = jnp.linalg.norm(gradient)
    residual = jnp.linalg.norm(damped(x) - gradient) / jnp.where(length > 0, length, jnp.ones_like(length))
    return new_params, TrpoInfo(kl, improvement, fraction, residual)
