"""Divide a rollout into training sequences."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def to_sequences(x: Array, length: int, num_devices: int = 1) -> Array:
    """Divide [T, N, ...] into sequences [L, T / L * N, ...]; each column is a stretch of one environment.

    Columns are ordered by device, then by time, then by environment, so every device holds the sequences of its own
    environments. Time is split before it is moved: a single reshape would mix environments.

    Args:
        x: leaves of a rollout, [T, N, ...].
        length: L, a divisor of T.
        num_devices: a divisor of N.
    """
    num_steps, num_envs, *rest = x.shape
    x = x.reshape(num_steps // length, length, num_devices, num_envs // num_devices, *rest)
    return jnp.moveaxis(x, 0, 2).reshape(length, -1, *rest)
