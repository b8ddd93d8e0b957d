"""Keep the observations that precede resets: those of all steps, or only those of truncated steps.

The value V(s'_t) of the state after step t is that of `final_obs` only if the episode was truncated at t: otherwise the
next row of the rollout holds the same observation, or the value is not used. If truncations of one environment are at
least g steps apart, a rollout of T steps has at most K = ⌈T / g⌉ of them, and K slots for each environment replace the
T observations. Axes: T time, N environments, K slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import Carry, Observation, PyTree
from purejaxppo._util.trees import nonfinite
from purejaxppo.batching.samples import Transition
from purejaxppo.devices.memory import tree_bytes

SMALL = 2**24  # bytes of all final observations of a rollout up to which they are kept whole: slots would save little


class Slots(NamedTuple):
    """The final observations of truncated steps, in place of all: the field `final_obs` of a rollout."""

    obs: Observation  # [N, K, ...], in the order of the truncations of each environment; unused slots hold others
    nonfinite: Array  # [T, N] bool, the final observation of this step, truncated or not, had a NaN or infinity


def num_slots(obs: Observation, num_steps: int, gap: int) -> int:
    """Return the number of slots K, or 0 if the final observations of all steps are to be kept.

    Args:
        obs: leaves [N, ...].
        num_steps: T.
        gap: least number of steps g between two truncations of an environment.
    """
    count = -(-num_steps // gap)
    return count if count < num_steps and num_steps * tree_bytes(obs) > SMALL else 0


def truncated_only(rollout: Transition) -> Array:
    """Return which steps were truncated and not terminated, bool [T, N]."""
    return rollout.truncated & ~rollout.terminated


# In the rollout ------------------------------------------------------------------------------------------------------


def start(obs: Observation, count: int) -> tuple[Array, Observation]:
    """Return the scan carry before a rollout: the number of truncations [N], and the slots [N, K, ...].

    Args:
        obs: observations to fill the slots with, leaves [N, ...].
        count: K.
    """

    def repeat(x: Array) -> Array:
        return jnp.broadcast_to(x[:, None], (x.shape[0], count, *x.shape[1:]))

    return jnp.zeros(jax.tree.leaves(obs)[0].shape[0], jnp.int32), jax.tree.map(repeat, obs)


def put(kept: tuple[Array, Observation], row: Transition) -> tuple[Array, Observation]:
    """Return the carry of `start` with the final observations of the environments that were truncated.

    The k-th truncation of an environment goes into slot k. Truncations beyond K are counted and not kept.

    Args:
        kept: of `start`.
        row: one step, leaves [N, ...].
    """
    used, slots = kept
    cut = truncated_only(row)

    def write(slot: Array, x: Array) -> Array:
        number = jnp.arange(slot.shape[1], dtype=jnp.int32)
        here = cut[:, None] & (number[None] == used[:, None])
        return jnp.where(here.reshape(*here.shape, *[1] * (x.ndim - 1)), x[:, None], slot)

    return used + cut.astype(jnp.int32), jax.tree.map(write, slots, row.final_obs)


def in_slots(step: Callable[..., tuple[Carry, Transition]]) -> Callable[..., tuple[PyTree, Transition]]:
    """Return a step of a scan that keeps the final observations in its carry.

    Args:
        step: (carry, inputs) -> (carry, row), with leaves [N, ...].

    Returns:
        ((carry, kept), inputs) -> ((carry, kept), row), where `row.final_obs` says for each environment whether its
        final observation had a NaN or infinity, [N].
    """

    def step_and_keep(carry: tuple, inputs: PyTree) -> tuple[tuple, Transition]:
        carry, kept = carry
        carry, row = step(carry, inputs)
        return (carry, put(kept, row)), row._replace(final_obs=nonfinite(row.final_obs, row.reward.shape))

    return step_and_keep


# After the rollout ---------------------------------------------------------------------------------------------------


def steps_at(rollout: Transition, t: Array) -> Transition:
    """Return step t of each environment, leaves [N, ...]; of slots, `final_obs` is right only where it was truncated.

    Args:
        rollout: leaves [T, N, ...].
        t: number of the step, int32 [N].
    """

    def select(tree: PyTree, index: Array, axis: int) -> PyTree:
        return jax.tree.map(lambda x: jax.vmap(lambda x, i: x[i], (axis, 0))(x, index), tree)

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
