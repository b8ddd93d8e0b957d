"""What the derivation predicts of an update, and what came of it. Off by default: `Config(diagnostics=True)`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Diagnostics(NamedTuple):
    """One iteration, float32 scalars. Rewards are those of the targets, so scaled ones where `scale_rewards` is on."""

    surrogate_before: Array  # L^CPI(θ_old) = mean Â, reward per step; 0 if the values were exact
    surrogate_after: Array  # L^CPI(θ) = mean r Â (5) on the same batch
    predicted_improvement: Array  # their difference, of this update
    realised_improvement: Array  # of the update before: mean reward per step now less then; NaN in the first
    tv_mean: Array  # mean total variation between π_old and π, estimated by ½ mean |r - 1|
    kl_max: Array  # largest exact KL(π_old || π) of the batch
    tv_max_bound: Array  # largest total variation is at most this: √(kl_max / 2), Pinsker
    lower_bound: Array  # on J(π) - J(π_old): predicted / (1-γ) - C kl_max, C = 4 e γ / (1-γ)², e = max |Â| (C9)


def improvement(
    ratio: Array, kl: Array, advantage: Array, rewards: Array, last_reward: Array, gamma: Any
) -> Diagnostics:
    """Diagnostics from the whole batch after the update.

    ratio, kl, advantage [L, M]: r (4) and exact KL of the new policy, Â (10) before normalisation; rewards [T, N] of
    this rollout; last_reward []: their mean in the rollout before. The prediction is first-order and per step: it
    holds the states where the old policy put them (E5). The bound holds for exact advantages and is loose.
    """
    before, after = jnp.mean(advantage), jnp.mean(ratio * advantage)
    kl_max = jnp.max(kl)
    penalty = 4.0 * jnp.max(jnp.abs(advantage)) * gamma / (1.0 - gamma) ** 2
    return Diagnostics(
        surrogate_before=before,
        surrogate_after=after,
        predicted_improvement=after - before,
        realised_improvement=jnp.mean(rewards) - last_reward,
        tv_mean=0.5 * jnp.mean(jnp.abs(ratio - 1.0)),
        kl_max=kl_max,
        tv_max_bound=jnp.minimum(jnp.sqrt(kl_max / 2.0), 1.0),
        lower_bound=(after - before) / (1.0 - gamma) - penalty * kl_max,
    )
