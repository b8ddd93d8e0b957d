"""Keep the observations that precede resets: those of all steps, or only those of truncated steps.

The value V(s'_t) of the state after step t is that of `final_obs` only if the episode was truncated at t: otherwise the
next row of the rollout holds the same observation, or the value is not used. If truncations of one environment are at
least g steps apart, a rollout of T steps has at most K = ⌈T / g⌉ of them, and K slots for each environment replace the
T observations. Axes: T time, N environments, K slots.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import Carry, Observation, PyTree
from purejaxppo._util.trees import nonfinite
from purejaxppo.batching.samples import Transition
from purejaxppo.devices.memory import tree_bytes

SMALL = 2**24  # bytes of all final observations of a rollout up to which they are kept whole: slots would save little
SPARSE = 8  # least steps to a slot if there are several: each step rewrites all K, and more slots save less memory


class Slots(NamedTuple):
    """The final observations of truncated steps, in place of all: the field `final_obs` of a rollout."""

    obs: Observation  # [N, K, ...], in the order of the truncations of each environment; unused slots hold others
    nonfinite: Array  # [T, N] bool, the final observation of this step, truncated or not, had a NaN or infinity


def num_slots(obs: Observation, num_steps: int, gap: int) -> int:
    """Return the number of slots K, or 0 if the final observations of all steps are to be kept.

    A single slot always pays; of several, a rollout has at most T / 8.

    Args:
        obs: leaves [N, ...].
        num_steps: T.
        gap: least number of steps g between two truncations of an environment.
    """
    count = -(-num_steps // gap)
    sparse = count < num_steps and count <= max(1, num_steps // SPARSE)
    return count if sparse and num_steps * tree_bytes(obs) > SMALL else 0


def truncated_only(rollout: Transition) -> Array:
    """Return which steps were truncated and not terminated, bool [T, N]."""
    return rollout.truncated & ~rollout.terminated


# In the rollout ------------------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """The carry of the scan over a rollout."""

    used: Array  # [N] int32, truncations up to now
    obs: Observation  # [N, K, ...]; see `Slots`


class Row(NamedTuple):
    """One step of the scan, whose final observations are in the carry."""

    transition: Transition  # leaves [N, ...]; `final_obs` is ()
    nonfinite: Array  # [N] bool, the final observation had a NaN or infinity


def start(obs: Observation, count: int) -> Kept:
    """Return the carry before a rollout.

    Args:
        obs: observations to fill the slots with, leaves [N, ...].
        count: K.
    """

    def repeat(x: Array) -> Array:
        return jnp.broadcast_to(x[:, None], (x.shape[0], count, *x.shape[1:]))

    return Kept(jnp.zeros(jax.tree.leaves(obs)[0].shape[0], jnp.int32), jax.tree.map(repeat, obs))


def put(kept: Kept, row: Transition) -> Kept:
    """Return the carry with the final observations of the environments that were truncated.

    The k-th truncation of an environment goes into slot k. Truncations beyond K are counted and not kept.

    Args:
        kept: the carry before the step.
        row: the step, leaves [N, ...].
    """
    cut = truncated_only(row)

    def write(slot: Array, x: Array) -> Array:
        number = jnp.arange(slot.shape[1], dtype=jnp.int32)
        here = cut[:, None] & (number[None] == kept.used[:, None])
        return jnp.where(here.reshape(*here.shape, *[1] * (x.ndim - 1)), x[:, None], slot)

    return Kept(kept.used + cut.astype(jnp.int32), jax.tree.map(write, kept.obs, row.final_obs))


def in_slots(step: Callable[..., tuple[Carry, Transition]]) -> Callable[..., tuple[tuple[Carry, Kept], Row]]:
    """Return a step of a scan that keeps the final observations in its carry.

    Args:
        step: (carry, inputs) -> (carry, row), with leaves [N, ...].

    Returns:
        ((carry, kept), inputs) -> ((carry, kept), Row).
    """

    def step_and_keep(both: tuple[Carry, Kept], inputs: PyTree) -> tuple[tuple[Carry, Kept], Row]:
        carry, kept = both
        carry, row = step(carry, inputs)
        flags = nonfinite(row.final_obs, row.reward.shape)
        return (carry, put(kept, row)), Row(row._replace(final_obs=()), flags)

    return step_and_keep


def with_slots(kept: Kept, rows: Row) -> Transition:
    """Return the rollout, leaves [T, N, ...], from the last carry and the rows of all steps; `final_obs` is `Slots`."""
    return rows.transition._replace(final_obs=Slots(kept.obs, rows.nonfinite))


# After the rollout ---------------------------------------------------------------------------------------------------


def steps_at(rollout: Transition, t: Array) -> Transition:
    """Return step t of each environment, leaves [N, ...]; of slots, `final_obs` is right only where it was truncated.

    Args:
        rollout: leaves [T, N, ...].
        t: number of the step, int32 [N].
    """

    def select(tree: PyTree, index: Array, axis: int) -> PyTree:
        at = partial(jax.lax.dynamic_index_in_dim, keepdims=False)
        return jax.tree.map(lambda x: jax.vmap(at, (axis, 0))(x, index), tree)

    if not isinstance(rollout.final_obs, Slots):
        return select(rollout, t, 1)
    before = jnp.arange(rollout.reward.shape[0])[:, None] < t[None]
    slot = jnp.sum(before & truncated_only(rollout), axis=0, dtype=jnp.int32)
    row = select(rollout._replace(final_obs=()), t, 1)
    return row._replace(final_obs=select(rollout.final_obs.obs, slot, 0))


def nonfinite_steps(rollout: Transition) -> Array:
    """Return which steps led to an observation with a NaN or infinity, bool [T, N]."""
    final = rollout.final_obs
    return final.nonfinite if isinstance(final, Slots) else nonfinite(final, rollout.reward.shape)


def count_lost(rollout: Transition) -> Array:
    """Return the number of truncations that had no slot, float32 []; 0 if the environment keeps its promise."""
    if not isinstance(rollout.final_obs, Slots):
        return jnp.float32(0.0)
    count = jax.tree.leaves(rollout.final_obs.obs)[0].shape[1]
    truncations = jnp.sum(truncated_only(rollout), axis=0, dtype=jnp.int32)
    return jnp.maximum(truncations - count, 0).sum(dtype=jnp.float32)
