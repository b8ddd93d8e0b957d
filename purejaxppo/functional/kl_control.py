"""KL-driven controls: adaptive penalty β (8), learning rate, clip range and early stop."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from purejaxppo._util.trees import Tree

BETA_RANGE = (1e-6, 1e6)

LR_SCALE_RANGE = (1e-2, 1e1)

CLIP_SCALE_RANGE = (1e-1, 2.0)


class Control(NamedTuple):
    """State of the KL-driven controls; float32 scalars."""

    beta: Array  # [] weight of the KL penalty (8), in use where beta_target_kl is finite
    lr_scale: Array  # [] factor on the learning rate
    clip_scale: Array  # [] factor on the clip range


def init_control(h: Any) -> Control:
    """The controls at the start of a run: β = h.beta, both factors 1."""
    one = jnp.ones((), jnp.float32)
    return Control(beta=jnp.asarray(h.beta, jnp.float32), lr_scale=one, clip_scale=one)


def adaptive_beta(beta: Array, kl: Array | float, target: Array | float) -> Array:
    """Adaptive penalty of (8): 2β where KL > 1.5 target, β/2 where KL < target/1.5, else β.

    To be called once per iteration with the mean KL(π_old ‖ π) of the whole batch after the update. Scalars, KL
    in nats; returns []. An infinite target or a NaN KL leaves β bitwise unchanged; a changed β is in `BETA_RANGE`.
    """
    return _adapt(beta, kl > 1.5 * target, kl < target / 1.5, target, 2.0, BETA_RANGE)


def adaptive_scale(scale: Array, kl: Array | float, target: Array | float, low: float, high: float) -> Array:
    """KL-driven factor (section 1.10): scale/1.5 where KL > 2 target, 1.5 scale where KL < target/2, else scale.

    Scalars, KL in nats; returns [], a changed factor within [low, high]. An infinite target or a NaN KL leaves
    the factor bitwise unchanged.
    """
    return _adapt(scale, kl < target / 2.0, kl > 2.0 * target, target, 1.5, (low, high))


def _adapt(x: Array, up: Any, down: Any, target: Array | float, factor: float, bounds: tuple[float, float]) -> Array:
    """x·factor where `up`, x/factor where `down`, both within the bounds; x where neither or where target is inf."""
    up, down = jnp.asarray(up), jnp.asarray(down)
    moved = jnp.clip(jnp.where(up, x * factor, x / factor), *bounds)
    return jnp.where(jnp.isfinite(target) & (up | down), moved, x)


def update_control(control: Control, kl: Array | float, h: Any) -> Control:
    """The controls after an iteration whose mean KL(π_old ‖ π) [] was `kl`, in nats.

    Targets are h.beta_target_kl, h.lr_target_kl and h.clip_target_kl; an infinite one leaves its number as it was.
    """
    return Control(
        beta=adaptive_beta(control.beta, kl, h.beta_target_kl),
        lr_scale=adaptive_scale(control.lr_scale, kl, h.lr_target_kl, *LR_SCALE_RANGE),
        clip_scale=adaptive_scale(control.clip_scale, kl, h.clip_target_kl, *CLIP_SCALE_RANGE),
    )


def apply_control(control: Control, h: Tree) -> Tree:
    """`h` as this iteration uses it: learning_rate and clip_eps times their factors, beta adapted where that is on."""
    hyper: Any = h
    adaptive = jnp.isfinite(hyper.beta_target_kl)
    return hyper._replace(
        beta=jnp.where(adaptive, control.beta, jnp.asarray(hyper.beta, control.beta.dtype)),
        learning_rate=hyper.learning_rate * control.lr_scale,
        clip_eps=hyper.clip_eps * control.clip_scale,
    )


def should_stop(stopped: Array, kl: Array | float, target_kl: Array | float) -> Array:
    """KL early stop (section 1.10): once KL > κ, stopped for the rest of the iteration; κ = inf never stops.

    `stopped` [] bool, KL and κ [] in nats; returns [] bool.
    """
    return stopped | (kl > target_kl)
