"""Burn-in: refresh the recurrent state at the start of a sequence with the current parameters (R2D2).

The recurrent states stored in a rollout were computed by π_old and become stale as the parameters change. With a
burn-in of b steps, the network first processes the b steps before each sequence without a gradient, and the sequence
starts from the resulting state. At unchanged parameters the burn-in has no effect. Kapturowski et al. (2019),
"Recurrent Experience Replay in Distributed Reinforcement Learning" (R2D2), ICLR.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import Observation, Params, PyTree, RnnState
from purejaxppo._util.trees import drop_time_axis


class BurnInSteps(NamedTuple):
    """The b steps before each of M sequences."""

    available: Array  # [1, M] bool; false for the first sequence of a rollout, which has no steps before it
    rnn_state: RnnState  # [1, M, ...] before the first of the steps
    obs: Observation  # [b, M, ...]
    is_first: Array  # [b, M]


def burn_in_steps(sequences: PyTree, num_envs: int, steps: int, num_devices: int = 1) -> BurnInSteps | tuple[()]:
    """Return the steps before each sequence, as R2D2 replays them (Kapturowski et al. 2019).

    In the layout of `to_sequences`, with n environments per device, column c - n holds the steps just before column c,
    unless c is one of the first n columns of its device.

    Args:
        sequences: fields rnn_state, obs and is_first with leaves [L, M, ...].
        num_envs: N.
        steps: b, at most L; 0 for no burn-in.
        num_devices: devices that the columns are sharded over.

    Returns:
        The steps, or () if `steps` is 0.
    """
    if not steps:
        return ()
    envs = num_envs // num_devices

    def previous(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.roll(x[-steps:], envs, axis=1), tree)

    rnn_state, obs, is_first = previous((sequences.rnn_state, sequences.obs, sequences.is_first))
    available = jnp.arange(is_first.shape[1])[None] % (is_first.shape[1] // num_devices) >= envs
    return BurnInSteps(available, jax.tree.map(lambda x: x[:1], rnn_state), obs, is_first)


def start_rnn_state(
    apply: Callable[..., tuple], params: Params, stored: RnnState, burn_in: BurnInSteps | tuple[()]
) -> RnnState:
    """Return the recurrent state that sequences start from, leaves [M, ...] (R2D2, Kapturowski et al. 2019).

    Args:
        apply: of the network.
        params: current parameters.
        stored: states of the rollout, [1, M, ...]; used as they are without burn-in steps.
        burn_in: of `burn_in_steps`.
    """
    stored = drop_time_axis(stored)
    if not burn_in:
        return stored
    # Without a gradient: the recurrent state is an input of the sequence, like the stored one.
    params = jax.lax.stop_gradient(params)
    refreshed = apply(params, drop_time_axis(burn_in.rnn_state), burn_in.obs, burn_in.is_first)[0]

    def choose(refreshed: Array, stored: Array) -> Array:
        available = burn_in.available[0].reshape(-1, *[1] * (stored.ndim - 1))
        return jnp.where(available, refreshed, stored)

    return jax.tree.map(choose, refreshed, stored)
