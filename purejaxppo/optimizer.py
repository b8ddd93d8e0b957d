"""Optimizers, built from traced hyperparameters, so that a sweep over them is one program."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from purejaxppo._util.aliases import OptState, Params, PyTree
from purejaxppo._util.programs import is_tracing, jit_once
from purejaxppo._util.trees import all_finite, any_nan
from purejaxppo.config.schema import Hyperparams, sample_hyperparams

MakeOptimizer = Callable[[Hyperparams], optax.GradientTransformation]
"""(hyperparameters of the iteration, traced) -> a gradient transformation on the parameter tree."""


class Optimizer(NamedTuple):
    """A gradient step on the parameters as one vector [P]."""

    init: Callable[[Hyperparams, Params], OptState]
    step: Callable[..., tuple[Array, OptState]]
    # (h, gradient [P], opt_state, params [P], unravel) -> (params [P], opt_state)


def adam(h: Hyperparams) -> optax.GradientTransformation:
    """Return Adam after clipping by global norm; `max_grad_norm` = inf disables clipping.

    The structure of the state does not depend on `h`. Kingma & Ba (2015), "Adam", arXiv:1412.6980; Pascanu et al.
    (2013), "On the difficulty of training recurrent neural networks", arXiv:1211.5063.
    """
    return optax.chain(
        clip_by_global_norm(h.max_grad_norm),
        optax.scale_by_adam(h.adam_b1, h.adam_b2, h.adam_eps),
        optax.scale(-h.learning_rate),
    )


# A power of two, so that products with it are exact. The squares of the largest float32 numbers, in this unit, do not
# overflow in a sum of fewer than 10⁹.
SMALL_UNIT = 2.0**-80


def global_norm(gradient: PyTree) -> tuple[Array, Array]:
    """Return the norm ‖g‖ as (n, u) with ‖g‖ = n / u; n is finite for every finite g.

    u is 1, unless the sum of squares overflows float32.
    """
    norm = optax.tree.norm(gradient)
    in_small_units = optax.tree.norm(jax.tree.map(lambda x: x * jnp.asarray(SMALL_UNIT, x.dtype), gradient))
    overflows = jnp.isinf(norm)
    one = jnp.ones((), norm.dtype)
    return jnp.where(overflows, in_small_units, norm), jnp.where(overflows, SMALL_UNIT * one, one)


def clip_by_global_norm(max_norm: Array | float) -> optax.GradientTransformation:
    """Return the clip g ← g · min(1, max_norm / ‖g‖), which is right for every finite g.

    Unlike optax's, it does not return zeros if ‖g‖² overflows. Pascanu et al. (2013), arXiv:1211.5063.

    Args:
        max_norm: bound of the norm, []; infinity: off.
    """

    def update(updates: PyTree, state: OptState, params: Params | None = None) -> tuple[PyTree, OptState]:
        norm, unit = global_norm(updates)

        def clip(x: Array) -> Array:
            return jnp.where(norm < max_norm * unit, x, (x * unit / norm) * max_norm)

        return jax.tree.map(clip, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@cache
def vector_optimizer(make: MakeOptimizer = adam) -> Optimizer:
    """Return an optimizer that treats all parameters as one vector.

    It is the default: a dozen small arrays would take a dozen times as many small operations. It suits transformations
    that treat all parameters the same way.
    """

    def init(h: Hyperparams, params: Params) -> OptState:
        return make(h).init(ravel_pytree(params)[0])

    def step(h: Hyperparams, gradient: Array, opt_state: OptState, params: Array, unravel: Callable) -> tuple:
        updates, opt_state = _updates(make(h), gradient, opt_state, params)
        return params + updates, opt_state

    return Optimizer(init, step)


def tree_optimizer(make: MakeOptimizer) -> Optimizer:
    """Return an optimizer that sees the parameter tree: for masks, frozen layers, or a learning rate per layer."""

    def init(h: Hyperparams, params: Params) -> OptState:
        return make(h).init(params)

    def step(h: Hyperparams, gradient: Array, opt_state: OptState, params: Array, unravel: Callable) -> tuple:
        moved, opt_state = gradient_step(make(h), unravel(gradient), opt_state, unravel(params))
        return ravel_pytree(moved)[0], opt_state

    return Optimizer(init, step)


def make_optimizer(make: MakeOptimizer | None, params: Params) -> Optimizer:
    """Return the default optimizer, or the user's, after checking by shapes that it fits the parameters.

    Args:
        make: the argument `optimizer` of `make_ppo`; None for Adam.
        params: shapes and dtypes of the parameters.

    Raises:
        ValueError: `make` does not return an optax transformation, its updates or its state change in structure, shape
            or dtype, or a step with finite gradients gives NaN or infinity.
    """
    if make is None:
        return vector_optimizer()
    h = jax.eval_shape(lambda: jax.tree.map(jnp.float32, Hyperparams()))

    def one_step(h: Hyperparams, params: Params) -> tuple:
        transformation = make(h)
        if not (hasattr(transformation, "init") and hasattr(transformation, "update")):
            kind = type(transformation).__name__
            raise ValueError(f"optimizer: expected (hyperparams) -> optax.GradientTransformation, got {kind}")
        before = transformation.init(params)
        updates, after = _updates(transformation, params, before, params)
        return before, updates, after

    before, updates, after = jax.eval_shape(one_step, h, params)
    for name, expected, found in (("updates", params, updates), ("state", before, after)):
        if _signature(expected) != _signature(found):
            raise ValueError(
                f"optimizer: its {name} must keep structure, shapes and dtypes; expected {_signature(expected)}, "
                f"got {_signature(found)}"
            )
    _check_first_step(make, params)
    return tree_optimizer(make)


def _check_first_step(make: MakeOptimizer, params: Params) -> None:
    """Take one step with random parameters and gradients; while tracing nothing is known.

    The step is taken with both settings of `sample_hyperparams`, because an optimizer may rely on a limit that its
    user sets.

    Raises:
        ValueError: with both, parameters become NaN or infinite, or numbers of the state NaN.
    """
    if is_tracing():
        return
    rng = np.random.default_rng(0)

    def normal(x: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.standard_normal(x.shape, np.float32).astype(x.dtype)

    @jit_once
    def is_sound(h: Hyperparams, params: Params, gradient: PyTree) -> Array:
        transformation = make(h)
        after, state = gradient_step(transformation, gradient, transformation.init(params), params)
        return all_finite(after) & ~any_nan(state)

    inputs = (jax.tree.map(normal, params), jax.tree.map(normal, params))
    with jax.debug_nans(False), jax.debug_infs(False):
        sound = [is_sound(h, *inputs) for h in sample_hyperparams()]
    if not any(isinstance(x, Tracer) or x for x in sound):
        raise ValueError(
            "optimizer: expected finite parameters after a step with finite gradients, got NaN or infinity"
        )


def gradient_step(
    transformation: optax.GradientTransformation, gradient: PyTree, opt_state: OptState, params: Params
) -> tuple[Params, OptState]:
    """Return the parameters and the state of an optimizer of optax after one step, under any promotion mode of JAX.

    Args:
        transformation: the optimizer.
        gradient: of the structure of `params`.
        opt_state: its state.
        params: the parameters.
    """
    updates, opt_state = _updates(transformation, gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _updates(
    transformation: optax.GradientTransformation, gradient: PyTree, opt_state: OptState, params: Params
) -> tuple:
    # optax raises a traced decay to an integer power, and muon adds ranks; the strict modes of the user forbid both.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return transformation.update(gradient, opt_state, params)


def _signature(tree: PyTree) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return str(structure), [(x.shape, str(x.dtype)) for x in leaves]
