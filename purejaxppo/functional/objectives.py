"""Ratio (4), policy surrogates (5) (7) (8), value loss (11), entropy (12), total loss (13) and KL estimators.

Arrays are per sample, [B] or any one shape; `total_loss` takes the mean over samples. Surrogates are maximized, losses
are minimized. Everything recorded in the rollout (old log-probabilities, advantages, targets, old values) is a constant
to differentiation.
"""

import jax.numpy as jnp
from jax import Array, lax

# Bound of |log w|. A ratio beyond it carries no information, and exp overflows at 88.
MAX_LOG_RATIO = 20.0


def importance_ratio(log_prob: Array, old_log_prob: Array) -> Array:
    """Return the importance ratio (4): w = π(a|s) / π_old(a|s) = exp(log π − log π_old), with |log w| ≤ 20.

    Schulman et al. (2017), arXiv:1707.06347.

    Args:
        log_prob: log π(a|s), [B].
        old_log_prob: log π_old(a|s), [B].

    Returns:
        w, [B].
    """
    log_ratio = log_prob - lax.stop_gradient(old_log_prob)
    return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def _weighted(ratio: Array, advantage: Array) -> Array:
    """Return w·A, and 0 where A = 0, also for an infinite w (inf·0 would be NaN)."""
    nothing = advantage == 0
    return jnp.where(nothing, jnp.ones_like(ratio), ratio) * advantage


# Policy surrogates ---------------------------------------------------------------------------------------------------


def cpi_surrogate(ratio: Array, advantage: Array) -> Array:
    """Return the surrogate of conservative policy iteration (5), per sample: w·Â.

    Kakade & Langford (2002), "Approximately optimal approximate reinforcement learning".

    Args:
        ratio: w, [B].
        advantage: Â, [B]; Â = 0 gives 0 for every w.

    Returns:
        Surrogate, [B], to be maximized.
    """
    return _weighted(ratio, lax.stop_gradient(advantage))


def clipped_surrogate(
    ratio: Array,
    advantage: Array,
    clip_eps: Array | float,
    clip_eps_high: Array | float | None = None,
    dual_clip: Array | float = jnp.inf,
) -> Array:
    """Return the clipped surrogate of PPO (7), per sample: min(w·Â, clip(w, 1 − ε, 1 + ε)·Â).

    By cases (E1): min(w, 1 + ε)·Â for Â > 0, max(w, 1 − ε)·Â for Â < 0, and 0 for Â = 0. At w = 1 ± ε the gradient
    passes. Schulman et al. (2017), arXiv:1707.06347; dual clip: Ye et al. (2020), arXiv:1912.09729.

    Args:
        ratio: w, [B].
        advantage: Â, [B].
        clip_eps: ε, [].
        clip_eps_high: ε of the upper bound, []; `clip_eps` by default.
        dual_clip: c > 1, [], keeps the surrogate of Â < 0 at or above c·Â; infinity: off.

    Returns:
        Surrogate, [B], to be maximized.
    """
    advantage = lax.stop_gradient(advantage)
    low = 1.0 - clip_eps
    high = 1.0 + (clip_eps if clip_eps_high is None else clip_eps_high)
    # where() instead of minimum(), which halves the gradient at equality. A NaN stays a NaN in both.
    at_most_high = jnp.where(ratio > high, high, ratio)
    at_least_low = jnp.where(ratio < low, low, ratio)
    in_dual = jnp.where(at_least_low > dual_clip, dual_clip, at_least_low)
    return _weighted(jnp.where(advantage > 0, at_most_high, in_dual), advantage)


def is_clipped(
    ratio: Array,
    advantage: Array,
    clip_eps: Array | float,
    clip_eps_high: Array | float | None = None,
    dual_clip: Array | float = jnp.inf,
) -> Array:
    """Return which samples have lost their gradient to the clip of (7).

    These are the samples with w > 1 + ε for Â > 0, and with w < 1 − ε or w > c for Â < 0. A sample with Â = 0 has no
    gradient to lose. The mean of the result is the clip fraction. Schulman et al. (2017), arXiv:1707.06347.

    The arguments are those of `clipped_surrogate`.

    Returns:
        [B] bool.
    """
    low = 1.0 - clip_eps
    high = 1.0 + (clip_eps if clip_eps_high is None else clip_eps_high)
    return jnp.where(advantage > 0, ratio > high, (advantage < 0) & ((ratio < low) | (ratio > dual_clip)))


