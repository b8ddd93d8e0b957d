"""Advantages and value targets: TD residual (9), GAE (10), Monte-Carlo, n-step and TD(λ) targets.

Arrays are time-major, [T, ...] with any number of further axes (usually [T, N]); flags are boolean. Two kinds
of ending are kept apart. `terminated[t]`: the MDP ended with step t, nothing follows, V(s'_t) counts as 0.
`truncated[t]`: the clock ran out, s'_t has a value but the next row belongs to another episode. Where both are
set, terminated wins. `next_values[t]` is V(s'_t) of the state that step t led to, *before* any reset; in the
last row it is also what bootstraps the cut segment. Everything returned is a constant to differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def zero_where(flag: Array, x: Array) -> Array:
    """0 where `flag`, else x; selecting, not multiplying, so that a NaN behind the end of an episode stays there."""
    return jnp.where(flag, jnp.zeros_like(x), x)


def td_residuals(rewards: Array, values: Array, next_values: Array, terminated: Array, gamma: Array | float) -> Array:
    """TD residual (9): δ_t = r_t + γ (1 − terminated_t) V(s'_t) − V(s_t).

    All arrays [T, ...]; returns [T, ...], in units of reward, without gradient.
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
    """Generalised advantage estimate (10): Â_t = δ_t + γλ (1 − (terminated_t ∨ truncated_t)) Â_{t+1}, Â_T = 0.

    Equal to Σ_l (γλ)^l δ_{t+l} up to the end of the episode or of the segment, by one reverse scan.
    All arrays [T, ...]; returns [T, ...], in units of reward, without gradient.
    """
    deltas = td_residuals(rewards, values, next_values, terminated, gamma)
    decay = jnp.asarray(gamma * gae_lambda, deltas.dtype)

    def step(later: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, done = row
        advantage = delta + decay * zero_where(done, later)
        return advantage, advantage

    _, advantages = lax.scan(step, jnp.zeros_like(deltas[0]), (deltas, terminated | truncated), reverse=True)
    return lax.stop_gradient(advantages)


def monte_carlo_targets(
    rewards: Array, next_values: Array, terminated: Array, truncated: Array, gamma: Array | float
) -> Array:
    """Monte-Carlo targets: R̂_t = Σ_{l<L} γ^l r_{t+l} to the episode's end, plus γ^L V(s'_{t+L−1}) at a cut.

    A cut is a truncation or the end of the segment; a termination adds nothing. Equal to `td_lambda_targets`
    with λ = 1. All arrays [T, ...]; returns [T, ...], in units of reward, without gradient.
    """
    gamma = jnp.asarray(gamma, rewards.dtype)

    def step(later: Array, row: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        reward, next_value, ended, cut = row
        target = reward + gamma * zero_where(ended, jnp.where(cut, next_value, later))
        return target, target

    rows = (rewards, next_values, terminated, truncated)
    _, targets = lax.scan(step, next_values[-1], rows, reverse=True)
    return lax.stop_gradient(targets)


def n_step_targets(
    rewards: Array, next_values: Array, terminated: Array, truncated: Array, gamma: Array | float, n: int
) -> Array:
    """n-step targets: R̂_t = Σ_{l<n} γ^l r_{t+l} + γ^n V(s'_{t+n−1}), fewer where episode or segment end first.

    All arrays [T, ...], n ≥ 1 static; returns [T, ...], in units of reward, without gradient. From k to k + 1
    steps is one shift in time, so the cost is O(nT). Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")

    def one_step_more(_: Any, shorter: Array) -> Array:
        # Row t continues with the shorter return of row t + 1; the last row with its own bootstrap value.
        later = jnp.concatenate([shorter[1:], next_values[-1:]])
        return rewards + gamma * zero_where(terminated, jnp.where(truncated, next_values, later))

    one_step = rewards + gamma * zero_where(terminated, next_values)
    return lax.stop_gradient(lax.fori_loop(1, min(n, rewards.shape[0]), one_step_more, one_step))


def td_lambda_targets(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    gamma: Array | float,
    lam: Array | float,
) -> Array:
    """TD(λ) targets, the λ-return: R̂_t = Â_t^GAE(γ, λ) + V(s_t).

    All arrays [T, ...]; returns [T, ...], in units of reward, without gradient.
    """
    advantages = gae(rewards, values, next_values, terminated, truncated, gamma, lam)
    return lax.stop_gradient(advantages + values)


def normalize_advantages(advantages: Array, eps: float = 1e-8) -> Array:
    """Zero mean and unit population standard deviation over all elements: (Â − mean) / (std + eps).

    Any shape; returns the same shape, without unit and without gradient. Equal advantages give 0. Only for the
    copy that enters the surrogate: value targets are made from the raw advantages.
    """
    # The mean of equal numbers is rounded; what it leaves would be divided by its own size. A second pass removes it.
    centred = advantages - jnp.mean(advantages)
    centred = centred - jnp.mean(centred)
    return lax.stop_gradient(centred / (jnp.sqrt(jnp.mean(jnp.square(centred))) + eps))


def _gae(
    rewards: Array, values: Array, next_values: Array, terminated: Array, truncated: Array, h: Any, n_step: int
) -> tuple[Array, Array]:
    """GAE advantages and R̂ = Â + V."""
    advantages = gae(rewards, values, next_values, terminated, truncated, h.gamma, h.gae_lambda)
    return advantages, lax.stop_gradient(advantages + values)


def _monte_carlo(
    rewards: Array, values: Array, next_values: Array, terminated: Array, truncated: Array, h: Any, n_step: int
) -> tuple[Array, Array]:
    """GAE advantages and Monte-Carlo targets."""
    advantages = gae(rewards, values, next_values, terminated, truncated, h.gamma, h.gae_lambda)
    return advantages, monte_carlo_targets(rewards, next_values, terminated, truncated, h.gamma)


def _n_step(
    rewards: Array, values: Array, next_values: Array, terminated: Array, truncated: Array, h: Any, n_step: int
) -> tuple[Array, Array]:
    """GAE advantages and n-step targets."""
    advantages = gae(rewards, values, next_values, terminated, truncated, h.gamma, h.gae_lambda)
    return advantages, n_step_targets(rewards, next_values, terminated, truncated, h.gamma, n_step)


def _td_lambda(
    rewards: Array, values: Array, next_values: Array, terminated: Array, truncated: Array, h: Any, n_step: int
) -> tuple[Array, Array]:
    """GAE advantages and TD(λ) targets, which have a λ of their own."""
    rows = (rewards, values, next_values, terminated, truncated)
    return gae(*rows, h.gamma, h.gae_lambda), td_lambda_targets(*rows, h.gamma, h.value_lambda)


TargetFn = Callable[[Array, Array, Array, Array, Array, Any, int], tuple[Array, Array]]

"""(rewards, values, next_values, terminated, truncated, h, n_step) to (advantages, targets), arrays [T, ...]."""


TARGETS: dict[str, TargetFn] = {
    "gae": _gae,
    "monte_carlo": _monte_carlo,
    "n_step": _n_step,
    "td_lambda": _td_lambda,
}

"""Value targets by name; the advantages are GAE(h.gamma, h.gae_lambda) under each of them."""


Array = jax.Array


def next_state_values(values: Array, last: Array, truncated: Array, final_value: Callable[[Array], Array]) -> Array:
    """V(s'_t), [T, N], s'_t the state that step t led to, before any reset (9, C1).

    values [T, N] is V(s_t), last [1, N] is V of the state after the rollout. V(s'_t) = V(s_{t+1}) wherever no
    episode ended; truncated [T, N] marks the steps where the state was reset away although it has a future.
    final_value(t), t [N] -> [N], gives V(s'_t) of one step of each environment. It is called in a loop that
    turns as often as the most truncated environment was truncated: under a long time limit not at all or once,
    instead of T * N rows in every iteration. After a termination V(s'_t) is meaningless and not used.
    """
    steps = jnp.arange(len(values))[:, None]

    def one_step_each(loop: tuple[Array, Array]) -> tuple[Array, Array]:
        left, next_values = loop
        t = jnp.argmax(left, axis=0)  # the first truncation left; 0 where there is none
        here = left & (steps == t[None])  # a mask and no scatter: devices that share the environments need not talk
        return left & ~here, jnp.where(here, final_value(t)[None], next_values)

    start = (truncated, jnp.concatenate([values[1:], last]))
    return jax.lax.while_loop(lambda loop: loop[0].any(), one_step_each, start)[1]
