"""Trust-region policy optimization: the natural-gradient step with a line search (6)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from purejaxppo._util.trees import Tree, tree_where

"""Adaptive β stays in here: from a β that has run out to 0 no doubling leads back."""

"""Range of the KL-driven factor on the learning rate."""

"""Range of the KL-driven factor on the clip range: ε stays small enough for 1 − ε to be positive."""


def bound_constant(max_abs_advantage: Array | float, gamma: Array | float) -> Array | float:
    """C = 4 max|A| γ / (1 − γ)², the price of the largest KL in the lower bound of (6); infinite at γ = 1."""
    return 4.0 * max_abs_advantage * gamma / (1.0 - gamma) ** 2


def improvement_bound(
    surrogate: Array | float, max_kl: Array | float, max_abs_advantage: Array | float, gamma: Array | float
) -> Array | float:
    """Lower bound of J(π) − J(π_old): (1 − γ)⁻¹ L − C max_s KL(π_old ‖ π), C = 4 max|A| γ / (1 − γ)².

    L is the CPI surrogate (5) with exact advantages over the discounted visitation of π_old, less its value 0 at
    π_old; KL in nats. The maximum over states is needed, the mean of (6) in its place gives no bound. Scalars.
    """
    return surrogate / (1.0 - gamma) - bound_constant(max_abs_advantage, gamma) * max_kl


class TrpoInfo(NamedTuple):
    """What a TRPO step did; float32 scalars."""

    kl: Array  # [] mean KL(old ‖ new) of the accepted step, 0 where none was accepted
    improvement: Array  # [] gain of the surrogate, 0 where no step was accepted
    step_fraction: Array  # [] accepted fraction of the full step, 0 where none was
    cg_residual: Array  # [] |(F + damping) x − g| / |g| after conjugate gradients


def fisher_vector_product(kl_fn: Callable[[Tree], Array], params: Tree, vector: Tree) -> Tree:
    """F v, the Hessian of the mean KL times a vector: the derivative of its gradient along v.

    `kl_fn(params)` [] has its minimum 0 at `params`, where its Hessian is the Fisher matrix; v is like `params`.
    """
    return jax.jvp(jax.grad(kl_fn), (params,), (vector,))[1]


class _Trial(NamedTuple):
    """One point of the line search; scalars."""

    accepted: Array
    fraction: Array
    kl: Array
    improvement: Array


def _line_search(try_fraction: Callable[[Array], _Trial], delta: Array | float, backtracks: int) -> _Trial:
    """The first accepted trial of at most 1 + `backtracks`, from the full step down; else the last, not accepted."""

    def shorter(trial: _Trial) -> Array:
        # Too far: to where a parabola through the KL just measured is δ, which keeps the KL within a few percent of δ;
        # halving would leave a quarter of it. Much too far, or no gain: half.
        to_boundary = jnp.clip(jnp.sqrt(delta / trial.kl), 0.5, 0.99)
        return trial.fraction * jnp.where(trial.kl > delta, to_boundary, 0.5)

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
    """Trust-region step (6): maximise the surrogate subject to mean KL(old ‖ new) ≤ δ.

    Direction x = (F + damping)⁻¹ g by conjugate gradients; full step √(2δ / xᵀFx)·x, to which the quadratic model
    gives a KL of δ. A line search shortens it until the surrogate has grown and KL ≤ δ, at most `backtracks` times;
    failing that, or with a gradient of 0 or NaN, the parameters come back bitwise unchanged.

    `surrogate_fn` and `kl_fn` map parameters to [], and `params` is the old policy that both refer to; δ in nats.
    Returns the new parameters and a TrpoInfo.
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
    curved = curvature > 0  # not so where the gradient is 0: then there is no scale and no step
    # F and not F + damping: with the latter the KL would fall short of δ by whatever the damping adds.
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


def natural_step(replay: Callable[[Tree], tuple], params: Tree, advantage: Array, h: Any) -> Tree:
    """The TRPO step (6) from π_old on a whole batch: mean(r Â) + ent_coef · mean(H), with h.trpo_delta, h.trpo_damping.

    replay(params) -> (ratio, KL(old ‖ new), entropy, ...), each like `advantage` [L, M]. Returns the new parameters.
    """

    def surrogate(params: Tree) -> Array:
        ratio, _, entropy, *_ = replay(params)
        return (ratio * advantage + h.ent_coef * entropy).mean()

    return trpo_step(params, surrogate, lambda p: replay(p)[1].mean(), h.trpo_delta, h.trpo_damping)[0]
