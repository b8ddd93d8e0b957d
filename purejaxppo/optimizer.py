"""The optimiser of every objective, made from traced numbers, so that a sweep over them is one program."""

from __future__ import annotations

from typing import Any

import jax
import optax

from purejaxppo.config.schema import Hyperparams


def optimizer(h: Hyperparams) -> optax.GradientTransformation:
    """Adam after a clip of the global gradient norm (not element by element).

    h.max_grad_norm = inf is no clipping. The state does not depend on `h`. It is meant for all parameters as one
    vector: a dozen small arrays would be a dozen times as many small operations.
    """
    return optax.chain(
        optax.clip_by_global_norm(h.max_grad_norm),
        optax.scale_by_adam(h.adam_b1, h.adam_b2, h.adam_eps),
        optax.scale(-h.learning_rate),
    )


def apply_gradients(h: Hyperparams, grads: jax.Array, opt_state: Any, params: jax.Array) -> tuple[jax.Array, Any]:
    """One step of `optimizer` -> (params, opt_state)."""
    # optax raises a traced decay to an integer count, which strict promotion (ours in tests, maybe yours) forbids
    with jax.numpy_dtype_promotion("standard"):
        moved: Any = optimizer(h).update(grads, opt_state, params)
    return params + moved[0], moved[1]