def kl_penalized_surrogate(ratio: Array, advantage: Array, kl: Array, beta: Array | float) -> Array:
    """Return the KL-penalized surrogate (8), per sample: w·Â − β KL(π_old(·|s) ‖ π(·|s)).

    Schulman et al. (2017), arXiv:1707.06347.

    Args:
        ratio: w, [B].
        advantage: Â, [B].
        kl: KL(π_old(·|s) ‖ π(·|s)) in nats, [B].
        beta: β, [].

    Returns:
        Surrogate, [B], to be maximized.
    """
    return cpi_surrogate(ratio, advantage) - beta * kl


# Losses --------------------------------------------------------------------------------------------------------------


def value_loss(value: Array, target: Array, old_value: Array, vf_clip_eps: Array | float = jnp.inf) -> Array:
    """Return the value loss (11), per sample: (V − R̂)², without a factor of one half (C6).

    With a finite range c it is max((V − R̂)², (V_old + clip(V − V_old, −c, c) − R̂)²). Schulman et al. (2017),
    arXiv:1707.06347; the clipped form is that of their code, see Engstrom et al. (2020), arXiv:2005.12729.

    Args:
        value: V, [B].
        target: R̂, [B].
        old_value: V_old, [B].
        vf_clip_eps: c, []; infinity: off, bitwise.

    Returns:
        Loss, [B], in squared units of reward, to be minimized.
    """
    target, old_value = lax.stop_gradient((target, old_value))
    move = value - old_value
    # Inside the range this is V, not V_old + (V − V_old), which is rounded. Outside it is a constant without gradient.
    clipped = jnp.where(jnp.abs(move) > vf_clip_eps, old_value + jnp.clip(move, -vf_clip_eps, vf_clip_eps), value)
    loss, clipped_loss = jnp.square(value - target), jnp.square(clipped - target)
    return jnp.where(clipped_loss > loss, clipped_loss, loss)


def entropy_bonus(entropy: Array) -> Array:
    """Return the entropy bonus (12): L^ENT = E_t[H(π(·|s_t))].

    Williams & Peng (1991), "Function optimization using connectionist reinforcement learning algorithms"; Mnih et al.
    (2016), arXiv:1602.01783.

    Args:
        entropy: H in nats, [B].

    Returns:
        The mean, [].
    """
    return jnp.mean(entropy)


def total_loss(
    surrogate: Array, value_loss: Array, entropy: Array, vf_coef: Array | float, ent_coef: Array | float
) -> Array:
    """Return the total loss (13): 𝒞 = −E_t[L] + c_v E_t[(V − R̂)²] − c_ent E_t[H].

    c_v multiplies the mean square, not half of it (C6). Schulman et al. (2017), arXiv:1707.06347.

    Args:
        surrogate: L, [B].
        value_loss: (V − R̂)², [B].
        entropy: H in nats, [B].
        vf_coef: c_v, [].
        ent_coef: c_ent, [].

    Returns:
        Loss, [], to be minimized.
    """
    return -jnp.mean(surrogate) + vf_coef * jnp.mean(value_loss) - ent_coef * entropy_bonus(entropy)


# KL estimators -------------------------------------------------------------------------------------------------------


def kl_k1(log_ratio: Array) -> Array:
    """Return the KL estimator k1 = −log w, unbiased for KL(π_old ‖ π), of either sign (C8).

    Schulman (2020), "Approximating KL divergence".

    Args:
        log_ratio: log w = log π − log π_old at samples of π_old, [B].

    Returns:
        k1 in nats, [B].
    """
    return -log_ratio


def kl_k2(log_ratio: Array) -> Array:
    """Return the KL estimator k2 = (log w)²/2, biased and never negative (C8).

    Schulman (2020), "Approximating KL divergence". The argument is that of `kl_k1`.

    Returns:
        k2 in nats, [B].
    """
    return 0.5 * jnp.square(log_ratio)


def kl_k3(log_ratio: Array) -> Array:
    """Return the KL estimator k3 = w − 1 − log w, unbiased for KL(π_old ‖ π) and never negative (C8).

    Schulman (2020), "Approximating KL divergence". The argument is that of `kl_k1`.

    Returns:
        k3 in nats, [B].
    """
    return jnp.expm1(log_ratio) - log_ratio
