"""From a rollout to training sequences."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def to_sequences(x: Array, length: int, num_devices: int = 1) -> Array:
    """[T, N, ...] -> [length, T / length * N, ...]: each column is a stretch of one environment's time.

    Columns go through the environments of a device, then through time, then through the devices, which so have equal
    runs of columns and nothing to exchange. Time is cut before it is moved; a single reshape would mix environments.
    """
    num_steps, num_envs, *rest = x.shape
    x = x.reshape(num_steps // length, length, num_devices, num_envs // num_devices, *rest)
    return jnp.moveaxis(x, 0, 2).reshape(length, -1, *rest)
