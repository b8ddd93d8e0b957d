"""Ratio (4), policy surrogates (5) (7) (8), value loss (11), entropy (12), total loss (13) and KL estimators.

Arrays are per sample, [B] or any one shape; the mean over samples is taken once, in `total_loss`. Surrogates are
to be maximised, losses to be minimised. What was recorded in the rollout (old log-probabilities, advantages,
targets, old values) is a constant to differentiation.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

MAX_LOG_RATIO = 20.0

"""Bound of |log w|: beyond it the ratio says nothing, and exp would overflow at 88."""


def importance_ratio(log_prob: Array, old_log_prob: Array) -> Array:
    """Importance ratio (4): w = π(a|s) / π_old(a|s) = exp(log π − log π_old), the logarithm clamped to ±20.

    Both [B]; returns [B].
    """
    log_ratio = log_prob - lax.stop_gradient(old_log_prob)
    return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def _weighted(ratio: Array, advantage: Array) -> Array:
    """w·A, and 0 where A = 0 whatever w is: inf·0 would be NaN."""
    nothing = advantage == 0
    return jnp.where(nothing, jnp.ones_like(ratio), ratio) * advantage


def cpi_surrogate(ratio: Array, advantage: Array) -> Array:
    """Conservative-policy-iteration surrogate (5) per sample: w·Â.

    Both [B]; returns [B], to be maximised. Â = 0 gives 0 for every w, infinity too.
    """
    return _weighted(ratio, lax.stop_gradient(advantage))


def clipped_surrogate(
    ratio: Array,
    advantage: Array,
    clip_eps: Array | float,
    clip_eps_high: Array | float | None = None,
    dual_clip: Array | float = jnp.inf,
) -> Array:
    """Clipped surrogate (7) per sample: min(w·Â, clip(w, 1 − ε, 1 + ε)·Â).

    That is min(w, 1 + ε)·Â for Â > 0, max(w, 1 − ε)·Â for Â < 0, and 0 for Â = 0. `clip_eps_high` is an ε of its
    own for the upper bound. `dual_clip` c > 1 keeps the term of Â < 0 at or above c·Â; infinity means off.
    Ratio and advantage [B]; returns [B], to be maximised. On the bounds themselves the gradient passes.
    """
    advantage = lax.stop_gradient(advantage)
    low = 1.0 - clip_eps
    high = 1.0 + (clip_eps if clip_eps_high is None else clip_eps_high)
    # where() and not minimum(): the latter halves the gradient at equality, and both keep a NaN a NaN.
    at_most_high = jnp.where(ratio > high, high, ratio)
    at_least_low = jnp.where(ratio < low, low, ratio)
    in_dual = jnp.where(at_least_low > dual_clip, dual_clip, at_least_low)
    return _weighted(jnp.where(advantage > 0, at_most_high, in_dual), advantage)


def kl_penalized_surrogate(ratio: Array, advantage: Array, kl: Array, beta: Array | float) -> Array:
    """KL-penalised surrogate (8) per sample: w·Â − β KL(π_old(·|s) ‖ π(·|s)).

    All [B], KL in nats; returns [B], to be maximised.
    """
    return cpi_surrogate(ratio, advantage) - beta * kl


def value_loss(value: Array, target: Array, old_value: Array, vf_clip_eps: Array | float = jnp.inf) -> Array:
    """Value loss (11) per sample: (V − R̂)², without a factor of one half.

    With a finite `vf_clip_eps` c it is max((V − R̂)², (V_old + clip(V − V_old, −c, c) − R̂)²); infinity means off,
    bitwise. All [B]; returns [B], in squared units of reward, to be minimised.
    """
    target, old_value = lax.stop_gradient((target, old_value))
    move = value - old_value
    # Inside the range the value itself, not V_old + (V − V_old), which rounds; outside a constant, without gradient.
    clipped = jnp.where(jnp.abs(move) > vf_clip_eps, old_value + jnp.clip(move, -vf_clip_eps, vf_clip_eps), value)
    loss, clipped_loss = jnp.square(value - target), jnp.square(clipped - target)
    return jnp.where(clipped_loss > loss, clipped_loss, loss)


def entropy_bonus(entropy: Array) -> Array:
    """Entropy bonus (12): L^ENT = E_t[H(π(·|s_t))], the mean of the entropies [B] in nats; returns []."""
    return jnp.mean(entropy)


def total_loss(
    surrogate: Array, value_loss: Array, entropy: Array, vf_coef: Array | float, ent_coef: Array | float
) -> Array:
    """Total loss (13): 𝒞 = −E_t[L] + c_v E_t[(V − R̂)²] − c_ent E_t[H], to be minimised.

    Surrogate, value loss and entropy per sample, [B]; returns []. c_v multiplies the mean square, not its half.
    """
    return -jnp.mean(surrogate) + vf_coef * jnp.mean(value_loss) - ent_coef * entropy_bonus(entropy)


def kl_k1(log_ratio: Array) -> Array:
    """KL estimator k1 = −log w, per sample of π_old: unbiased for KL(π_old ‖ π), of either sign. [B], nats."""
    return -log_ratio


def kl_k2(log_ratio: Array) -> Array:
    """KL estimator k2 = (log w)²/2, per sample of π_old: never negative, but biased. [B], nats."""
    return 0.5 * jnp.square(log_ratio)


def kl_k3(log_ratio: Array) -> Array:
    """KL estimator k3 = w − 1 − log w, per sample of π_old: unbiased and never negative. [B], nats."""
    return jnp.expm1(log_ratio) - log_ratio


def _clip(ratio: Array, advantage: Array, kl: Array, h: Any) -> Array:
    """Clipped surrogate (7) with h.clip_eps, its upper bound widened by h.clip_asymmetry, and h.dual_clip."""
    return clipped_surrogate(ratio, advantage, h.clip_eps, h.clip_asymmetry * h.clip_eps, h.dual_clip)


def _kl(ratio: Array, advantage: Array, kl: Array, h: Any) -> Array:
    """KL-penalised surrogate (8) with h.beta."""
    return kl_penalized_surrogate(ratio, advantage, kl, h.beta)


def _cpi(ratio: Array, advantage: Array, kl: Array, h: Any) -> Array:
    """CPI surrogate (5)."""
    return cpi_surrogate(ratio, advantage)


def _none(ratio: Array, advantage: Array, kl: Array, h: Any) -> Array:
    """Nothing: the policy is moved by other means, as by TRPO."""
    return jnp.zeros_like(ratio)


Objective = Callable[[Array, Array, Array, Any], Array]

"""(ratio [B], advantage [B], kl [B], h) to the surrogate [B], to be maximised."""


OBJECTIVES: dict[str, Objective] = {"clip": _clip, "kl": _kl, "cpi": _cpi, "none": _none}

"""Policy objectives by name."""
