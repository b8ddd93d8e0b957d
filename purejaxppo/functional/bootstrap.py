"""Values of the states that a time limit cut off, without a second pass over the whole rollout."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

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
