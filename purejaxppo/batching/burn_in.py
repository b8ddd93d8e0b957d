"""Burn-in: the memory a sequence starts from, refreshed with today's parameters (Kapturowski et al. 2019, R2D2).

The carry stored in the rollout is that of π_old. After some minibatches it is stale: the network would be trained on
memories that it no longer makes. With a burn-in of b steps the b steps before each sequence are read again first,
without a gradient; the sequence then starts from where they lead. At unchanged parameters this changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class LeadingSteps(NamedTuple):
    """The b steps before each of M sequences."""

    known: Array  # [1, M] bool; the first sequence of a rollout has none before it in the same rollout
    rnn_state: Any  # [1, M, ...] stored before the first of the steps
    obs: Any  # [b, M, ...]
    is_first: Array  # [b, M]


def burn_in_steps(sequences: Any, num_envs: int, steps: int, num_devices: int = 1) -> LeadingSteps | tuple[()]:
    """The lead-ins of all sequences (fields carry, obs, reset, leaves [L, M, ...]), 1 <= steps <= L; () for 0 steps.

    As `minibatches.to_sequences` makes them, column c - n holds the stretch of time just before that of column c, n
    being the number of environments of a device, unless c is one of the first n of a device's columns.
    """
    if not steps:
        return ()
    envs = num_envs // num_devices

    def before(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.roll(x[-steps:], envs, axis=1), tree)

    rnn_state, obs, is_first = before((sequences.rnn_state, sequences.obs, sequences.is_first))
    known = jnp.arange(is_first.shape[1])[None] % (is_first.shape[1] // num_devices) >= envs
    return LeadingSteps(known, jax.tree.map(lambda x: x[:1], rnn_state), obs, is_first)


def start_rnn_state(apply: Callable[..., Any], params: Any, stored: Any, lead: LeadingSteps | tuple[()]) -> Any:
    """The carry [M, ...] that sequences start from: `stored` [1, M, ...], or where the lead-in leads, where one is."""
    stored = jax.tree.map(lambda x: x[0], stored)
    if not lead:
        return stored
    # by `params` that take no gradient: the memory is an input of the sequence, as the stored one is
    fresh = apply(jax.lax.stop_gradient(params), jax.tree.map(lambda x: x[0], lead.rnn_state), lead.obs, lead.is_first)[
        0
    ]
    return jax.tree.map(lambda a, b: jnp.where(_like(lead.known[0], a), a, b), fresh, stored)


def _like(known: Array, x: Array) -> Array:
    """[M] -> [M, 1, ...], to be broadcast against x [M, ...]."""
    return known.reshape(-1, *[1] * (x.ndim - 1))
