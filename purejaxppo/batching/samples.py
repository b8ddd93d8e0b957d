"""The samples of an iteration: transitions as the rollout stores them, and the batch that the epochs read."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from purejaxppo._util.aliases import Action, Distribution, Observation, RnnState
from purejaxppo.batching.burn_in import BurnInSteps


class Transition(NamedTuple):
    """One step of every environment; a rollout has leaves [T, N, ...]."""

    obs: Observation
    action: Action
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: Observation  # after the action, before any reset; `Slots` if only those of truncated steps are kept
    distribution: Distribution  # π_old(·|s_t)
    rnn_state: RnnState  # before the step
    is_first: Array
    quarantined: Array | tuple[()] = ()  # bool, the environment returned NaN or Inf and was reset; see TimeStep
    info: dict[str, Array] | tuple[()] = ()  # further quantities that the environment reports; see TimeStep


class Batch(NamedTuple):
    """Training data of the epochs: M sequences of L steps, leaves [L, M, ...]."""

    obs: Observation  # normalized
    is_first: Array
    rnn_state: RnnState  # [1, M, ...] before the first step
    action: Action
    distribution: Distribution  # π_old(·|s_t)
    log_prob: Array  # log π_old(a_t|s_t)
    value: Array  # V(s_t) before the update, or before the epoch if advantages are recomputed; center of (11)
    advantage: Array  # not normalized
    target: Array  # of the value function
    excluded: Array | tuple[()] = ()  # bool, without effect on the policy: quarantined, or cut with truncation "mask"
    burn_in: BurnInSteps | tuple[()] = ()  # the steps before each sequence, if there is a burn-in
    next_obs: Observation = ()  # normalized, after the action and before any reset; for an auxiliary loss only
    quarantined: Array | tuple[()] = ()  # bool, without effect on policy and values
