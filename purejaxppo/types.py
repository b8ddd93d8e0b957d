"""State, rollout, batch and algorithm: the types that the page passes around, with their shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from purejaxppo._util.aliases import (
    Action,
    Distribution,
    EnvState,
    Observation,
    OptState,
    Params,
    PRNGKey,
    RnnState,
)
from purejaxppo.batching.burn_in import BurnInSteps
from purejaxppo.batching.plan import Plan
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.functional.episode_stats import EpisodeStats
from purejaxppo.functional.kl_control import Control
from purejaxppo.functional.running_stats import RewardScaler, RunningMoments
from purejaxppo.hooks import AuxiliaryLoss, IntrinsicReward, MetricsFn
from purejaxppo.metrics import Metrics
from purejaxppo.networks.protocol import Network
from purejaxppo.optimizer import Optimizer


class TrainState(NamedTuple):
    """The whole state of a run: together with the hyperparameters it determines the rest of the run."""

    params: Params
    opt_state: OptState
    env_state: EnvState  # [N, ...]
    obs: Observation  # [N, ...] to act on next, not normalized
    rnn_state: RnnState  # [N, ...] before `obs`; () for feed-forward networks
    is_first: Array  # [N] bool, `obs` is the first of an episode
    obs_moments: RunningMoments  # updated at the end of an iteration only
    reward_scaler: RewardScaler
    control: Control
    last_residual: Array  # [] of the diagnostics: mean TD residual of the last rollout under the values fitted to it
    episodes: EpisodeStats  # [N] of the unfinished episodes
    key: PRNGKey
    num_updates: Array  # [] int32; one update is num_envs * num_steps timesteps
    intrinsic: Any = ()  # state of the intrinsic reward, if there is one


PER_ENV_FIELDS = ("env_state", "obs", "rnn_state", "is_first", "reward_scaler", "episodes")  # leaves [N, ...]


class Transition(NamedTuple):
    """One step of every environment; a rollout has leaves [T, N, ...]."""

    obs: Observation
    action: Action
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: Observation  # after the action, before any reset
    distribution: Distribution  # π_old(·|s_t)
    rnn_state: RnnState  # before the step
    is_first: Array


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
    excluded: Array | tuple[()] = ()  # bool, without effect on the policy; for truncation "mask" only
    burn_in: BurnInSteps | tuple[()] = ()  # the steps before each sequence, if there is a burn-in
    next_obs: Observation = ()  # normalized, after the action and before any reset; for an auxiliary loss only


class Components(NamedTuple):
    """The arguments of `make_ppo`, with names resolved to functions. Static."""

    env: VecEnv
    network: Network
    config: Config
    objective: Callable[..., Array]  # (ratio, advantage, kl, hyperparams) -> surrogate per sample, to be maximized
    target_fn: Callable[..., tuple[Array, Array]]  # see `purejaxppo.functional.bindings.TargetFn`
    shuffle: Callable[[PRNGKey, int], Array]  # (key, size) -> permutation of 0..size-1, int32 [size]
    normalized: tuple[bool | tuple[bool, ...], ...]  # for each leaf of an observation: is it normalized?
    optimizer: Optimizer
    auxiliary_loss: AuxiliaryLoss
    intrinsic: IntrinsicReward | None
    metrics_fn: MetricsFn
    plan: Plan


class Algorithm(NamedTuple):
    """A pair of pure functions, and the objects they were made from."""

    init: Callable[[PRNGKey, Hyperparams], TrainState]
    update: Callable[[TrainState, Hyperparams], tuple[TrainState, Metrics]]
    env: Env
    network: Network
    config: Config
    components: Components
