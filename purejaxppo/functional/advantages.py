"""Advantages and value targets: TD residual (9), GAE (10), Monte-Carlo, n-step and TD(λ) targets.

Arrays are time-major, [T, ...] with any further axes (usually [T, N]); flags are boolean. Episodes end in two ways:

* `terminated[t]`: the MDP ended with step t. V(s'_t) counts as 0.
* `truncated[t]`: the episode was cut off at step t. s'_t has a value, but row t + 1 belongs to another episode.

If both flags are set, `terminated` wins. `next_values[t]` is V(s'_t), where s'_t is the state after step t, before any
reset; in the last row it is the bootstrap value of the segment. All results are constants to differentiation.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax


def zero_where(flag: Array, x: Array) -> Array:
    """Return 0 where `flag` is set, else x; a NaN in x does not pass the flag, as it would through a product."""
    return jnp.where(flag, jnp.zeros_like(x), x)


# Next-state values ---------------------------------------------------------------------------------------------------


def next_state_values(
    values: Array, last_values: Array, truncated: Array, final_value: Callable[[Array], Array]
) -> Array:
    """Return V(s'_t) of the state after each step, before any reset (9, C1).

    V(s'_t) = V(s_{t+1}) unless an episode ended at t. At a truncation the next row holds the first state of another
    episode, so V(s'_t) is computed by `final_value`. After a termination the result has no meaning and is not
    used. Pardo et al. (2018), "Time limits in reinforcement learning", arXiv:1712.00378.

    `final_value` is called in a loop. The number of iterations is the largest number of truncations in one environment,
    so under a long time limit the loop costs one evaluation of [N] states at most, not of [T, N].

    Args:
        values: V(s_t), [T, N].
        last_values: V of the state after the rollout, [1, N].
        truncated: steps that were truncated and not terminated, [T, N] bool.
        final_value: maps one step t of each environment, [N] int32, to V(s'_t), [N].

    Returns:
        V(s'_t), [T, N].
    """
    steps = jnp.arange(len(values))[:, None]

    def fill_one_step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        remaining, next_values = carry
        t = jnp.argmax(remaining, axis=0)  # the first remaining truncation of each environment, or 0
        # A mask instead of a scatter needs no communication between devices that share the environments.
        here = remaining & (steps == t[None])
        return remaining & ~here, jnp.where(here, final_value(t)[None], next_values)

    start = (truncated, jnp.concatenate([values[1:], last_values]))
    return lax.while_loop(lambda carry: carry[0].any(), fill_one_step, start)[1]


# Advantages ----------------------------------------------------------------------------------------------------------


def td_residuals(rewards: Array, values: Array, next_values: Array, terminated: Array, gamma: Array | float) -> Array:
    """Return the TD residual (9): δ_t = r_t + γ (1 − terminated_t) V(s'_t) − V(s_t).

    Sutton (1988), "Learning to predict by the methods of temporal differences"; Schulman et al. (2016),
    arXiv:1506.02438.

    Args:
        rewards: r_t, [T, ...].
        values: V(s_t), [T, ...].
        next_values: V(s'_t), [T, ...].
        terminated: [T, ...] bool.
        gamma: discount γ, [].

    Returns:
        δ_t, [T, ...], in units of reward; no gradient.
    """
    return lax.stop_gradient(rewards + gamma * zero_where(terminated, next_values) - values)


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    gamma: Array | float,
    gae_lambda: Array | float,
) -> Array:
    """Return generalized advantage estimates (10): Â_t = δ_t + γλ (1 − (terminated_t ∨ truncated_t)) Â_{t+1}, Â_T = 0.

    This equals Σ_l (γλ)^l δ_{t+l} up to the end of the episode or of the segment, computed by one reverse scan.
    Schulman et al. (2016), arXiv:1506.02438.

    Args:
        rewards: r_t, [T, ...].
        values: V(s_t), [T, ...].
        next_values: V(s'_t), [T, ...].
        terminated: [T, ...] bool.
        truncated: [T, ...] bool.
        gamma: discount γ, [].
        gae_lambda: decay λ of the trace, [].

    Returns:
        Â_t, [T, ...], in units of reward; no gradient.
    """
    deltas = td_residuals(rewards, values, next_values, terminated, gamma)
    decay = jnp.asarray(gamma * gae_lambda, deltas.dtype)

    def step(later: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, done = row
        advantage = delta + decay * zero_where(done, later)
        return advantage, advantage

    _, advantages = lax.scan(step, jnp.zeros_like(deltas[0]), (deltas, terminated | truncated), reverse=True)
    return lax.stop_gradient(advantages)


def normalize_advantages(advantages: Array, mask: Array | None = None, eps: float = 1e-8) -> Array:
    """Return advantages with mean 0 and population standard deviation 1: (Â − mean) / (std + eps).

    Use the result in the policy surrogate only. Value targets are made from the raw advantages (E7). Equal advantages
    become 0. Huang et al. (2022), "The 37 Implementation Details of Proximal Policy Optimization", detail 7.

    Args:
        advantages: Â, any shape.
        mask: samples that count, bool, same shape; all of them by default. The others become exactly 0 and enter
            neither the mean nor the deviation.
        eps: added to the deviation.

    Returns:
        Normalized advantages, same shape, without unit; no gradient.
    """

    def mean(x: Array) -> Array:
        if mask is None:
            return jnp.mean(x)
        return jnp.sum(zero_where(~mask, x)) / jnp.maximum(jnp.sum(mask, dtype=x.dtype), 1.0)

    # The mean of equal values has a rounding error, which the division by the deviation would blow up to order 1.
    # A second pass removes it.
    centered = advantages - mean(advantages)
    centered = centered - mean(centered)
    normalized = lax.stop_gradient(centered / (jnp.sqrt(mean(jnp.square(centered))) + eps))
    return normalized if mask is None else zero_where(~mask, normalized)


# Value targets -------------------------------------------------------------------------------------------------------


def monte_carlo_targets(
    rewards: Array, next_values: Array, terminated: Array, truncated: Array, gamma: Array | float
) -> Array:
    """Return Monte-Carlo targets: R̂_t = Σ_{l<L} γ^l r_{t+l}, plus γ^L V(s'_{t+L−1}) unless the episode terminated.

    L is the number of steps from t to the end of the episode or of the segment. The result equals
    `td_lambda_targets` with λ = 1 (C3). Sutton & Barto (2018), "Reinforcement Learning", chapter 5.

    The arguments are those of `gae`.

    Returns:
        R̂_t, [T, ...], in units of reward; no gradient.
    """
    gamma = jnp.asarray(gamma, rewards.dtype)

    def step(later: Array, row: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        reward, next_value, ended, cut_off = row
        target = reward + gamma * zero_where(ended, jnp.where(cut_off, next_value, later))
        return target, target

    rows = (rewards, next_values, terminated, truncated)
    _, targets = lax.scan(step, next_values[-1], rows, reverse=True)
    return lax.stop_gradient(targets)


def n_step_targets(
    rewards: Array, next_values: Array, terminated: Array, truncated: Array, gamma: Array | float, n: int
) -> Array:
    """Return n-step targets: R̂_t = Σ_{l<n} γ^l r_{t+l} + γ^n V(s'_{t+n−1}).

    There are fewer than n steps if the episode or the segment ends first, and no V after a termination. Going from k to
    k + 1 steps is one shift in time, so the cost is O(nT). Sutton & Barto (2018), "Reinforcement Learning", chapter 7.

    The arguments are those of `gae`, and the number of steps n, static and at least 1.

    Returns:
        R̂_t, [T, ...], in units of reward; no gradient.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")

    def add_one_step(_: Array, shorter: Array) -> Array:
        # Row t continues with the shorter return of row t + 1; the last row continues with its bootstrap value.
        later = jnp.concatenate([shorter[1:], next_values[-1:]])
        return rewards + gamma * zero_where(terminated, jnp.where(truncated, next_values, later))

    one_step = rewards + gamma * zero_where(terminated, next_values)
    return lax.stop_gradient(lax.fori_loop(1, min(n, rewards.shape[0]), add_one_step, one_step))


def td_lambda_targets(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    gamma: Array | float,
    lam: Array | float,
) -> Array:
    """Return TD(λ) targets, the λ-return: R̂_t = Â_t^GAE(γ, λ) + V(s_t).

    Sutton (1988), "Learning to predict by the methods of temporal differences"; Schulman et al. (2016),
    arXiv:1506.02438.

    The arguments are those of `gae`; `lam` is the λ of the targets.

    Returns:
        R̂_t, [T, ...], in units of reward; no gradient.
    """
    advantages = gae(rewards, values, next_values, terminated, truncated, gamma, lam)
    return lax.stop_gradient(advantages + values)
