"""What the derivation predicts of an update, and what came of it. Off by default: `Config(diagnostics=True)`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.functional.trpo import bound_constant, improvement_bound

Array = jax.Array


class Diagnostics(NamedTuple):
    """One iteration, float32 scalars. Rewards are those of the targets, so scaled ones where `scale_rewards` is on."""

    surrogate_before: Array  # L^CPI(θ_old) = mean Â, reward per step; 0 if the values were exact
    surrogate_after: Array  # L^CPI(θ) = mean r Â (5) on the same batch
    predicted_improvement: Array  # their difference, of this update
    realised_improvement: Array  # of the update before, in the same unit; NaN in the first
    tv_mean: Array  # mean total variation between π_old and π, estimated by ½ mean |r - 1|
    kl_max: Array  # largest exact KL(π_old || π) of the batch
    tv_max_bound: Array  # largest total variation is at most this: √(kl_max / 2), Pinsker
    bound_constant: Array  # C = 4 e γ / (1-γ)², e = max |Â| (C9)
    lower_bound: Array  # on J(π) - J(π_old): predicted / (1-γ) - C kl_max; -inf where γ = 1


def mean_residual(rollout: Any, values: Array, next_values: Array, gamma: Any) -> Array:
    """Mean TD residual (9) of a rollout, r + γ V(s') - V(s), [].

    With V that of the policy before, and the rollout that of the policy after, it is (1-γ)(J(π) - J(π_old)), by the
    performance-difference lemma; less the same mean over the rollout of the policy before, most of what V is wrong by
    cancels.
    """
    return jnp.mean(rollout.reward + gamma * jnp.where(rollout.terminated, 0.0, next_values) - values)


def improvement(ratio: Array, kl: Array, advantage: Array, realised: Array, gamma: Any) -> Diagnostics:
    """Diagnostics from the whole batch after the update.

    ratio, kl, advantage [L, M]: r (4) and exact KL of the new policy, Â (10) before normalisation; realised []: the
    difference of two `mean_residual`, of one V and the rollouts before and after the last update. The prediction is
    first-order and per step: it holds the states where the old policy put them (E5). The bound holds for exact
    advantages and is loose.
    """
    before, after = jnp.mean(advantage), jnp.mean(ratio * advantage)
    kl_max, largest = jnp.max(kl), jnp.max(jnp.abs(advantage))
    bound = improvement_bound(after - before, kl_max, largest, gamma)
    return Diagnostics(
        surrogate_before=before,
        surrogate_after=after,
        predicted_improvement=after - before,
        realised_improvement=realised,
        tv_mean=0.5 * jnp.mean(jnp.abs(ratio - 1.0)),
        kl_max=kl_max,
        tv_max_bound=jnp.minimum(jnp.sqrt(kl_max / 2.0), 1.0),
        bound_constant=jnp.asarray(bound_constant(largest, gamma)),
        lower_bound=jnp.where(gamma < 1.0, bound, -jnp.inf),
    )
