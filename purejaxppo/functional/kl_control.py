"""KL-driven controls (1.10): adaptive penalty β (8), factors on learning rate and clip range, and the early stop.

Each control has a target in nats, and an infinite target switches it off. Nothing here branches, so under `vmap` each
run has its own controls.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

# Bounds of adaptive β. Doubling cannot recover from β = 0.
BETA_RANGE = (1e-6, 1e6)

# Bounds of the factor on the learning rate.
LR_SCALE_RANGE = (1e-2, 1e1)

# Bounds of the factor on the clip range.
CLIP_SCALE_RANGE = (1e-1, 2.0)


class Control(NamedTuple):
    """State of the KL-driven controls; float32 scalars."""

    beta: Array  # [] weight of the KL penalty (8), used if beta_target_kl is finite
    lr_scale: Array  # [] factor on the learning rate
    clip_scale: Array  # [] factor on the clip range


def adaptive_beta(beta: Array, kl: Array | float, target: Array | float) -> Array:
    """Return the adapted penalty of (8): 2β if KL > 1.5 target, β/2 if KL < target/1.5, else β (C7).

    Call it once per iteration, after the update. Schulman et al. (2017), arXiv:1707.06347, section 4.

    Args:
        beta: β, [].
        kl: mean KL(π_old ‖ π) of the whole batch in nats, []; a NaN leaves β bitwise unchanged.
        target: KL to aim at, []; infinity leaves β bitwise unchanged.

    Returns:
        β, [], within `BETA_RANGE` if it was changed.
    """
    return _adapt(beta, kl > 1.5 * target, kl < target / 1.5, target, 2.0, BETA_RANGE)


def adaptive_scale(scale: Array, kl: Array | float, target: Array | float, low: float, high: float) -> Array:
    """Return an adapted factor (1.10): scale/1.5 if KL > 2 target, 1.5 scale if KL < target/2, else scale.

    An adaptive learning rate of this form is in Schulman et al. (2017), arXiv:1707.06347, section 6.

    Args:
        scale: the factor, [].
        kl: mean KL(π_old ‖ π) of the whole batch in nats, []; a NaN leaves the factor bitwise unchanged.
        target: KL to aim at, []; infinity leaves the factor bitwise unchanged.
        low: lower bound of a changed factor.
        high: upper bound of a changed factor.

    Returns:
        The factor, [].
    """
    return _adapt(scale, kl < target / 2.0, kl > 2.0 * target, target, 1.5, (low, high))


def _adapt(
    x: Array, up: Array | bool, down: Array | bool, target: Array | float, factor: float, bounds: tuple[float, float]
) -> Array:
    """Return x·factor if `up`, x/factor if `down`, both within the bounds; x if neither, or if the target is inf."""
    up, down = jnp.asarray(up), jnp.asarray(down)
    moved = jnp.clip(jnp.where(up, x * factor, x / factor), *bounds)
    return jnp.where(jnp.isfinite(target) & (up | down), moved, x)


def should_stop(stopped: Array, kl: Array | float, target_kl: Array | float) -> Array:
    """Return whether the early stop of an update is in force (1.10): from KL > κ on, until the next rollout.

    Achiam (2018), "Spinning Up in Deep Reinforcement Learning", stops its epochs by the same rule.

    Args:
        stopped: whether it was in force before, [] bool.
        kl: mean KL(π_old ‖ π) of the minibatch in nats, [].
        target_kl: κ, []; infinity never stops.

    Returns:
        [] bool.
    """
    return stopped | (kl > target_kl)
