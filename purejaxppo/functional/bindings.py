"""The formulas of this folder bound to the fields of a `Hyperparams`: by name, as a run uses them.

This is the only module of the folder that reads settings. `OBJECTIVES` and `TARGETS` are the choices of
`Config.objective` and `Config.targets`; a function of the same signature can be passed to `make_ppo` instead.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import Array, lax

from purejaxppo._util.trees import Tree
from purejaxppo.functional.advantages import gae, monte_carlo_targets, n_step_targets, td_lambda_targets
from purejaxppo.functional.kl_control import (
    CLIP_SCALE_RANGE,
    LR_SCALE_RANGE,
    Control,
    adaptive_beta,
    adaptive_scale,
)
from purejaxppo.functional.objectives import clipped_surrogate, cpi_surrogate, kl_penalized_surrogate
from purejaxppo.functional.trpo import trpo_step

# A NamedTuple of traced numbers, in a run `purejaxppo.Hyperparams`; only the fields that a function names are read.
Hyperparams: TypeAlias = Any

# (ratio [B], advantage [B], kl [B], hyperparams) -> surrogate [B], to be maximized.
Objective: TypeAlias = Callable[[Array, Array, Array, Hyperparams], Array]

# (rewards, values, next_values, terminated, truncated, hyperparams, n_step) -> (advantages, targets), arrays [T, ...].
TargetFn: TypeAlias = Callable[[Array, Array, Array, Array, Array, Hyperparams, int], tuple[Array, Array]]


# Policy objectives ---------------------------------------------------------------------------------------------------


def clip_range(h: Hyperparams) -> tuple[Array, Array, Array]:
    """Return ε of the lower bound, ε of the upper bound and the dual clip of (7), as `clipped_surrogate` takes them."""
    return h.clip_eps, h.clip_asymmetry * h.clip_eps, h.dual_clip


def _clip(ratio: Array, advantage: Array, kl: Array, h: Hyperparams) -> Array:
    """Clipped surrogate (7)."""
    return clipped_surrogate(ratio, advantage, *clip_range(h))


def _kl(ratio: Array, advantage: Array, kl: Array, h: Hyperparams) -> Array:
    """KL-penalized surrogate (8)."""
    return kl_penalized_surrogate(ratio, advantage, kl, h.beta)


def _cpi(ratio: Array, advantage: Array, kl: Array, h: Hyperparams) -> Array:
    """CPI surrogate (5)."""
    return cpi_surrogate(ratio, advantage)


def _none(ratio: Array, advantage: Array, kl: Array, h: Hyperparams) -> Array:
    """No surrogate: the policy moves by other means, such as TRPO."""
    return jnp.zeros_like(ratio)


OBJECTIVES: dict[str, Objective] = {"clip": _clip, "kl": _kl, "cpi": _cpi, "none": _none}


# Advantages and value targets ----------------------------------------------------------------------------------------


def _gae(
    rewards: Array, values: Array, next_values: Array, terminated: Array, truncated: Array, h: Hyperparams, n_step: int
) -> tuple[Array, Array]:
    """GAE advantages and R̂ = Â + V."""
    advantages = gae(rewards, values, next_values, terminated, truncated, h.gamma, h.gae_lambda)
    return advantages, lax.stop_gradient(advantages + values)


def _monte_carlo(
    rewards: Array, values: Array, next_values: Array, terminated: Array, truncated: Array, h: Hyperparams, n_step: int
) -> tuple[Array, Array]:
    """GAE advantages and Monte-Carlo targets."""
    advantages = gae(rewards, values, next_values, terminated, truncated, h.gamma, h.gae_lambda)
    return advantages, monte_carlo_targets(rewards, next_values, terminated, truncated, h.gamma)


def _n_step(
    rewards: Array, values: Array, next_values: Array, terminated: Array, truncated: Array, h: Hyperparams, n_step: int
) -> tuple[Array, Array]:
    """GAE advantages and n-step targets."""
    advantages = gae(rewards, values, next_values, terminated, truncated, h.gamma, h.gae_lambda)
    return advantages, n_step_targets(rewards, next_values, terminated, truncated, h.gamma, n_step)


def _td_lambda(
    rewards: Array, values: Array, next_values: Array, terminated: Array, truncated: Array, h: Hyperparams, n_step: int
) -> tuple[Array, Array]:
    """GAE advantages with `gae_lambda`, TD(λ) targets with `value_lambda`."""
    rows = (rewards, values, next_values, terminated, truncated)
    return gae(*rows, h.gamma, h.gae_lambda), td_lambda_targets(*rows, h.gamma, h.value_lambda)


TARGETS: dict[str, TargetFn] = {
    "gae": _gae,
    "monte_carlo": _monte_carlo,
    "n_step": _n_step,
    "td_lambda": _td_lambda,
}


# KL-driven controls --------------------------------------------------------------------------------------------------


def init_control(h: Hyperparams) -> Control:
    """Return the controls at the start of a run: β = h.beta, both factors 1."""
    one = jnp.ones((), jnp.float32)
    return Control(beta=jnp.asarray(h.beta, jnp.float32), lr_scale=one, clip_scale=one)


def update_control(control: Control, kl: Array | float, h: Hyperparams) -> Control:
    """Return the controls after an iteration (1.10). Schulman et al. (2017), arXiv:1707.06347, sections 4 and 6.

    Args:
        control: the controls before.
        kl: mean KL(π_old ‖ π) of the whole batch after the update in nats, [].
        h: the targets `beta_target_kl`, `lr_target_kl` and `clip_target_kl`; an infinite one leaves its control as
            it was.
    """
    return Control(
        beta=adaptive_beta(control.beta, kl, h.beta_target_kl),
        lr_scale=adaptive_scale(control.lr_scale, kl, h.lr_target_kl, *LR_SCALE_RANGE),
        clip_scale=adaptive_scale(control.clip_scale, kl, h.clip_target_kl, *CLIP_SCALE_RANGE),
    )


def apply_control(control: Control, h: Hyperparams) -> Hyperparams:
    """Return the hyperparameters of an iteration: learning_rate and clip_eps scaled, adaptive β if it is on."""
    adaptive = jnp.isfinite(h.beta_target_kl)
    return h._replace(
        beta=jnp.where(adaptive, control.beta, jnp.asarray(h.beta, control.beta.dtype)),
        learning_rate=h.learning_rate * control.lr_scale,
        clip_eps=h.clip_eps * control.clip_scale,
    )


# Trust region --------------------------------------------------------------------------------------------------------


def natural_step(evaluate: Callable[[Tree], tuple], params: Tree, advantage: Array, h: Hyperparams) -> Tree:
    """Return the parameters after one TRPO step (6) on mean(w Â) + ent_coef · mean(H) of a whole batch.

    Schulman et al. (2015), arXiv:1502.05477.

    Args:
        evaluate: maps parameters to (ratio, KL(π_old ‖ π), entropy, ...), each [L, M].
        params: parameters of π_old.
        advantage: Â, [L, M].
        h: `ent_coef`, `trpo_delta` and `trpo_damping` are read.
    """

    def surrogate(params: Tree) -> Array:
        ratio, _, entropy, *_ = evaluate(params)
        return (ratio * advantage + h.ent_coef * entropy).mean()

    return trpo_step(params, surrogate, lambda p: evaluate(p)[1].mean(), h.trpo_delta, h.trpo_damping)[0]
