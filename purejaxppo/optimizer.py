"""The default optimizer, built from traced hyperparameters, so that a sweep over them is one program."""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax import Array

from purejaxppo._util.aliases import OptState
from purejaxppo.config.schema import Hyperparams


def optimizer(h: Hyperparams) -> optax.GradientTransformation:
    """Return Adam after clipping by global norm.

    `max_grad_norm` = inf disables clipping. The structure of the state does not depend on `h`. The optimizer works on
    all parameters as one vector: a dozen small arrays would take a dozen times as many small operations.
    Kingma & Ba (2015), "Adam", arXiv:1412.6980; Pascanu et al. (2013), "On the difficulty of training recurrent neural
    networks", arXiv:1211.5063.
    """
    return optax.chain(
        optax.clip_by_global_norm(h.max_grad_norm),
        optax.scale_by_adam(h.adam_b1, h.adam_b2, h.adam_eps),
        optax.scale(-h.learning_rate),
    )


def apply_gradients(h: Hyperparams, grads: Array, opt_state: OptState, params: Array) -> tuple[Array, OptState]:
    """Take one step of `optimizer` and return the new parameters and state."""
    # optax raises a traced decay to an integer power, which strict dtype promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates: Any
        updates, opt_state = optimizer(h).update(grads, opt_state, params)
    return params + updates, opt_state
