"""Diagnostics of an update: predicted and realized improvement, and the fit of the values.

The improvement diagnostics cost one more pass over the batch and are off by default: `Config(diagnostics=True)`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import PyTree
from purejaxppo.functional.advantages import td_residuals
from purejaxppo.functional.trpo import bound_constant, improvement_bound


def explained_variance(values: Array, targets: Array) -> Array:
    """Return the fraction of the targets' variance that the values explain: 1 − Var(R̂ − V) / Var(R̂).

    1 is a perfect fit up to a constant, 0 is as good as a constant, and negative is worse. For
    targets that do not vary the result is 0, whatever the values are. It is finite for finite arguments.

    Args:
        values: V(s_t), any shape.
        targets: R̂_t, same shape.

    Returns:
        [].
    """
    variance = jnp.var(targets)
    # The mean of equal values has a rounding error, so their variance need not be 0: compare the values themselves.
    varies = (jnp.max(targets) > jnp.min(targets)) & (variance > 0.0)
    unexplained = jnp.var(targets - values) / jnp.where(varies, variance, 1.0)
    # A NaN is an error, not a constant target, and must stay visible.
    return jnp.where(varies | jnp.isnan(variance), 1.0 - unexplained, 0.0)


class Diagnostics(NamedTuple):
    """Diagnostics of one iteration, float32 scalars. If rewards are scaled, so are those in units of reward."""

    surrogate_before: Array  # L^CPI(θ_old) = mean Â, reward per step; 0 if the values were exact
    surrogate_after: Array  # L^CPI(θ) = mean w Â (5) on the same batch
    predicted_improvement: Array  # surrogate_after − surrogate_before, of this update
    realized_improvement: Array  # of the previous update, in the same unit; 0 in the first iteration
    tv_mean: Array  # mean total variation of π_old and π, estimated by ½ mean |w − 1|
    kl_max: Array  # largest exact KL(π_old ‖ π) in the batch
    tv_max_bound: Array  # bound of the largest total variation: √(kl_max / 2), Pinsker's inequality
    bound_constant: Array  # C = 4 e γ / (1 − γ)², e = max |Â| (C9); inf if γ = 1
    lower_bound: Array  # of J(π) − J(π_old): predicted / (1 − γ) − C kl_max; −inf if γ = 1


def mean_residual(rollout: PyTree, values: Array, next_values: Array, gamma: Array | float) -> Array:
    """Return the mean TD residual (9) of a rollout, r + γ V(s') − V(s).

    If V is the value of π_old and π made the rollout, this is (1 − γ)(J(π) − J(π_old)), by the performance-difference
    lemma (E5) of Kakade & Langford (2002), "Approximately optimal approximate reinforcement learning". Subtracting the
    same mean over the rollout of π_old removes most of the error of V.

    Args:
        rollout: fields `reward` and `terminated`, [T, N].
        values: V(s_t), [T, N].
        next_values: V(s'_t), [T, N].
        gamma: discount γ, [].

    Returns:
        [], reward per step.
    """
    return jnp.mean(td_residuals(rollout.reward, values, next_values, rollout.terminated, gamma))


def improvement(ratio: Array, kl: Array, advantage: Array, realized: Array, gamma: Array | float) -> Diagnostics:
    """Return the improvement diagnostics of an iteration, from the whole batch after the update.

    The prediction is of first order: it keeps the states of the old policy (E5). The lower bound holds for exact
    advantages and the maximum over all states, and it is loose (C9). Kakade & Langford (2002); Schulman et al. (2015),
    arXiv:1502.05477, theorem 1.

    Args:
        ratio: w (4) under the new policy, [L, M].
        kl: exact KL(π_old ‖ π), [L, M].
        advantage: Â (10) before normalization, [L, M].
        realized: improvement by the previous update, []: the difference of two `mean_residual`, with the same V, of the
            rollouts after and before it.
        gamma: discount γ, [].
    """
    before, after = jnp.mean(advantage), jnp.mean(ratio * advantage)
    kl_max, largest = jnp.max(kl), jnp.max(jnp.abs(advantage))
    return Diagnostics(
        surrogate_before=before,
        surrogate_after=after,
        predicted_improvement=after - before,
        realized_improvement=realized,
        tv_mean=0.5 * jnp.mean(jnp.abs(ratio - 1.0)),
        kl_max=kl_max,
        tv_max_bound=jnp.minimum(jnp.sqrt(kl_max / 2.0), 1.0),
        bound_constant=bound_constant(largest, gamma),
        lower_bound=improvement_bound(after - before, kl_max, largest, gamma),
    )
