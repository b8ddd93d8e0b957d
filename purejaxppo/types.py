"""What a run is made of: its parts, its state, a rollout, and what the epochs read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from purejaxppo.batching.burn_in import LeadingSteps
from purejaxppo.batching.microbatches import Partition
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.functional.episode_stats import EpisodeStats
from purejaxppo.functional.kl_control import Control
from purejaxppo.functional.running_stats import RewardScaler, RunningMoments
from purejaxppo.metrics import Metrics
from purejaxppo.networks.protocol import Network

Array = jax.Array


class TrainState(NamedTuple):
    """Everything a run is: with it and the hyperparameters the rest of the run is determined."""

    params: Any
    opt_state: Any
    env_state: Any  # [N, ...]
    obs: Any  # [N, ...] what to act on next, as the environment gave it
    rnn_state: Any  # [N, ...] the network's memory before `obs`; () for feed-forward networks
    is_first: Array  # [N] `obs` is the first of an episode
    obs_moments: RunningMoments  # moved at the end of an iteration only
    reward_scaler: RewardScaler
    control: Control
    last_residual: Array  # of the diagnostics: mean TD residual of the rollout before, by the V fitted to it; else NaN
    episodes: EpisodeStats  # [N] of the running episodes
    key: Array
    num_updates: Array  # int32; one update is num_envs * num_steps timesteps


class Transition(NamedTuple):
    """A rollout, leaves [T, N, ...]."""

    obs: Any
    action: Any
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: Any  # what the action led to, before any reset
    distribution: Any  # π_old(·|s_t)
    rnn_state: Any  # before the step
    is_first: Array


class Batch(NamedTuple):
    """What the epochs read: sequences, leaves [L, M, ...]; the carry is that of the first step, [1, M, ...]."""

    obs: Any
    is_first: Array
    rnn_state: Any
    action: Any
    distribution: Any
    log_prob: Array
    value: Array
    advantage: Array
    target: Array
    burn_in: LeadingSteps | tuple[()] = ()  # the steps before, where there is a burn-in


class Parts(NamedTuple):
    """What `make_ppo` was given, names resolved to functions."""

    env: VecEnv
    network: Network
    config: Config
    objective: Callable[..., Array]  # (ratio, advantage, kl, hyperparams) -> per-sample surrogate, maximised
    target_fn: Callable[..., tuple[Array, Array]]
    shuffle: Callable[[Array, int], Array]  # (key, size) -> order
    normalized: tuple[bool, ...]  # which leaves of an observation are normalised
    cut: Partition  # of the work, into parts and among devices


class Algorithm(NamedTuple):
    """A pair of pure functions, and what they were made of."""

    init: Callable[[Array, Hyperparams], TrainState]
    update: Callable[[TrainState, Hyperparams], tuple[TrainState, Metrics]]
    env: Env
    network: Network
    config: Config
    num_devices: int = 1  # that `update` runs on
    alone: Callable[..., Any] | None = None  # `update` on one device, for when the others have runs of their own
